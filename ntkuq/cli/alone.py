"""A run document of predictions that were made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkuq.calibration import Scores
from ntkuq.calibration.pairs import paired
from ntkuq.cli.errors import UsageError
from ntkuq.cli.predictions import Made
from ntkuq.report.document import SCHEMA, Document
from ntkuq.report.provenance import provenance
from ntkuq.report.units import scored
from ntkuq.report.verdicts import verdict


#: What methods are compared by: the first that every one of them has.
RANKINGS = ("nll", "crps")


def document(
    made: Mapping[str, Made],
    scores: Mapping[str, Scores],
    *,
    target: str,
    command: str,
) -> Document:
    """The document; one method for each set of predictions.

    Args:
        made: label -> predictions, all of the same outcomes.
        scores: label -> their scores.
        target: name of the outcomes.
        command: what was typed.
    """
    first = next(iter(made.values()))
    found = next(iter(scores.values()))
    methods = [_method(label, one) for label, one in scores.items()]
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "provenance": provenance(command=command, seed=0, dtype="float64"),
        "problem": {
            "task": found.task,
            "fingerprint": None,
            "data": {
                "name": ", ".join(made),
                "sha256": None,
                "n_train": None,
                "n_calibrate": None,
                "n_test": found.n,
                "features": None,
                "target": target,
                "units": found.units,
                "classes": None if first.classes is None else list(first.classes),
                "warnings": [],
            },
            "network": None,
            "likelihood": None,
            "prior": None,
            "scaling": None,
        },
        "methods": methods,
        "comparison": _comparison(scores, first.group),
        "verdict": [],
    }
    result["verdict"] = verdict(result)
    return result


def _method(label: str, scores: Scores) -> dict[str, Any]:
    return {
        "label": label,
        "text": "predictions made elsewhere",
        "seed": None,
        "status": "done",
        "reason": None,
        "hyperparameters": [],
        "log_marginal_likelihood": None,
        "cost": None,
        "diagnostics": {},
        "predictions": None,
    } | scored(scores)


def _comparison(
    scores: Mapping[str, Scores], group: np.ndarray | None
) -> dict[str, Any] | None:
    by = next(
        (n for n in RANKINGS if all(n in s.pointwise for s in scores.values())), None
    )
    if by is None:
        return None
    # a total difference of 4 nats is a rule for log densities alone
    small = 4.0 if by == "nll" else 0.0
    values = {label: np.asarray(s.pointwise[by]) for label, s in scores.items()}
    differences = paired(values, group=group, small=small)
    return {
        "score": by,
        "best": next(d.label for d in differences if d.is_best),
        "differences": [d.to_dict() for d in differences],
    }


def need_same_outcomes(made: Mapping[str, Made]) -> None:
    """Refuse files of different outcomes, which cannot be compared.

    Raises:
        UsageError: with the first row that differs.
    """
    (first, reference), *others = made.items()
    for label, one in others:
        if one.predictive.is_classification != reference.predictive.is_classification:
            raise UsageError(
                f"expected predictions of one kind of outcome, got classes in one of "
                f"{first} and {label} and numbers in the other"
            )
        if one.classes != reference.classes:
            raise UsageError(
                f"expected the same classes in the same order, got {reference.classes} "
                f"in {first} and {one.classes} in {label}"
            )
        if one.y.shape != reference.y.shape:
            raise UsageError(
                "expected the same outcomes in every file, got "
                f"{len(reference.y)} rows in {first} and {len(one.y)} in {label}"
            )
        if not np.array_equal(one.y, reference.y):
            row = int(np.argmax((one.y != reference.y).reshape(len(one.y), -1).any(1)))
            raise UsageError(
                f"expected the same outcomes in the same order in every file, got "
                f"{reference.y[row]} in {first} and {one.y[row]} in {label}, row {row} "
                "(counted from 0); sort both by the same key"
            )
        mine, theirs = reference.group, one.group
        if mine is not None and theirs is not None and (mine != theirs).any():
            raise UsageError(f"expected the same groups in {first} and {label}")
