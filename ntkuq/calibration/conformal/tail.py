"""The score of distributional conformal prediction: how far out in the tail."""

from dataclasses import dataclass

import numpy as np

from ntkuq.posteriors.predictive import Predictive

from .base import AbstractScore
from .inputs import need_scale
from .quantiles import ends, tails
from .regions import Interval


@dataclass(frozen=True)
class Tail(AbstractScore):
    r"""Minus the smaller tail, $-\min(F(y),\; 1 - F(y^-))$.

    For continuous F this is $|F(y) - \tfrac12| - \tfrac12$, so it orders outcomes as
    $|F(y) - \tfrac12|$ does, without rounding far out. The region lies between two
    quantiles with equal tails and is as skew as the prediction. An outcome beyond all
    samples or beyond a quantile table has tail 0; where more than 1 - L of the
    calibrate part do, the region is the whole line.

    References:
        Chernozhukov, Wüthrich and Zhu, 2021, PNAS 118 (arXiv 1909.07889).
    """

    def scores(self, p: Predictive, y: np.ndarray, level: float) -> np.ndarray:
        need_scale(p)
        return -np.minimum(*tails(p, y))

    def region(self, p: Predictive, at: np.ndarray, level: float) -> Interval:
        need_scale(p)
        tail = np.broadcast_to(-at, tuple(p.observed.batch_shape))
        # tails without quantiles of their own are set below
        low, high = ends(p, np.where((tail > 0) & (tail <= 1), tail, 0.5))
        turned, middle = low > high, low + (high - low) / 2
        # as for residuals: rounding must not shut out a score at the threshold
        slack = 1e-12 * np.abs(high - low) + 1e-15 * np.maximum(abs(low), abs(high))
        low = np.where(turned, middle, low - slack)
        high = np.where(turned, middle, high + slack)
        whole, nothing = tail <= 0, np.isposinf(tail)
        low = np.where(whole, -np.inf, np.where(nothing, np.inf, low))
        high = np.where(whole, np.inf, np.where(nothing, -np.inf, high))
        return Interval(low, high)
