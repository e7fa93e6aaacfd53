"""How far observed proportions are from nominal ones, over all levels."""

import numpy as np

from .bootstrap import distance_score
from .records import Score
from .resampled import HUNDRED, LEVELS, Resampled
from .transform import Pit


def calibration_error(
    pit: np.ndarray | Pit,
    levels: np.ndarray = LEVELS,
    resampled: Resampled | None = None,
) -> Score:
    r"""Mean absolute gap between observed and nominal coverage.

    $\frac1K \sum_k |\hat c(L_k) - L_k|$ over central levels, 0.05 to 0.95 in 19 steps
    unless said otherwise. It is biased upwards by about $0.3/\sqrt n$; standard error
    and interval are by bootstrap (`distance_score`).

    Args:
        pit: (N,) or (N, C).
        levels: (K,), increasing.
        resampled: the same transform resampled, where that is at hand.
    """
    pit = Pit.of(pit)
    resampled = Resampled.of(pit, levels) if resampled is None else resampled

    def error(observed: np.ndarray) -> np.ndarray:
        return np.asarray(np.mean(np.abs(observed - levels), axis=-1))

    replicates = error(resampled.central(levels))
    return distance_score(float(error(pit.central(levels))), replicates, pit.n)


def rms_calibration_error(
    pit: np.ndarray | Pit,
    levels: np.ndarray = HUNDRED,
    resampled: Resampled | None = None,
) -> Score:
    r"""Root mean square gap between observed and nominal coverage.

    $\sqrt{\frac1K \sum_k (\hat c(L_k) - L_k)^2}$ over K = 100 central levels 0, 1/99,
    ..., 1: the convention of uncertainty-toolbox (`prop_type="interval"`). Biased
    upwards, as `calibration_error` is.

    Args:
        pit: (N,) or (N, C).
        levels: (K,), increasing.
        resampled: the same transform resampled, where that is at hand.

    >>> import numpy as np
    >>> print(f"{rms_calibration_error(np.full(5, 0.5)).value:.3f}")
    0.579

    References:
        Chung, Char, Guo, Schneider and Neiswanger, 2021, arXiv:2109.10254.
    """
    pit = Pit.of(pit)
    resampled = Resampled.of(pit, levels) if resampled is None else resampled
    value = _root_mean_square(pit.central(levels) - levels)
    replicates = _root_mean_square(resampled.central(levels) - levels)
    return distance_score(float(value), replicates, pit.n)


def quantile_calibration_error(
    pit: np.ndarray | Pit,
    levels: np.ndarray = HUNDRED,
    resampled: Resampled | None = None,
) -> Score:
    r"""Root mean square gap between observed shares below quantiles and their levels.

    $\sqrt{\frac1K \sum_k (\hat p_k - q_k)^2}$ with $\hat p_k$ the share of observations
    of at most the predicted $q_k$-quantile, over K = 100 levels 0, 1/99, ..., 1. K
    times its square is the error of Kuleshov et al. with equal weights. Unlike the
    errors of central intervals it sees predictions that are shifted. Biased upwards.

    Args:
        pit: (N,) or (N, C).
        levels: (K,), increasing.
        resampled: the same transform resampled, where that is at hand.

    >>> import numpy as np
    >>> pit = (np.arange(1000) + 0.5) / 1000
    >>> print(f"{quantile_calibration_error(pit).value:.3f}")
    0.000

    References:
        Kuleshov, Fenner and Ermon, 2018, arXiv:1807.00263.
    """
    pit = Pit.of(pit)
    resampled = Resampled.of(pit, levels) if resampled is None else resampled
    value = _root_mean_square(pit.below(levels) - levels)
    replicates = _root_mean_square(resampled.below(levels) - levels)
    return distance_score(float(value), replicates, pit.n)


def miscalibration_area(
    pit: np.ndarray | Pit,
    levels: np.ndarray = HUNDRED,
    resampled: Resampled | None = None,
) -> Score:
    r"""The area between observed and nominal coverage, joined linearly over levels.

    $\int |\hat c(L) - L|\,dL$ with $\hat c$ linear between 100 central levels 0, 1/99,
    ..., 1: the convention of uncertainty-toolbox. Where the lines cross, the two
    triangles are added. Between 0 and 1/2; biased upwards.

    Args:
        pit: (N,) or (N, C).
        levels: (K,), increasing; the area is over their range.
        resampled: the same transform resampled, where that is at hand.

    >>> import numpy as np
    >>> print(f"{miscalibration_area(np.full(5, 0.5)).value:.3f}")
    0.500

    References:
        Chung, Char, Guo, Schneider and Neiswanger, 2021, arXiv:2109.10254.
    """
    pit = Pit.of(pit)
    resampled = Resampled.of(pit, levels) if resampled is None else resampled
    value = area(pit.central(levels) - levels, levels)
    replicates = area(resampled.central(levels) - levels, levels)
    return distance_score(float(value), replicates, pit.n)


def area(gap: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The area under the absolute value of a function linear between points.

    Args:
        gap: values of the function (..., K).
        at: where, increasing, (K,).
    """
    left, right = gap[..., :-1], gap[..., 1:]
    size = np.abs(left) + np.abs(right)
    crossing = left * right < 0
    triangles = (left**2 + right**2) / np.where(crossing, size, 1.0)
    mean = np.where(crossing, triangles, size) / 2
    return np.asarray(np.sum(mean * np.diff(at), axis=-1))


def _root_mean_square(gap: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.mean(gap**2, axis=-1)))
