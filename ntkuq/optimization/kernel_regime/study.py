"""A study: some claims about one network, decided by one kind of computation."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import equinox as eqx
from jaxtyping import Array, PyTree

from ntkuq.calibration import Score
from ntkuq.calibration.claims import Above, Claim
from ntkuq.data import Split
from ntkuq.models import BNN, Train


class Run(NamedTuple):
    """One training: where it began, where it ended, and where it was early on.

    Args:
        initial, final: modules.
        early: the module after a tenth of the planned updates; `None` where it is not
            known.
    """

    initial: PyTree
    final: PyTree
    early: PyTree | None = None


class Setting(NamedTuple):
    """What every study is given.

    Args:
        bnn: the prepared problem (scaling fitted to the training part).
        data: all parts.
        train: how the network is trained; for a pair that was given, nothing is known
            of its training and this is only what was asked for.
        runs: the trainings, one for each seed, or the one pair that was given.
    """

    bnn: BNN
    data: Split
    train: Train
    runs: tuple[Run, ...]

    @property
    def over(self) -> str:
        """What intervals are over: "seeds", or "subsets" of the data for one pair."""
        return "seeds" if len(self.runs) > 1 else "subsets"


class AbstractStudy(eqx.Module):
    """Some claims about one network, decided by one kind of computation.

    A subclass may set `asked`, the claims before anything is known: they are given
    with a reason where the computation fails.

    Args:
        name: what it is called on the command line and in progress.
    """

    name: eqx.AbstractClassVar[str]
    asked: ClassVar[tuple[Claim, ...]] = ()

    @abc.abstractmethod
    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        """The claims, decided; one that does not apply has a reason.

        Args:
            setting: the network, data and trainings.
            key: random key.
        """

    def untested(self, reason: str) -> tuple[Claim, ...]:
        """The claims where the computation could not be done, each with the reason."""
        asked = self.asked or (Claim(f"the study {self.name}", None, Above(0.0, 0.0)),)
        return tuple(
            dataclasses.replace(claim, reason=claim.reason or reason) for claim in asked
        )


#: What a study may fail with, and is then reported as not tested.
FAILURES = (
    ValueError,
    TypeError,
    NotImplementedError,
    FloatingPointError,
    MemoryError,
)


def decide(study: AbstractStudy, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
    """The claims of a study; one that fails says why each is not tested."""
    try:
        return study.claims(setting, key=key)
    except FAILURES as error:
        return study.untested(f"{error}" or type(error).__name__)


def decided(
    claim: Claim,
    statistic: Score | None = None,
    *,
    note: str = "",
    worst: float | None = None,
    reason: str | None = None,
    values: Mapping[str, float] | None = None,
) -> Claim:
    """A claim with what was found, or the reason why nothing was."""
    return dataclasses.replace(
        claim,
        statistic=statistic,
        note=note,
        worst=worst,
        reason=reason,
        values=values or {},
    )


def check_points(study: AbstractStudy, points: int | None) -> None:
    """Raise `ValueError` where a kernel has too few inputs."""
    if points is not None and points < 2:
        raise ValueError(
            f"{type(study).__name__}: expected points >= 2 training inputs, got "
            f"{points}"
        )
