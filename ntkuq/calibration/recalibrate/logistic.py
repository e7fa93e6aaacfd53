"""Logistic regression of two classes on what the prediction says about them."""

from typing import NamedTuple

import numpy as np

from ntkuq.calibration.records import Score
from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.predictive import Predictive

from .base import Diagnostics
from .estimates import compared, estimate
from .inputs import Classes, need_both, with_logits
from .newton import minimize, standard_errors


APART = (
    "a threshold separates the classes: Platt's smoothed targets were used, since the "
    "likelihood alone has no best map"
)


APART = (
    "a threshold separates the classes: Platt's smoothed targets were used, since the "
    "likelihood alone has no best map"
)


class Logistic(NamedTuple):
    """A fitted logistic regression: its parameters in order, and how it went."""

    parameters: tuple[Score, ...]
    diagnostics: Diagnostics


def fit_logistic(
    data: Classes,
    inputs: np.ndarray,
    names: tuple[str, ...],
    low: np.ndarray,
    high: np.ndarray,
    start: np.ndarray,
    *,
    who: str,
    smooth: bool,
) -> Logistic:
    r"""Minimize $\sum_i \log(1 + e^{z_i}) - t_i z_i$, $z = X\theta$, between bounds.

    The targets t are the outcomes, or with `smooth`, and whenever a threshold separates
    the classes, Platt's $(n_+ + 1) / (n_+ + 2)$ and $1 / (n_- + 2)$.

    Args:
        data: predictions of two classes with outcomes.
        inputs: X, (M, d); infinite in rows that are sure of their class.
        names: of the parameters.
        low: bounds (d,).
        high: bounds (d,).
        start: parameters of "no change", (d,).
        who: the name of the method.
        smooth: whether to use Platt's targets in any case.
    """
    outcome, logit = data.codes, data.logs[:, 1] - data.logs[:, 0]
    need_both(outcome, who)
    # A row that is sure and right stays so and teaches nothing; sure and wrong stays
    # infinitely wrong.
    sure = np.isinf(logit)
    ok = ~sure | ((logit > 0) == (outcome == 1))
    if not ok.all():
        raise ValueError(
            f"{who}: the class observed at row {first_bad(ok)} was given probability "
            "0, which this map cannot mend; give logits instead of rounded "
            "probabilities, or use IsotonicCalibration"
        )
    positive = outcome == 1
    apart = logit[positive].min() > logit[~positive].max()
    notes: tuple[str, ...] = ()
    target = outcome.astype(np.float64)
    if smooth or apart:
        ups = int(positive.sum())
        downs = outcome.size - ups
        target = np.where(positive, (ups + 1) / (ups + 2), 1 / (downs + 2))
    if apart:
        notes = (APART,)
    used = np.where(sure[:, None], 0.0, inputs)
    weight = (~sure).astype(np.float64)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        z = used @ x
        q = _sigmoid(z)
        value = float(weight @ (np.logaddexp(0, z) - target * z))
        slope = used.T @ (weight * (q - target))
        return value, slope, (used * (weight * q * (1 - q))[:, None]).T @ used

    best = minimize(objective, start, low, high)
    gap = weight * (_sigmoid(used @ best.at) - target)
    errors = standard_errors(best, data.by_point(used * gap[:, None]))
    parameters = tuple(
        estimate(value, se, data.points) for value, se in zip(best.at, errors)
    )

    def losses(x: np.ndarray) -> np.ndarray:
        z = used @ x
        return data.by_point(weight * (np.logaddexp(0, z) - outcome * z))

    at_bound = tuple(n for n, free in zip(names, best.free) if not free)
    record = compared("nll", losses(start), losses(best.at), at_bound, notes)
    return Logistic(parameters, record)


def two_classes(logs: np.ndarray, who: str) -> None:
    """Refuse more than two classes."""
    if logs.shape[-1] != 2:
        raise ValueError(
            f"{who}: expected two classes, got {logs.shape[-1]}; use "
            "TemperatureScaling, VectorScaling or IsotonicCalibration"
        )


def with_logit(p: Predictive, logs: np.ndarray, logit: np.ndarray) -> Predictive:
    """New predictions of two classes; rows that were sure of one stay so."""
    sure = np.isinf(logs).any(axis=-1)
    stays = np.where(logs[..., 1] > logs[..., 0], np.inf, -np.inf)
    logit = np.where(sure, stays, logit)
    # log probabilities of both classes, exact in either tail
    both = np.stack([-np.logaddexp(0, logit), -np.logaddexp(0, -logit)], axis=-1)
    return with_logits(p, both)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    from scipy import special

    return special.expit(z)
