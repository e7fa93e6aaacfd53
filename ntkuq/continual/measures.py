"""What is measured on a task: how good, how well calibrated, how uncertain."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ntkuq.data import Dataset
from ntkuq.posteriors.base import AbstractPosterior


#: Kept probability of intervals and of sets of classes.
LEVEL = 0.9
#: Bins of the expected calibration error.
BINS = 15

#: Measures of classes, and of regression, in the order of tables.
CLASSES = ("accuracy", "nll", "ece", "coverage", "epistemic", "confidence")
REGRESSION = ("r2", "nll", "coverage", "epistemic", "rmse", "width")


def measured(posterior: AbstractPosterior, data: Dataset) -> dict[str, float]:
    r"""The measures of one task's test data.

    For classes: accuracy, mean minus log probability (nll), expected calibration error
    of the top label in 15 bins (ece), how often the label is in the smallest set of
    classes with probability 0.9 or more (coverage), mean mutual information in nats
    (epistemic), mean probability of the top label (confidence). For regression:
    R², nll, coverage of central 90 % intervals, mean variance of the function over
    the variance of the targets (epistemic), rmse, and the mean width of the intervals
    over the standard deviation of the targets (width).

    Args:
        posterior: what predicts.
        data: test data of a task.

    Returns:
        Each measure by name.
    """
    p, y = posterior.predict(data.x), np.asarray(data.y)
    nll = -float(np.mean(np.asarray(p.log_prob(y), np.float64)))
    mean = np.asarray(p.mean, np.float64)
    epistemic = 0.0 if p.epistemic is None else float(np.mean(np.asarray(p.epistemic)))
    if p.is_classification:
        top, label = mean.max(axis=-1), mean.argmax(axis=-1)
        right = label == y
        return {
            "accuracy": float(np.mean(right)),
            "nll": nll,
            "ece": _ece(top, right),
            "coverage": float(np.mean(_covered(mean, y))),
            "epistemic": epistemic,
            "confidence": float(np.mean(top)),
        }
    error, spread = mean - y, float(np.var(y))
    lower, upper = (np.asarray(end) for end in p.interval(LEVEL))
    mse = float(np.mean(error**2))
    return {
        "r2": 1.0 - mse / spread if spread > 0 else float("nan"),
        "nll": nll,
        "coverage": float(np.mean((lower <= y) & (y <= upper))),
        "epistemic": epistemic / spread if spread > 0 else float("nan"),
        "rmse": float(np.sqrt(mse)),
        "width": float(np.mean(upper - lower)) / float(np.sqrt(spread or np.nan)),
    }


def _ece(top: Float[np.ndarray, " N"], right: np.ndarray) -> float:
    """Sum over bins of |accuracy - confidence|, weighted by their share."""
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=top - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(top))


def _covered(p: Float[np.ndarray, "N C"], y: np.ndarray) -> np.ndarray:
    """Is the label in the smallest set of classes that has the probability?"""
    order = np.argsort(-p, axis=-1, kind="stable")
    rank = np.argmax(order == y[:, None], axis=-1)
    total = np.cumsum(np.take_along_axis(p, order, axis=-1), axis=-1)
    needed = np.argmax(total >= LEVEL - 1e-12, axis=-1)
    # rounding may keep the sum of all below the level
    needed = np.where(total[:, -1] < LEVEL - 1e-12, p.shape[-1] - 1, needed)
    return rank <= needed
