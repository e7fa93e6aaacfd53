"""The document of a continual run, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntkuq.continual import Results


SCHEMA = "ntkuq/continual/1"
#: Forgetting above this is said to be some, above ten times this much.
SOME = 0.01
#: A calibration error above this is worth a repair.
MISCALIBRATED = 0.05


def continual_document(
    found: Results, *, provenance: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run found, with its verdict.

    Args:
        found: of `ntkuq.continual.run`.
        provenance: versions, command, seed.
        data: name of the stream and of the data.

    Returns:
        Plain numbers and text, to be written as JSON.
    """
    entry = found.to_dict()
    over_time = {
        name: [score.to_dict() for score in found.over_time(name)]
        for name in found.measures
    }
    document = {
        "schema": SCHEMA,
        "provenance": dict(provenance),
        "data": dict(data),
        **entry,
        "over_time": over_time,
    }
    return document | {"verdict": verdict(document)}


def verdict(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to say of forgetting and of calibration, by whole intervals."""
    return [
        record
        for record in (_forgetting(document), _calibration(document))
        if record is not None
    ]


def _ends(score: Mapping[str, Any]) -> tuple[float, float] | None:
    ends = score.get("interval")
    return None if not ends or None in ends else (ends[0], ends[1])


def _forgetting(document: Mapping[str, Any]) -> dict[str, Any] | None:
    score = document["scores"].get("forgetting")
    if score is None or score["value"] is None:
        return None
    ends, value = _ends(score), score["value"]
    what = "accuracy" if document["main"] == "accuracy" else "R²"
    said = f"{value:.3f} of {what} were lost on average since a task was at its best"
    if ends is None:
        answer, more = "Unknown", "one seed gives no interval: use --seeds 2 or more"
    else:
        more = f"95 % interval {ends[0]:.3f} to {ends[1]:.3f} over {score['n']} seeds"
        if ends[1] < SOME:
            answer = "No"
        elif ends[0] > SOME:
            answer = "Yes"
        else:
            answer = "Unknown"
    return {
        "code": "forgetting",
        "answer": answer,
        "sentence": f"{said} ({more}; {document['setting']}).",
        "section": "matrix",
        "rule": f"Yes where the whole interval of average forgetting over the T - 1 "
        f"earlier tasks lies above {SOME:g}, No where it lies below.",
    }


def _calibration(document: Mapping[str, Any]) -> dict[str, Any] | None:
    over = document["over_time"]
    if "ece" not in over:
        return None
    first, last = over["ece"][0], over["ece"][-1]
    ends = _ends(last)
    said = (
        f"the expected calibration error on the tasks met so far is "
        f"{first['value']:.3f} after the first task and {last['value']:.3f} after the "
        "last"
    )
    if ends is None:
        answer, more = "Unknown", "one seed gives no interval"
    else:
        more = f"95 % interval at the end {ends[0]:.3f} to {ends[1]:.3f}"
        good, bad = ends[1] < MISCALIBRATED, ends[0] > MISCALIBRATED
        answer = "Yes" if good else "No" if bad else "Unknown"
    return {
        "code": "calibration over time",
        "answer": answer,
        "sentence": f"{said} ({more}).",
        "section": "over-time",
        "rule": "Yes where the whole interval of the expected calibration error over "
        f"all tasks after the last one lies below {MISCALIBRATED:g}, No where above.",
    }
