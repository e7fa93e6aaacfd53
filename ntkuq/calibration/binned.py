"""Calibration errors over bins, with what chance alone would show."""

from dataclasses import dataclass

import numpy as np

from .binning import AbstractBinning, EqualWidth
from .blocks import DRAWS, Blocks, blocks
from .bootstrap import SEED
from .norms import L1, AbstractNorm
from .records import Score
from .top_label import binary, classes


SIMULATED = 1000  # test sets of a calibrated model
TOGETHER = 50  # classes whose resamples are held at once


@dataclass(frozen=True)
class Chance:
    """What a calibrated model would show on the same points.

    Args:
        score: the mean of its values, their standard deviation, and the interval that
            holds 95 % of them.
        p: how often it shows at least the value found; None where this is not known.
    """

    score: Score
    p: float | None

    @staticmethod
    def of(draws: np.ndarray, value: float, n: int) -> "Chance":
        """From values of simulated calibrated models.

        Args:
            draws: (draws,).
            value: the value found.
            n: number of points.
        """
        low, high = np.quantile(draws, [0.025, 0.975])
        spread = float(draws.std(ddof=1)) if n > 1 else None
        ends = (float(low), float(high)) if n > 1 else None
        # Draws that repeat the observed counts must count as equal to it.
        p = float(np.mean(draws >= value - 1e-9))
        return Chance(Score(float(draws.mean()), spread, n, ends), p)


def expected_calibration_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    binning: AbstractBinning = EqualWidth(15),  # noqa: B008 - immutable
    *,
    norm: AbstractNorm = L1(),  # noqa: B008 - immutable
    group: np.ndarray | None = None,
) -> Score:
    r"""Calibration error of yes-no probabilities or of the top label, over bins.

    $\sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|$ unless another norm is
    given. It is biased upwards: a calibrated model has a positive value of the order
    $\sqrt{\text{bins in use} / n}$; `chance_error` tells it. Standard error and
    interval are by bootstrap (`distance_score`) with the bins as they are; they
    describe the value. The p-value is that of a calibrated model. To decide whether an
    error is small use `error_test`.

    Args:
        confidence: (n,), between 0 and 1.
        correct: (n,), booleans.
        binning: `EqualWidth` or `EqualCount`.
        norm: `L1`, `L2`, `DebiasedL2` or `Largest`.
        group: points with the same value depend on each other, (n,): whole groups are
            resampled.

    Raises:
        ValueError: for shapes that do not fit, or values outside 0 to 1.

    >>> import numpy as np
    >>> s = expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    >>> print(f"{s.value:.2f}")
    0.40

    References:
        Guo, Pleiss, Sun and Weinberger, 2017, ICML. Vaicenavicius, Widmann, Andersson,
        Lindsten, Roll and Schön, 2019, AISTATS (consistency resampling).
    """
    p, y = binary(confidence, correct)
    return binned_error(p, y, blocks(p.size, group), binning, norm)[0]


def chance_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    binning: AbstractBinning = EqualWidth(15),  # noqa: B008 - immutable
    *,
    norm: AbstractNorm = L1(),  # noqa: B008 - immutable
    group: np.ndarray | None = None,
) -> Score:
    r"""What `expected_calibration_error` would be for a calibrated model.

    From 1000 test sets with $n_b \mathrm{acc}_b \sim \mathrm{Binomial}(n_b,
    \mathrm{conf}_b)$; with groups, from resampled groups about their mean.

    Args:
        confidence: (n,), between 0 and 1.
        correct: (n,), booleans; it matters only with groups.
        binning: as there.
        norm: as there.
        group: as there.

    Returns:
        The mean, the standard deviation, and the interval that holds 95 % of the
        values.

    >>> import numpy as np
    >>> right = np.tile([True, False], 50)
    >>> print(f"{chance_error(np.full(100, 0.5), right).value:.3f}")
    0.042
    """
    p, y = binary(confidence, correct)
    return binned_error(p, y, blocks(p.size, group), binning, norm)[1].score


def binned_error(
    p: np.ndarray,
    y: np.ndarray,
    dealt: Blocks,
    binning: AbstractBinning,
    norm: AbstractNorm = L1(),  # noqa: B008 - immutable
) -> tuple[Score, Chance]:
    """The calibration error and what chance would show.

    Args:
        p: probabilities, (n,).
        y: outcomes 0 and 1, (n,), floating.
        dealt: the points in blocks.
        binning: which points are looked at together.
        norm: how gaps make a number.
    """
    cells, bins = binning.index(p), binning.bins
    by_block = [dealt.sums(cells, bins, a) for a in (y - p, np.ones_like(p), y)]
    gap, count, right = (sums.sum(axis=0) for sums in by_block)
    value = float(norm(gap, count, right))
    replicates = norm(*(dealt.again(sums) for sums in by_block))
    mean = np.clip((right - gap) / np.where(count > 0, count, 1), 0.0, 1.0)
    if dealt.grouped:
        noise = dealt.noise(by_block[0])
        hits = np.clip(count * mean + noise, 0.0, count)
    else:
        rng = np.random.default_rng(SEED)
        hits = rng.binomial(np.rint(count).astype(np.int64), mean, (SIMULATED, bins))
        noise = hits - count * mean
    chance = Chance.of(norm(noise, count, hits), value, dealt.n)
    return dealt.distance(value, replicates, chance.p), chance


