"""One unit of a comparison: fit a method, predict, score; as plain data."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ntkuq.calibration import Scores, score
from ntkuq.data import Dataset, Split
from ntkuq.kernels import UnsupportedLayer
from ntkuq.models import BNN, Hyperparameter, constructor
from ntkuq.posteriors import (
    MAP,
    AbstractMethod,
    AbstractPosterior,
    Predictive,
    TooLarge,
)
from ntkuq.report.analysis import analyses


#: Failures that belong to a method and its numbers: reported, and the others go on.
NUMERICAL = (FloatingPointError, ValueError, np.linalg.LinAlgError, MemoryError)
#: Failures that say that a method does not apply to this problem.
NOT_APPLICABLE = (TooLarge, UnsupportedLayer, TypeError, NotImplementedError)

#: Score at which predictions are stored.
INTERVAL = 0.9
#: Kept probabilities of the intervals that are checked, unless others are given.
LEVELS = (0.5, 0.9, 0.95)


class Unit(NamedTuple):
    """A finished unit: its entry in the run document and its arrays."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]
    bnn: BNN | None = None


def empty_record(
    name: str,
    method: AbstractMethod,
    seed: int,
    status: str = "done",
    reason: str | None = None,
) -> dict[str, Any]:
    """The entry of a method in the run document, before anything is known."""
    return {
        "label": name,
        "text": constructor(method),
        "seed": seed,
        "status": status,
        "reason": reason,
        "hyperparameters": [],
        "log_marginal_likelihood": None,
        "cost": None,
        "diagnostics": {},
        "scores": None,
        "curves": {},
        "predictions": None,
    }


def run_unit(
    name: str,
    method: AbstractMethod,
    bnn: BNN,
    data: Split,
    *,
    callback: Callable[[int, float], None] | None = None,
    checkpoint: Path | None = None,
    extras: Callable[[AbstractPosterior, Predictive], dict[str, Any]] | None = None,
    levels: Sequence[float] = LEVELS,
    seed: int,
    key: Array,
) -> Unit:
    """Fit, predict the test inputs, score, and analyze.

    A method that fails numerically, or that does not apply, gives a record that says
    so; any other exception is a defect and is raised.
    """
    record = empty_record(name, method, seed)
    try:
        start = time.perf_counter()
        posterior = fit(
            method, bnn, data.train, callback=callback, checkpoint=checkpoint, key=key
        )
        jax.block_until_ready(eqx.filter(posterior, eqx.is_array))
        fitted = time.perf_counter() - start
        predictive = predict(posterior, data.test)
        start = time.perf_counter()
        predict(posterior, data.test)
        predicted = time.perf_counter() - start
        scores = score(predictive, data.test.y, levels=levels, group=data.test.group)
        arrays = _pointwise(scores) | _predictions(predictive, data.test)
        more = analyses(posterior.predict, predictive, data)
        if extras is not None:
            more = merged(more, extras(posterior, predictive))
    except NOT_APPLICABLE as error:
        return Unit(record | {"status": "skipped", "reason": one_line(error)}, {})
    except NUMERICAL as error:
        return Unit(record | {"status": "failed", "reason": one_line(error)}, {})
    record |= {
        "hyperparameters": [_hyperparameter(h) for h in posterior.hyperparameters],
        "log_marginal_likelihood": posterior.log_marginal_likelihood,
        "cost": {
            "fit_seconds": fitted,
            "predict_seconds": predicted,
            "predict_points": len(data.test),
        },
        "diagnostics": _diagnostics(posterior),
    } | merged(scored(scores), more)
    return Unit(record, arrays, posterior.bnn if isinstance(method, MAP) else None)


def fit(
    method: AbstractMethod,
    bnn: BNN,
    data: Dataset,
    *,
    callback: Callable[[int, float], None] | None,
    checkpoint: Path | None,
    key: Array,
) -> AbstractPosterior:
    """`method.fit`, with callback and checkpoint where the method takes them."""
    taken = inspect.signature(method.fit).parameters
    options: dict[str, Any] = {"callback": callback, "checkpoint": checkpoint}
    options = {name: value for name, value in options.items() if name in taken}
    return method.fit(bnn, data, key=key, **options)


def predict(posterior: AbstractPosterior, data: Dataset) -> Predictive:
    """Predictions, waited for; `FloatingPointError` where they are not finite."""
    predictive = posterior.predict(data.x)
    jax.block_until_ready(eqx.filter(predictive, eqx.is_array))
    bad = int(np.sum(~np.isfinite(np.asarray(predictive.mean))))
    if bad:
        raise FloatingPointError(
            f"{bad} of {np.size(predictive.mean)} predictions are not finite"
        )
    return predictive


def scored(scores: Scores) -> dict[str, Any]:
    """Scores and curves of a record."""
    plain = scores.to_dict()
    return {
        "scores": plain["scores"],
        "curves": plain["curves"],
        "omitted": plain["omitted"],
    }


def merged(first: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both records; where both have scores, curves or omissions, those of both."""
    found = first | more
    for name in ("scores", "curves", "omitted"):
        found[name] = first.get(name, {}) | more.get(name, {})
    return found


def _pointwise(scores: Scores) -> dict[str, np.ndarray]:
    return {f"pointwise.{name}": np.asarray(v) for name, v in scores.pointwise.items()}


def _predictions(predictive: Predictive, test: Dataset) -> dict[str, np.ndarray]:
    found = {"y": np.asarray(test.y), "mean": np.asarray(predictive.mean)}
    if not predictive.is_classification:
        found["std"] = np.sqrt(np.asarray(predictive.observed.variance))
        if not predictive.observed.is_discrete:  # counts have no quantile function here
            lower, upper = predictive.interval(INTERVAL)
            found["lower_90"], found["upper_90"] = np.asarray(lower), np.asarray(upper)
    for name in ("epistemic", "aleatoric"):
        value = getattr(predictive, name)
        if value is not None:
            found[name] = np.asarray(value)
    return {f"prediction.{name}": value for name, value in found.items()}


def _hyperparameter(value: Hyperparameter) -> dict[str, Any]:
    return {
        "name": value.name,
        "value": float(value.value),
        "se": None if value.se is None else float(value.se),
        "at_bound": bool(value.at_bound),
        "unit": value.unit,
    }


def _diagnostics(posterior: AbstractPosterior) -> dict[str, Any]:
    return {
        name: value
        for name, value in posterior.diagnostics.items()
        if isinstance(value, bool | int | float | str)
    }


def one_line(error: BaseException) -> str:
    """The message of an error, as a reason."""
    text = " ".join(str(error).split())
    if isinstance(error, NotImplementedError):
        return f"not available for this likelihood: {text or 'not implemented'}"
    return text or type(error).__name__
