"""The same comparison from several seeds: how much of it is luck?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkuq.calibration import paired
from ntkuq.calibration.means import mean_score
from ntkuq.calibration.records import Score
from ntkuq.report.document import Document
from ntkuq.report.rules import LEVEL


def over_seeds(
    document: Document,
    repeats: Sequence[Sequence[Mapping[str, Any]]],
    *,
    trained: bool,
) -> dict[str, Any]:
    """The entry "seeds" of a run document.

    Args:
        document: of the first seed, with its comparison.
        repeats: the methods' records of every seed, the first seed's first.
        trained: whether the network was given, so that no seed trains another.

    Returns:
        For each method that has the ranking score in every seed: the mean over seeds
        with the Student-t interval of as many values as seeds, the standard deviation
        over seeds, in how many seeds it was best of all that have a score there (ties
        count for each), and the paired, Holm-adjusted difference to the method with the
        best mean. What is missing, seed by seed, with the reason.
    """
    name = (document["comparison"] or {}).get("score", "nll")
    labels = [record["label"] for record in repeats[0]]
    table = np.array(
        [[_value(records, label, name) for records in repeats] for label in labels]
    )
    whole = np.isfinite(table).all(axis=1)
    some = np.isfinite(table).any(axis=0)
    lowest = np.min(np.where(np.isfinite(table), table, np.inf), axis=0)
    wins = np.sum((table == lowest) & some, axis=1)
    held = _calibration(repeats[0])
    complete = {label: table[i] for i, label in enumerate(labels) if whole[i]}
    differences = paired(complete, small=0.0) if complete else []
    rows = []
    for difference in differences:
        label, each = difference.label, complete[difference.label]
        scores = {name: mean_score(each)}
        if held is not None:
            kept = np.array([_value(records, label, held) for records in repeats])
            if np.isfinite(kept).all():
                scores[held] = _share(mean_score(kept))
        rows.append(
            {
                "label": label,
                "best": int(wins[labels.index(label)]),
                "spread": float(each.std(ddof=1)),
                "scores": {key: value.to_dict() for key, value in scores.items()},
                "difference": None if difference.is_best else difference.to_dict(),
            }
        )
    return {
        "count": len(repeats),
        "score": name,
        "calibration": held,
        "trained": trained,
        "best": next((d.label for d in differences if d.is_best), None),
        "rows": rows,
        "missing": [
            {
                "label": label,
                "seed": number + 1,
                "status": record["status"],
                "reason": record.get("reason"),
            }
            for label, row in zip(labels, table, strict=True)
            for number, records in enumerate(repeats)
            if not np.isfinite(row[number])
            for record in (_record(records, label),)
        ],
    }


def _calibration(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The coverage at the level nearest to that of the verdict, or the error in ECE."""
    known = {n: s for record in records for n, s in (record["scores"] or {}).items()}
    levels = {
        name: score["level"]
        for name, score in known.items()
        if name.startswith("coverage") and score.get("level") is not None
    }
    if levels:
        return min(levels, key=lambda name: abs(levels[name] - LEVEL))
    return "ece" if "ece" in known else None


def _share(score: Score) -> Score:
    """With the interval cut at 0 and 1."""
    if score.interval is None:
        return score
    low, high = np.clip(score.interval, 0.0, 1.0)
    return dataclasses.replace(score, interval=(float(low), float(high)))


def _record(records: Sequence[Mapping[str, Any]], label: str) -> Mapping[str, Any]:
    return next(one for one in records if one["label"] == label)


def _value(records: Sequence[Mapping[str, Any]], label: str, name: str) -> float:
    """A score of a method in one seed, NaN where it has none that is finite."""
    found = (_record(records, label)["scores"] or {}).get(name) or {}
    value = found.get("value")
    return np.nan if value is None else value