def class_calibration_error(
    probs: np.ndarray,
    codes: np.ndarray,
    binning: AbstractBinning = EqualWidth(15),  # noqa: B008 - immutable
    *,
    group: np.ndarray | None = None,
) -> Score:
    r"""Class-wise calibration error: each class against the rest, averaged.

    $\frac1K \sum_k \sum_b \frac{n_{kb}}{n} |\mathrm{freq}_{kb} - \mathrm{prob}_{kb}|$,
    where bins hold the probabilities of class k. Biased upwards; standard error and
    interval as in `expected_calibration_error`.

    Args:
        probs: (n, K), each row summing to 1.
        codes: (n,), classes 0 to K - 1.
        binning: `EqualWidth` or `EqualCount`, class by class.
        group: points with the same value depend on each other, (n,).

    Raises:
        ValueError: for shapes that do not fit, or values that are no probabilities.

    >>> import numpy as np
    >>> s = class_calibration_error(np.array([[0.9, 0.1]] * 2), np.array([0, 1]))
    >>> print(f"{s.value:.2f}")
    0.40

    References:
        Kull, Perello-Nieto, Kängsepp, Silva Filho, Song and Flach, 2019, NeurIPS
        (arXiv 1910.12656).
    """
    p, y = classes(probs, codes)
    dealt = blocks(len(y), group)
    return class_error(np.ascontiguousarray(p.T), y, dealt, binning)[0]


def class_error(
    columns: np.ndarray,
    codes: np.ndarray,
    dealt: Blocks,
    binning: AbstractBinning = EqualWidth(15),  # noqa: B008 - immutable
) -> tuple[Score, Chance]:
    """The class-wise calibration error and what chance would show.

    Args:
        columns: probabilities by class, (K, n).
        codes: (n,).
        dealt: the points in blocks.
        binning: which points are looked at together.
    """
    bins, n = binning.bins, dealt.n
    value, expected, replicates, noisy = 0.0, 0.0, np.zeros(DRAWS), np.zeros(DRAWS)
    for start in range(0, len(columns), TOGETHER):
        by_block = []
        for k, p in enumerate(columns[start : start + TOGETHER], start):
            cells = binning.index(p)
            by_block.append(dealt.sums(cells, bins, (codes == k) - p))
            if not dealt.grouped:
                count = np.bincount(cells, minlength=bins)
                mean = np.bincount(cells, p, minlength=bins) / np.maximum(count, 1)
                mean = np.clip(mean, 0.0, 1.0)
                expected += float(mean_deviation(count, mean).sum())
        sums = np.concatenate(by_block, axis=1)
        value += float(np.abs(sums.sum(axis=0)).sum())
        replicates += np.abs(dealt.again(sums)).sum(axis=1)
        if dealt.grouped:
            noisy += np.abs(dealt.noise(sums)).sum(axis=1)
    scale = 1 / (len(columns) * n)
    if dealt.grouped:
        chance = Chance.of(scale * noisy, scale * value, n)
    else:
        # Bins of different classes depend on each other: only the mean is simple.
        chance = Chance(Score(scale * expected, None, n, None), None)
    return dealt.distance(scale * value, scale * replicates, chance.p), chance


def mean_deviation(n: np.ndarray, p: np.ndarray) -> np.ndarray:
    r"""$E|X - np|$ of a binomial X, by De Moivre's formula.

    $2 (1 - p)\,m\,\Pr(X = m)$ with $m = \lfloor np \rfloor + 1$, and 0 where p is 0
    or 1.

    Args:
        n: (...), counts.
        p: (...).

    >>> import numpy as np
    >>> print(mean_deviation(np.array([2]), np.array([0.5])))
    [0.5]

    References:
        Diaconis and Zabell, 1991, Statistical Science 6, 284-302.
    """
    from scipy import special

    m = np.floor(n * p) + 1
    inner = (p > 0) & (p < 1) & (n > 0)
    m, n, q = np.where(inner, m, 1), np.where(inner, n, 1), np.where(inner, p, 0.5)
    m = np.minimum(m, n)
    choices = special.gammaln(n + 1) - special.gammaln(m + 1)
    log_share = (
        choices - special.gammaln(n - m + 1) + m * np.log(q) + (n - m) * np.log1p(-q)
    )
    return np.where(inner, 2 * (1 - q) * m * np.exp(log_share), 0.0)
