"""Score predictions: every number with its standard error, n and interval."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.join import flattened
from ntkuq.posteriors.predictive import Predictive

from .classification import classification
from .exact import exact
from .records import Scores
from .regression import regression


def score(
    predictive: Predictive,
    y: ArrayLike,
    *,
    levels: Sequence[float] = (0.5, 0.9, 0.95),
    group: ArrayLike | None = None,
) -> Scores:
    """Score predictions against what was observed.

    Regression, in the units of the data where nothing is said:

    - proper scores: `nll` (nats), `crps`, `interval_score_90` for each level,
      `weighted_interval_score` over the levels, `pinball` (mean over the levels 0.01 to
      0.99, half the CRPS up to their spacing; of a quantile table, over its own
      levels) and, for several outputs, `energy_score` (for one it is the CRPS);
    - errors of the predicted mean: `rmse`, `mae`;
    - intervals: `coverage_90` and `width_90` for each level, `sharpness` (root mean
      predicted variance);
    - calibration: `calibration_error` (mean gap over 19 central levels),
      `rms_calibration_error` and `miscalibration_area` (100 central levels),
      `quantile_calibration_error` (100 quantile levels), `ence` (errors against
      predicted variances, in bins) and `pit_ks` with its p-value;
    - `epistemic` and `aleatoric`: mean variances, where the predictions tell them.

    Classes: `nll` (nats), `brier` (0 to 2), `accuracy`, `ece` and what
    `classification` adds. A score that the kind of prediction does not allow is listed
    in `omitted` with the reason. With several outputs or positions (images,
    sequences) `nll` adds those of a point up and the other scores average over them or
    pool them; classes leave calibration out there, since the positions of one point
    are not independent. Everything is computed in float64.

    Points are taken to be independent unless `group` is given. With groups, standard
    errors and intervals are those of resampling whole groups: means have the cluster
    standard error with Student's law of G - 1 degrees of freedom for G groups,
    coverage has that interval instead of the exact binomial one (and no `hits`), the
    p-value of `pit_ks` comes from resampled groups, and bands count what the points
    are worth if those of a group are all alike (Kish). `n` still counts points.

    Args:
        predictive: predictions at N points.
        y: shape of the predictions, an axis of length 1 at the end aside; in the units
            of the data, or class codes.
        levels: kept probabilities of the intervals to check.
        group: one label a point, (N,); points with the same label depend on each other.

    Returns:
        The scores, the per-point values behind them, and calibration curves.

    Raises:
        ValueError: when shapes do not fit, y or a prediction is not finite, a predicted
            standard deviation is not positive, or a level is outside (0, 1).

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=500)
    >>> s = score(Predictive.normal(np.zeros(500), np.ones(500)), y)
    >>> print(f"{s['coverage_90'].value:.2f} of {s['coverage_90'].n}")
    0.92 of 500
    """
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"expected levels between 0 and 1, got {level}")
    with jax.enable_x64(True):
        double = exact(predictive)
        y = np.asarray(double.matched(y))
        labels = _labels(group, len(y))
        if double.is_classification:
            return classification(double, y, labels)
        if y.ndim > 2:
            double, y = flattened(double), y.reshape(len(y), -1)
        return regression(double, y, tuple(levels), labels)


def _labels(group: ArrayLike | None, n: int) -> np.ndarray | None:
    """The labels of the groups, checked."""
    if group is None:
        return None
    labels = np.asarray(group)
    if labels.shape != (n,):
        raise ValueError(
            f"expected group of shape ({n},), one label a point, got {labels.shape}"
        )
    if np.issubdtype(labels.dtype, np.inexact) and np.isnan(labels).any():
        row = int(np.argmax(np.isnan(labels)))
        raise ValueError(f"expected a group label for each point, got NaN at row {row}")
    return labels
