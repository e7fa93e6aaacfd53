"""Whether errors are as large as predicted, from small to large predictions."""

import numpy as np

from .bootstrap import distance_score
from .records import Score
from .sampling import AbstractSampling, Points, normals


LEAST = 30  # points in a bin
MOST = 20  # bins


def ence(
    squared_error: np.ndarray,
    variance: np.ndarray,
    sampling: AbstractSampling | None = None,
) -> Score:
    r"""Expected normalized calibration error, in bins of equal count by variance.

    $\frac1B \sum_b \left|1 - \sqrt{\overline{e^2}_b /
    \overline{\sigma^2}_b}\right|$: the root mean squared error of a bin is compared
    with its root mean predicted variance. 20 bins, fewer where a bin would have less
    than 30 points; equal variances stay in one bin, so predictions of one constant
    width have one bin. It is biased upwards: chance alone makes it about
    $0.56 \sqrt{B/n}$ for Normal errors. Standard
    error and interval resample the ratios of the bins from their Normal limit.

    Args:
        squared_error: squared errors of the predicted mean, (N,) or (N, C); several
            outputs are pooled.
        variance: predicted variance of an observation, of the same shape.
        sampling: which points are independent; all unless said.

    Raises:
        NotImplementedError: for fewer than 30 values, a variance that is not finite, or
            a bin whose variances are all 0.

    >>> import numpy as np
    >>> print(ence(np.full(60, 4.0), np.ones(60)).value)
    1.0

    References:
        Levi, Gispan, Giladi and Fetaya, 2022, Sensors 22, 5540 (arXiv:1905.11659).
    """
    n = squared_error.shape[0]
    sampling = Points(n) if sampling is None else sampling
    if variance.size < LEAST:
        raise NotImplementedError(
            f"A bin needs {LEAST} points; there are {variance.size}."
        )
    if not (np.isfinite(variance).all() and np.isfinite(squared_error).all()):
        raise NotImplementedError("A predicted variance or an error is not finite.")
    cells, bins = equal_count(variance)
    count = np.bincount(cells.reshape(-1), minlength=bins)
    errors = np.bincount(cells.reshape(-1), squared_error.reshape(-1), bins) / count
    predicted = np.bincount(cells.reshape(-1), variance.reshape(-1), bins) / count
    if not predicted.min() > 0:
        raise NotImplementedError("The predicted variances of a bin are all zero.")
    ratio = np.sqrt(errors / predicted)
    value = float(np.mean(np.abs(ratio - 1)))

    # Delta method: what each value adds to the ratio of its bin.
    relative = _over(squared_error, errors, cells) - variance / predicted[cells]
    influence = relative * (ratio / (2 * count))[cells]
    noise = normals(sampling.covariance(cells, influence, bins), 1000)
    return distance_score(value, np.mean(np.abs(ratio + noise - 1), axis=1), n)


def equal_count(variance: np.ndarray) -> tuple[np.ndarray, int]:
    """The bin of each variance, in its shape, and how many bins there are."""
    ordered = np.sort(variance.reshape(-1))
    bins = int(np.clip(ordered.size // LEAST, 1, MOST))
    cuts = ordered[np.arange(1, bins) * ordered.size // bins]
    # A bin begins with the first of equal variances; one that is empty goes.
    cuts = np.unique(cuts[cuts > ordered[0]])
    first = np.searchsorted(ordered, cuts, side="left")
    sizes = np.diff(np.r_[0, first, ordered.size])
    cuts = cuts[_large_enough(sizes)]
    return np.searchsorted(cuts, variance, side="right"), cuts.size + 1


def _large_enough(sizes: np.ndarray) -> np.ndarray:
    """Which cuts to keep, so that no bin has less than the least number."""
    keep, held = [], 0
    for cut in range(sizes.size - 1):
        held += sizes[cut]
        left = sizes[cut + 1 :].sum()
        good = held >= LEAST and left >= LEAST
        keep.append(good)
        held = 0 if good else held
    return np.asarray(keep, bool)


def _over(values: np.ndarray, mean: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Values over the mean of their bin; 0 where that is 0."""
    return values / np.where(mean > 0, mean, 1.0)[cells]
