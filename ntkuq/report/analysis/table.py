"""Single classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntkuq.calibration.classwise import class_table
from ntkuq.data import Dataset
from ntkuq.posteriors import Predictive


#: Classes of which a report lists each.
MOST = 20


def classes(p: Predictive, test: Dataset) -> list[dict[str, Any]] | None:
    """Rows of `class_table` as plain data; `None` for a regression.

    Raises:
        ValueError: for too many classes, or several positions a point.
    """
    if not p.is_classification:
        return None
    probs, codes = np.asarray(p.mean, np.float64), np.asarray(test.y)
    if probs.ndim != 2:
        raise ValueError("several positions a point are not split by class")
    if probs.shape[1] > MOST:
        raise ValueError(f"{probs.shape[1]} classes are too many to list")
    names = test.classes
    rows = class_table(probs, codes.reshape(-1), None if names is None else list(names))
    return [
        row | {"scores": {k: score.to_dict() for k, score in row["scores"].items()}}
        for row in rows
    ]
