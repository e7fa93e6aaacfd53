"""Whether a class predicted with confidence c is right a share c of the time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .binning import AbstractBinning, EqualWidth
from .blocks import Blocks, blocks
from .bootstrap import SEED
from .coverage import binomial_quantile
from .top_label import binary


DRAWS = 1000  # simulated test sets for each assumption in `error_test`


def reliability_curve(
    confidence: np.ndarray,
    correct: np.ndarray,
    binning: AbstractBinning = EqualWidth(15),  # noqa: B008 - immutable
    *,
    group: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Accuracy against mean confidence in each bin in use, with a consistency band.

    The band holds the accuracy of a calibrated model with the bin's count and mean
    confidence with 95 % probability, bin by bin: exact binomial, or with groups from
    resampled groups about their mean.

    Args:
        confidence: (n,), between 0 and 1.
        correct: (n,), booleans.
        binning: `EqualWidth` or `EqualCount`.
        group: points with the same value depend on each other, (n,).

    Returns:
        Columns `confidence`, `accuracy`, `count`, `lower`, `upper`, one entry per bin
        that is not empty.

    Raises:
        ValueError: for shapes that do not fit, or values outside 0 to 1.
    """
    p, y = binary(confidence, correct)
    dealt = None if group is None else blocks(p.size, group)
    return curve_of_bins(p, y, dealt, binning)


def curve_of_bins(
    p: np.ndarray,
    y: np.ndarray,
    dealt: Blocks | None = None,
    binning: AbstractBinning = EqualWidth(15),  # noqa: B008 - immutable
) -> dict[str, np.ndarray]:
    """The curve of `reliability_curve`.

    Args:
        p: probabilities, (n,).
        y: outcomes 0 and 1, (n,), floating.
        dealt: the points in blocks.
        binning: which points are looked at together.
    """
    cells, bins = binning.index(p), binning.bins
    count = np.bincount(cells, minlength=bins)
    used = count > 0
    count = count[used]
    mean = np.bincount(cells, p, minlength=bins)[used] / count
    right = np.bincount(cells, y, minlength=bins)[used] / count
    expected = np.clip(mean, 0, 1)
    if dealt is not None and dealt.grouped:
        noise = dealt.noise(dealt.sums(cells, bins, y - p))[:, used] / count
        ends = np.quantile(noise, [0.025, 0.975], axis=0)
        lower, upper = np.clip(expected + ends, 0.0, 1.0)
    else:
        lower = binomial_quantile(0.025, count, expected) / count
        upper = binomial_quantile(0.975, count, expected) / count
    return {
        "confidence": mean,
        "accuracy": right,
        "count": count,
        "lower": lower,
        "upper": upper,
    }


class ErrorTest(NamedTuple):
    """What simulated test sets say about a calibration error.

    Args:
        chance: mean error that a calibrated classifier shows on as many points.
        calibrated: p-value of a true error of zero.
        within: p-value of a true error of at most the tolerance.
        beyond: p-value of a true error of at least the tolerance.
    """

    chance: float
    calibrated: float
    within: float
    beyond: float


