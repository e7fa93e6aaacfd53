"""Step sizes over cycles, and when draws are taken."""

from __future__ import annotations

import math

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int


class Schedule(eqx.Module):
    """What changes from step to step, arrays (K,).

    Args:
        rates: the step size, as a share of the largest.
        noisy: whether noise is added (the sampling stage of a cycle).
        rows: where the parameters after this step are kept; one row beyond the draws
            where they are not.
    """

    rates: Float[np.ndarray, " K"]
    noisy: Bool[np.ndarray, " K"]
    rows: Int[np.ndarray, " K"]


def cyclical(steps: int, cycles: int, samples: int, exploration: float) -> Schedule:
    r"""The cosine cycles of Zhang et al.

    Step k of a cycle of L steps (k = 0, 1, …) has the rate
    $\tfrac12 (\cos(\pi k / L) + 1)$. The first `exploration` L steps have no noise:
    they look for a mode. Draws are spread evenly over the rest; the last one ends the
    cycle.

    Args:
        steps: of all cycles.
        cycles: their number, which divides `steps`.
        samples: draws of a cycle.
        exploration: share of a cycle without noise.

    Raises:
        ValueError: where `cycles` does not divide `steps`, or a cycle has fewer
            sampling steps than draws.

    References: Zhang, Li, Zhang, Chen, Wilson 2020 (arXiv 1902.03932), eq. 1 and
    algorithm 1.

    >>> one = cyclical(4, 1, 2, exploration=0.5)
    >>> one.rates.round(2).tolist(), one.noisy.tolist(), one.rows.tolist()
    ([1.0, 0.85, 0.5, 0.15], [False, False, True, True], [2, 2, 0, 1])
    """
    if steps % cycles:
        raise ValueError(
            f"SGMCMC: expected steps that cycles={cycles} divides, got steps={steps}: "
            f"take {steps - steps % cycles} or {steps - steps % cycles + cycles}"
        )
    length = steps // cycles
    first = math.ceil(exploration * length)
    room = length - first
    if room < samples:
        raise ValueError(
            f"SGMCMC: expected at least samples={samples} sampling steps in a cycle, "
            f"got {room} of {length}: take more steps, fewer cycles or samples, or "
            "less exploration"
        )
    at = np.arange(length)
    taken = first + (np.arange(1, samples + 1) * room) // samples - 1
    rows = np.full((cycles, length), cycles * samples)
    rows[:, taken] = np.arange(cycles * samples).reshape(cycles, samples)
    rates = 0.5 * (np.cos(np.pi * at / length) + 1.0)
    return Schedule(
        np.tile(rates, cycles), np.tile(at >= first, cycles), rows.reshape(-1)
    )
