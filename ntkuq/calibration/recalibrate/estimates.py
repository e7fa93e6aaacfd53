"""Fitted numbers with standard error and interval."""

import math

import numpy as np

from ntkuq.calibration.means import mean_score
from ntkuq.calibration.records import Score

from .base import Diagnostics


def estimate(value: float, se: float, n: int) -> Score:
    """A fitted number with its normal 95 % interval; none where se is not finite."""
    if not math.isfinite(se):
        return Score(float(value), None, n, None)
    half = 1.959963984540054 * se
    return Score(float(value), float(se), n, (float(value - half), float(value + half)))


def positive_estimate(value: float, log_se: float, n: int) -> Score:
    """The same for a positive number, the interval symmetric on the log scale."""
    if not math.isfinite(log_se):
        return Score(float(value), None, n, None)
    factor = math.exp(1.959963984540054 * log_se)
    ends = float(value / factor), float(value * factor)
    return Score(float(value), float(value * log_se), n, ends)


def compared(
    objective: str,
    before: np.ndarray,
    after: np.ndarray,
    at_bound: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Diagnostics:
    """The record of a fit from the losses of each point, both (N,)."""
    with np.errstate(invalid="ignore"):
        gain = mean_score(before - after)
    return Diagnostics(
        objective, mean_score(before), mean_score(after), gain, at_bound, notes
    )
