"""The bins of a reliability curve, and their test."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkuq.calibration.reliability import ErrorTest, error_test
from ntkuq.report.formats import Number
from ntkuq.report.methods import (
    score_of,
)


def error_test_of(method: Mapping[str, Any], tolerance: Number) -> ErrorTest | None:
    """The test of the calibration error; None where the run has no curve for it."""
    if score_of(method, "ece").get("value") is None:
        return None
    confidence, accuracy, count = reliability_bins(method)
    if not count.size:
        return None
    return error_test(confidence, accuracy, count, float(tolerance))


def reliability_bins(
    method: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and count of the bins that hold a point."""
    curve = (method.get("curves") or {}).get("reliability") or {}
    columns = (curve.get(name, ()) for name in ("confidence", "accuracy", "count"))
    rows = [
        row for row in zip(*columns, strict=True) if None not in row and row[2] >= 1
    ]
    confidence, accuracy, count = np.asarray(rows, dtype=float).reshape(-1, 3).T
    return confidence, accuracy, count