def error_test(
    confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray, tolerance: float
) -> ErrorTest:
    r"""Test the calibration error against zero and against a tolerance.

    The observed $\sum_b w_b |a_b - c_b|$, with $w_b = n_b / n$, is compared with that
    of test sets drawn with $n_b a_b \sim \mathrm{Binomial}(n_b, c_b + e_b)$. Zero:
    $e_b = 0$. Within: the largest p-value of $e_b = 0$, of $e_b = \pm$ tolerance (cut
    off where a probability ends) and of the likeliest errors with
    $\sum_b w_b |e_b| =$ tolerance, which are the observed ones shrunk towards 0.
    Beyond: the largest p-value of errors with that sum that are equal in all bins or
    proportional to the bin's standard error; those are the hardest to see. The binomial
    law ignores the spread of confidences inside a bin, which would make the draws vary
    by a few per cent less. The same numbers on every run.

    Args:
        confidence: mean confidence of each bin, (bins,).
        accuracy: share of right predictions of each bin, (bins,).
        count: points of each bin, (bins,), at least 1.
        tolerance: above 0, as a fraction.

    Returns:
        The mean error by chance and three p-values.

    References:
        Vaicenavicius, Widmann, Andersson, Lindsten, Roll and Schön, 2019, AISTATS
        (consistency resampling).

    >>> import numpy as np
    >>> c, n = np.array([0.5, 0.9]), np.array([1000, 2000])
    >>> test = error_test(c, c - 0.1, n, 0.03)
    >>> test.within < 0.05, test.beyond < 0.05
    (True, False)
    """
    c, n = np.clip(confidence, 0.0, 1.0), np.rint(count).astype(np.int64)
    weight = n / n.sum()
    gap = accuracy - c
    # Draws that repeat the observed counts must count as equal to it.
    value, rounding = float(weight @ np.abs(gap)), 1e-9
    rng = np.random.default_rng(SEED)

    def simulated(probability: np.ndarray) -> np.ndarray:
        total = np.zeros(DRAWS)
        for size, p, mean, share in zip(n, probability, c, weight, strict=True):
            total += share * np.abs(rng.binomial(size, p, size=DRAWS) / size - mean)
        return total

    exact = simulated(c)
    small = [np.clip(c + sign * tolerance, 0.0, 1.0) for sign in (1, -1)]
    small.append(np.clip(c + _likeliest(gap, c, weight, tolerance), 0.0, 1.0))
    above = [float(np.mean(simulated(p) >= value - rounding)) for p in small]
    below = [
        float(np.mean(simulated(p) <= value + rounding))
        for p in off_by(c, n, tolerance)
    ]
    calibrated = float(np.mean(exact >= value - rounding))
    return ErrorTest(
        chance=float(exact.mean()),
        calibrated=calibrated,
        within=max(calibrated, *above),
        beyond=max(below, default=1.0),
    )


def chance_of_pass(
    confidence: np.ndarray, count: np.ndarray, n: int, tolerance: float
) -> float:
    """Probability that a calibrated classifier shows an error below the tolerance.

    By the normal approximation of `error_test`, at its level of 5 %.

    Args:
        confidence: mean confidence of each bin, (bins,).
        count: points of each bin, (bins,); only their shares matter.
        n: points of the test set to be drawn.
        tolerance: as in `error_test`.
    """
    c, weight = np.clip(confidence, 0.0, 1.0), count / np.sum(count)
    noise = np.random.default_rng(SEED).standard_normal((DRAWS, c.size))

    def simulated(probability: np.ndarray) -> np.ndarray:
        se = np.sqrt(probability * (1 - probability) / (n * weight))
        return np.abs(probability - c + se * noise) @ weight

    limits = [np.quantile(simulated(p), 0.05) for p in off_by(c, count, tolerance)]
    return float(np.mean(simulated(c) < min(limits))) if limits else 0.0


def off_by(
    confidence: np.ndarray, count: np.ndarray, tolerance: float
) -> Iterator[np.ndarray]:
    """Probabilities with this calibration error that are the hardest to see, (bins,).

    Off in all bins equally, or in proportion to the bin's standard error; upwards or
    downwards, as far as there is room.
    """
    weight = count / np.sum(count)
    spread = np.sqrt(confidence * (1 - confidence) / count)
    for shape in (np.ones_like(confidence), spread):
        for sign in (1, -1):
            room = (1 - confidence) if sign > 0 else confidence
            room = np.where(shape > 0, room, 0.0)
            if weight @ room < tolerance:
                continue
            low, high = 0.0, float(np.max(1 / shape[shape > 0]))
            for _ in range(60):
                middle = (low + high) / 2
                if weight @ np.minimum(middle * shape, room) < tolerance:
                    low = middle
                else:
                    high = middle
            yield np.clip(confidence + sign * np.minimum(high * shape, room), 0.0, 1.0)


def _likeliest(
    gap: np.ndarray, confidence: np.ndarray, weight: np.ndarray, tolerance: float
) -> np.ndarray:
    r"""The errors of total at most the tolerance that fit the observed ones best.

    They minimize $\sum_b w_b (e_b - g_b)^2 / (2 v_b)$ for $\sum_b w_b |e_b| \le$
    tolerance: $e_b$ is $g_b$ moved towards 0 by $\lambda v_b$, $v_b = c_b (1 - c_b)$.
    """
    size, variance = np.abs(gap), np.maximum(confidence * (1 - confidence), 1e-4)
    low, high = 0.0, float(np.max(size / variance))
    if weight @ size <= tolerance:
        return gap
    for _ in range(60):
        middle = (low + high) / 2
        if weight @ np.maximum(size - middle * variance, 0.0) > tolerance:
            low = middle
        else:
            high = middle
    return np.sign(gap) * np.maximum(size - high * variance, 0.0)
