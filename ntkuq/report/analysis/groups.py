"""Where a method fails: by group, in the worst slab, and point by point."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ntkuq.calibration.ends import central
from ntkuq.calibration.groups import (
    Groups,
    GroupTable,
    confident_errors,
    coverage_by_group,
    distance_to_training,
    quantile_groups,
    reliability_by_group,
    worst_slab,
)
from ntkuq.data import Dataset, Split
from ntkuq.posteriors import Predictive


#: Level of the intervals, smallest share of the points in a slab, groups of a number.
LEVEL, SHARE, BINS = 0.9, 0.1, 5
#: Confident errors that are kept.
ERRORS = 10
#: Most training rows among which the nearest are looked for.
NEIGHBORS = 10_000
#: Groups of a column of groups that are kept, those with the most points.
MOST = 40


def groups(p: Predictive, data: Split) -> list[dict[str, Any]]:
    """Coverage (or accuracy and confidence) by group, a table for each grouping.

    By the column of groups where there is one, by predicted value and width, or
    confidence, and by distance to the training inputs where they are one array.
    """
    mean = np.asarray(p.mean, np.float64)
    if not p.is_classification and mean.ndim > 1 and mean[0].size > 1:
        raise ValueError("several outputs are not grouped")
    if p.is_classification and mean.ndim != 2:
        raise ValueError("several positions a point are not grouped")
    groupings: dict[str, Groups | np.ndarray] = {}
    if data.test.group is not None:
        names = data.test.groups
        labels = (
            data.test.group if names is None else np.asarray(names)[data.test.group]
        )
        groupings["group"] = _largest(labels)
    if p.is_classification:
        groupings["confidence"] = quantile_groups(mean.max(axis=1), bins=BINS)
        # the classes that are predicted, since the outcome is not known beforehand
        groupings["predicted class"] = _predicted(mean, data.test)
    else:
        lower, upper = (end.reshape(-1) for end in central(p, LEVEL))
        groupings["predicted mean"] = quantile_groups(mean.reshape(-1), bins=BINS)
        if np.ptp(upper - lower) > 1e-5 * np.max(upper - lower):
            groupings["predicted width"] = quantile_groups(upper - lower, bins=BINS)
    if _is_array(data.test.x) and _is_array(data.train.x):
        # every so many rows: the neighbors of many rows take long in many features
        step = -(-len(data.train) // NEIGHBORS)
        away = distance_to_training(data.test.x, np.asarray(data.train.x)[::step])
        groupings["distance to training data"] = quantile_groups(away, bins=BINS)
    return [_entry(p, data.test, by, group) for by, group in groupings.items()]


def slab(p: Predictive, data: Split) -> dict[str, Any] | None:
    """Coverage in the worst slab of the inputs; `None` for classes."""
    if p.is_classification:
        return None
    if not _is_array(data.test.x):
        raise ValueError("the inputs are no single array")
    found = worst_slab(
        p,
        data.test.y,
        data.test.x,
        level=LEVEL,
        share=SHARE,
        key=jax.random.key(0),
    )
    return found.coverage.to_dict() | {"share": SHARE}


def confident(p: Predictive, test: Dataset) -> list[dict[str, Any]]:
    """The most confident errors with their rows."""
    table = confident_errors(p, test.y, ERRORS)
    if "output" in table:
        raise ValueError("errors of several outputs are not listed")
    if not p.is_classification:
        columns = (table["row"], table["observed"], table["mean"], np.abs(table["z"]))
        return [
            {
                "row": int(row),
                "observed": float(observed),
                "predicted": float(mean),
                "certainty": float(z) if np.isfinite(z) else None,
            }
            for row, observed, mean, z in zip(*columns, strict=True)
        ]
    names = test.classes

    def named(code: int) -> str:
        return str(code) if names is None else str(names[code])

    columns = (table[k] for k in ("row", "observed", "predicted", "confidence"))
    return [
        {
            "row": int(row),
            "observed": named(int(observed)),
            "predicted": named(int(predicted)),
            "certainty": float(confidence),
        }
        for row, observed, predicted, confidence in zip(*columns, strict=True)
    ]


def _entry(
    p: Predictive, test: Dataset, by: str, group: Groups | np.ndarray
) -> dict[str, Any]:
    if p.is_classification:
        table: GroupTable = reliability_by_group(p, test.y, group)
    else:
        table = coverage_by_group(p, test.y, group, level=LEVEL)
    rows = []
    ranked = isinstance(group, Groups)
    for place, row in enumerate(table.rows):
        others = {name: score.to_dict() for name, score in row.others.items()}
        if p.is_classification:
            ends = row.gap_interval
            own = row.value.to_dict()
            gap = {"value": row.gap, "se": own["se"], "n": row.n, "interval": None}
            scores = {"accuracy": own, "gap": gap} | others
        else:
            ends = row.simultaneous
            scores = {"coverage": row.value.to_dict()} | others
        rows.append(
            {
                "name": _rank(place, len(table.rows)) if ranked else row.name,
                "range": row.name.removeprefix("value ") if ranked else None,
                "n": row.n,
                "small": row.small,
                "scores": scores,
                "simultaneous": None if ends is None else [float(end) for end in ends],
            }
        )
    level = None if p.is_classification else LEVEL
    return {"by": by, "level": level, "smallest_gap": table.detectable, "rows": rows}


def _rank(place: int, count: int) -> str:
    """A group of a number by its place: the ranges differ between methods."""
    if place == 0:
        return "lowest"
    return "highest" if place == count - 1 else str(place + 1)


def _predicted(probs: np.ndarray, test: Dataset) -> np.ndarray:
    names = test.classes
    codes = probs.argmax(axis=1)
    if names is None:
        return _largest(codes.astype(str))
    return _largest(np.asarray([str(name) for name in names])[codes])


def _largest(labels: np.ndarray) -> np.ndarray:
    """The labels with the most points; the others together."""
    names, code, count = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) <= MOST:
        return labels
    kept = np.argsort(-count, kind="stable")[: MOST - 1]
    return np.where(np.isin(code, kept), names[code].astype(str), "all others")


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | Array)
