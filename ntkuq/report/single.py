"""The verdict on one set of predictions, without a comparison."""

from __future__ import annotations

from typing import Any

from ntkuq.calibration import Scores
from ntkuq.report.verdicts import verdict


def single(scores: Scores, *, label: str) -> list[dict[str, Any]]:
    """Verdict records on calibration for predictions made elsewhere.

    Args:
        scores: what `score` returned.
        label: what the predictions are called.
    """
    plain = scores.to_dict()
    document = {
        "problem": {"task": scores.task, "data": {"n_test": scores.n, "warnings": []}},
        "methods": [
            {
                "label": label,
                "text": "predictions made elsewhere",
                "status": "done",
                "reason": None,
                "hyperparameters": [],
                "cost": None,
                "diagnostics": {},
                "scores": plain["scores"],
                "curves": plain["curves"],
            }
        ],
        "comparison": None,
        "verdict": [],
    }
    kept = ("intervals", "reliability", "shape")
    return [record for record in verdict(document) if record["code"] in kept]
