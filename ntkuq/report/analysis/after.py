"""What recalibration and conformal prediction change, fitted on the calibrate part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from ntkuq.calibration import score
from ntkuq.calibration.conformal import (
    APS,
    CQR,
    LAC,
    SplitConformal,
    region_scores,
)
from ntkuq.calibration.overlap import OverlapWarning
from ntkuq.calibration.recalibrate import (
    BetaCalibration,
    IsotonicCalibration,
    IsotonicRecalibration,
    ScaleCalibration,
    TemperatureScaling,
    VectorScaling,
)
from ntkuq.data import Dataset, Split
from ntkuq.models import constructor
from ntkuq.posteriors import Predictive


#: Kept probability of the regions.
LEVEL = 0.9
#: Scores that a report keeps.
KEPT = (
    "nll",
    "crps",
    "rmse",
    "coverage_90",
    "width_90",
    "calibration_error",
    "brier",
    "accuracy",
    "ece",
)


def after(
    predict: Callable[[PyTree], Predictive], p: Predictive, data: Split
) -> list[dict[str, Any]] | None:
    """One entry a repair: its name, constructor, and scores on the test part.

    A repair that does not apply has the reason in place of its scores. `None` without
    a calibrate part.
    """
    if data.calibrate is None:
        return None
    before = predict(data.calibrate.x)
    with warnings.catch_warnings():
        # rows that are in both parts are in the remarks on the data
        warnings.simplefilter("ignore", OverlapWarning)
        repairs, regions = _repairs(p), _regions(p)
        return [
            *(
                _recalibrated(name, one, before, p, data.calibrate, data.test)
                for name, one in repairs.items()
            ),
            *(
                _conformal(name, one, before, p, data.calibrate, data.test)
                for name, one in regions.items()
            ),
        ]


def _repairs(p: Predictive) -> Mapping[str, Any]:
    if not p.is_classification:
        if p.observed.is_discrete:
            return {}
        return {
            "σ-scaling": ScaleCalibration(),
            "isotonic recalibration": IsotonicRecalibration(),
        }
    found: dict[str, Any] = {
        "temperature": TemperatureScaling(),
        "vector scaling": VectorScaling(),
    }
    if np.asarray(p.mean).shape[-1] == 2:
        found["beta calibration"] = BetaCalibration()
    return found | {"isotonic calibration": IsotonicCalibration()}


def _regions(p: Predictive) -> Mapping[str, Any]:
    if p.is_classification:
        return {"conformal sets (LAC)": LAC(LEVEL), "conformal sets (APS)": APS(LEVEL)}
    return {
        "split conformal": SplitConformal(LEVEL),
        "conformalized quantiles": CQR(LEVEL),
    }


def _recalibrated(
    name: str,
    repair: Any,
    before: Predictive,
    p: Predictive,
    calibrate: Dataset,
    test: Dataset,
) -> dict[str, Any]:
    entry = _entry(name, repair, "recalibration")
    try:
        fitted = repair.fit(before, calibrate.y)
        scores = score(fitted.predict(p), test.y, levels=(LEVEL,)).to_dict()["scores"]
    except (ValueError, TypeError, NotImplementedError) as error:
        return entry | {"reason": " ".join(str(error).split())}
    kept = {key: scores[key] for key in KEPT if key in scores}
    return entry | {"scores": kept}


def _conformal(
    name: str,
    method: Any,
    before: Predictive,
    p: Predictive,
    calibrate: Dataset,
    test: Dataset,
) -> dict[str, Any]:
    entry = _entry(name, method, "conformal")
    try:
        region = method.fit(before, calibrate.y).region(p)
        found = region_scores(region, test.y, level=LEVEL)
    except (ValueError, TypeError, NotImplementedError) as error:
        return entry | {"reason": " ".join(str(error).split())}
    names = {"coverage": "coverage_90", "width": "width_90", "size": "size_90"}
    kept = {new: found[old].to_dict() for old, new in names.items() if old in found}
    return entry | {"scores": kept}


def _entry(name: str, repair: Any, kind: str) -> dict[str, Any]:
    text = constructor(repair)
    return {"name": name, "text": text, "kind": kind, "scores": None, "reason": None}
