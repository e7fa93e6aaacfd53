"""What methods may cost, and the plan that follows: run or skip, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from ntkuq.data import Dataset
from ntkuq.models import BNN
from ntkuq.posteriors import (
    AbstractMethod,
    DeepEnsemble,
    Estimate,
    Mixture,
    estimate,
)


class Limits(NamedTuple):
    """What one method may cost by its estimate; a method beyond it is skipped.

    Args:
        seconds: time to fit.
        bytes: peak memory; `None` for four fifths of what is free.
    """

    seconds: float = 1800.0
    bytes: float | None = None


def make_plan(
    named: Mapping[str, AbstractMethod], bnn: BNN, data: Dataset, limits: Limits
) -> dict[str, Estimate | str]:
    """An estimate for each method, or why it will not be run."""
    room = 0.8 * _free_memory() if limits.bytes is None else limits.bytes
    plan: dict[str, Estimate | str] = {}
    for name, method in named.items():
        scratch = isinstance(method, DeepEnsemble) or (
            isinstance(method, Mixture) and method.trainer is not None
        )
        if scratch and bnn.network.build is None:
            plan[name] = (
                "trains from scratch and needs a builder (key -> eqx.Module); got a "
                "trained network only"
            )
            continue
        need = estimate(method, bnn, data)
        plan[name] = need
        if need.bytes > room:
            plan[name] = (
                f"would need about {need.bytes / 1e9:.2g} GB of memory, "
                f"{room / 1e9:.2g} GB are allowed: use fewer training rows, a smaller "
                "structure such as KFAC(), or --max-memory"
            )
        elif need.seconds > limits.seconds:
            plan[name] = (
                f"would take about {need.seconds:.3g} s, {limits.seconds:.3g} s are "
                "allowed: use fewer training rows, or --max-time"
            )
    return plan


def _free_memory() -> float:
    """Bytes of memory that are free, where the system tells; else 8 GB."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 8e9
