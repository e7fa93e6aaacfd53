"""Curves of a method, and the numbers that summarize them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkuq.calibration.ends import central
from ntkuq.calibration.records import finite
from ntkuq.calibration.selective import selective
from ntkuq.calibration.spread import spread_curve, width_curve
from ntkuq.data import Dataset
from ntkuq.posteriors import Predictive


#: Level of the widths.
LEVEL = 0.9


def curves(
    p: Predictive, test: Dataset
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Curves by name, scores by name, and what was left out with the reason."""
    found: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    omitted: dict[str, str] = {}
    try:
        kept = selective(p, test.y)
    except (ValueError, TypeError, NotImplementedError) as error:
        omitted["selective"] = " ".join(str(error).split())
    else:
        found["selective"] = _plain(kept.curve)
        names = ("aurc", "augrc", "excess_aurc")
        scores = {name: getattr(kept, name).to_dict() for name in names}
    if not p.is_classification:
        try:
            found |= _spread(p, test)
        except (ValueError, NotImplementedError) as error:
            omitted["spread"] = omitted["widths"] = " ".join(str(error).split())
    return found, scores, omitted


def _spread(p: Predictive, test: Dataset) -> dict[str, Any]:
    mean = np.asarray(p.mean, np.float64)
    if mean.ndim > 1 and mean[0].size > 1:
        raise ValueError("several outputs have spreads of their own")
    mean = mean.reshape(len(mean))
    y = np.asarray(test.y, np.float64).reshape(mean.shape)
    std = np.sqrt(np.asarray(p.observed.variance, np.float64)).reshape(mean.shape)
    ok = np.isfinite(std) & (std > 0)
    if not ok.all():
        raise ValueError(
            f"the predicted variance is not finite and positive at {int((~ok).sum())} "
            "test points"
        )
    found = {"spread": _plain(spread_curve(std, y - mean))}
    if not p.observed.is_discrete:
        lower, upper = central(p, LEVEL)
        found["widths"] = _plain(width_curve((upper - lower).reshape(-1)))
    return found


def _plain(curve: Mapping[str, np.ndarray]) -> dict[str, list]:
    return {
        name: [finite(float(value)) for value in column]
        for name, column in curve.items()
    }
