"""Claim 13: does the infinite-width GP predict as well as the network's own Laplace?"""

from __future__ import annotations

import dataclasses

import numpy as np

from ntkuq.calibration import Score, paired, score
from ntkuq.calibration.claims import Below, Claim
from ntkuq.data import Dataset
from ntkuq.posteriors import AbstractPosterior


#: A score that is worse by less than this (nats, or a share of the CRPS) is as good.
MARGIN = 0.01
ASKED = (
    Claim(
        "the infinite-width GP predicts no worse than Laplace, by the NLL",
        None,
        Below(MARGIN, MARGIN),
        13,
    ),
    Claim(
        "the infinite-width GP predicts no worse than Laplace, by the CRPS",
        None,
        Below(MARGIN, MARGIN),
        13,
    ),
)


def against_laplace(
    wide: AbstractPosterior, text: str, laplace: AbstractPosterior, test: Dataset
) -> tuple[Claim, ...]:
    """Paired differences of scores at test points, the GP less Laplace.

    Args:
        wide: the GP.
        text: what it is called.
        laplace: of the trained network.
        test: where both predict. Rows of one group are resampled together.
    """
    found = [
        score(one.predict(test.x), test.y, levels=(0.9,)) for one in (wide, laplace)
    ]
    claims = []
    for claim, name in zip(ASKED, ("nll", "crps"), strict=True):
        if any(name not in one.pointwise for one in found):
            reason = f"there is no {name.upper()} of predictions of this kind"
            claims.append(dataclasses.replace(claim, reason=reason))
            continue
        values = [np.asarray(one.pointwise[name], np.float64) for one in found]
        unit = 1.0 if name == "nll" else float(values[1].mean())
        difference = _difference(values[0] / unit, values[1] / unit, test.group)
        what = "nats a point" if name == "nll" else "as a share of Laplace's"
        note = f"{text} less Laplace at {len(test)} test points, {what}"
        claims.append(dataclasses.replace(claim, statistic=difference, note=note))
    return tuple(claims)


def _difference(a: np.ndarray, b: np.ndarray, group: np.ndarray | None) -> Score:
    """The mean of a - b with the interval of `paired`."""
    one = {d.label: d for d in paired({"a": a, "b": b}, group=group)}
    # the difference is told for the one that is not best
    if not one["a"].is_best:
        found, sign = one["a"], 1.0
    else:
        found, sign = one["b"], -1.0
    ends = found.interval
    if ends is not None:
        low, high = sorted(sign * end for end in ends)
        ends = low, high
    return Score(sign * found.value, found.se, found.n, ends)
