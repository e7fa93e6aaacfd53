"""Whether a class predicted with confidence c is right a share c of the time."""

import numpy as np

from .bootstrap import cell_sums, distance_score
from .records import Score


BINS = 15


def top_label(probs: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The confidence in the predicted class and whether it was right, both (N,).

    Of classes tied for the largest probability the first one is the prediction.
    """
    return probs.max(axis=1), probs.argmax(axis=1) == codes


def bin_index(confidence: np.ndarray) -> np.ndarray:
    """The bin (a, b] of each confidence among 15 of equal width.

    Confidence 0 belongs to the first bin and 1 to the last.

    >>> import numpy as np
    >>> bin_index(np.array([0.0, 1 / 15, 0.5, 1.0])).tolist()
    [0, 0, 7, 14]
    """
    edges = np.arange(BINS + 1) / BINS
    index = np.searchsorted(edges, confidence, side="left") - 1
    return np.clip(index, 0, BINS - 1)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> Score:
    r"""Top-label expected calibration error with 15 equal-width bins (a, b].

    $\sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|$. Empty bins add nothing.
    It is biased upwards: a calibrated model has a positive value of the order
    $\sqrt{\text{bins in use} / n}$. Standard error and interval are by bootstrap
    (`distance_score`).

    Args:
        confidence: (n,).
        correct: (n,), booleans.

    >>> import numpy as np
    >>> s = expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    >>> print(f"{s.value:.2f}")
    0.40

    References:
        Guo, Pleiss, Sun and Weinberger, 2017, ICML.
    """
    n = confidence.size
    gap = correct.astype(float) - confidence
    cells = bin_index(confidence)
    value = float(np.abs(np.bincount(cells, gap, minlength=BINS)).sum() / n)
    replicates = np.abs(cell_sums(cells, gap, BINS)).sum(axis=1) / n
    return distance_score(value, replicates, n)


def reliability_curve(
    confidence: np.ndarray, correct: np.ndarray
) -> dict[str, np.ndarray]:
    """Accuracy against mean confidence in each bin in use, with a consistency band.

    The band holds the accuracy of a calibrated model with the bin's count and mean
    confidence with 95 % probability (exact binomial, bin by bin).

    Args:
        confidence: (n,).
        correct: (n,), booleans.

    Returns:
        Columns `confidence`, `accuracy`, `count`, `lower`, `upper`, one entry per bin
        that is not empty.
    """
    from scipy import stats

    cells = bin_index(confidence)
    count = np.bincount(cells, minlength=BINS)
    used = count > 0
    count = count[used]
    mean = np.bincount(cells, confidence, minlength=BINS)[used] / count
    right = np.bincount(cells, correct.astype(float), minlength=BINS)[used] / count
    expected = np.clip(mean, 0, 1)
    return {
        "confidence": mean,
        "accuracy": right,
        "count": count,
        "lower": stats.binom.ppf(0.025, count, expected) / count,
        "upper": stats.binom.ppf(0.975, count, expected) / count,
    }
