"""The same comparison from several seeds: how much of it is luck?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkuq.calibration.means import mean_score
from ntkuq.calibration.records import Score
from ntkuq.report.document import Document


#: Beside the ranking score, the first of these that a method has.
CALIBRATION = ("coverage_90", "ece")


def over_seeds(
    document: Document, repeats: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any] | None:
    """The entry "seeds" of a run document.

    Args:
        document: of the first seed, with its comparison.
        repeats: the methods' records of every seed, the first seed's first.

    Returns:
        For each method that finished: the mean of its scores over seeds with the
        Student-t interval of as many values as seeds, its paired difference to the
        method with the best mean, the standard deviation over seeds, and in how many
        seeds it was best. `None` where no method finished in every seed.
    """
    name = (document["comparison"] or {}).get("score", "nll")
    values = {
        record["label"]: [_value(records, record["label"], name) for records in repeats]
        for record in repeats[0]
    }
    whole = {
        label: np.array(each)
        for label, each in values.items()
        if all(value is not None for value in each)
    }
    if not whole:
        return None
    best = min(whole, key=lambda label: whole[label].mean())
    table = np.stack(list(whole.values()))
    wins = np.bincount(table.argmin(axis=0), minlength=len(table))
    rows = []
    for label, each, won in zip(whole, table, wins, strict=True):
        scores = {name: mean_score(each)}
        if label != best:
            scores["difference"] = mean_score(each - whole[best])
        for other in CALIBRATION:
            held = [_value(records, label, other) for records in repeats]
            if all(value is not None for value in held):
                scores[other] = _share(mean_score(np.array(held)))
                break
        rows.append(
            {
                "label": label,
                "best": int(won),
                "spread": float(each.std(ddof=1)),
                "scores": {key: value.to_dict() for key, value in scores.items()},
            }
        )
    missing = [label for label in values if label not in whole]
    return {
        "count": len(repeats),
        "score": name,
        "best": best,
        "rows": rows,
        "missing": missing,
    }


def _share(score: Score) -> Score:
    """With the interval cut at 0 and 1."""
    if score.interval is None:
        return score
    low, high = np.clip(score.interval, 0.0, 1.0)
    return dataclasses.replace(score, interval=(float(low), float(high)))


def _value(records: Sequence[Mapping[str, Any]], label: str, name: str) -> float | None:
    """A score of a method in one seed, where it has one that is finite."""
    record = next(one for one in records if one["label"] == label)
    return ((record["scores"] or {}).get(name) or {}).get("value")
