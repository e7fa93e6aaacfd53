"""Scores taken apart into miscalibration, discrimination and uncertainty."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .bands import AbstractBand, Cells, ConsistencyBand
from .binned import Chance
from .blocks import Blocks, blocks, means
from .isotonic import Isotonic, gain_by_chance, isotonic
from .records import Score
from .top_label import binary


DRAWS = 200


@dataclass(frozen=True)
class Decomposition:
    """A mean score = miscalibration − discrimination + uncertainty.

    Args:
        score: of the predictions.
        miscalibration: what the best increasing recalibration would gain; not below 0.
        discrimination: what that recalibration gains on the share of outcomes alone;
            not below 0.
        uncertainty: of the share of outcomes, predicted at every point.
    """

    score: Score
    miscalibration: Score
    discrimination: Score
    uncertainty: Score


@dataclass(frozen=True)
class Corp:
    r"""The reliability of yes-no probabilities without bins.

    Args:
        curve: columns `confidence`, `accuracy`, `lower`, `upper`, at most 200 points;
            straight lines between them.
        brier: decomposition of the mean of $(p - y)^2$.
        log: decomposition of the mean of $-\ln$ of the probability of the outcome.
        chance: the miscalibration (Brier) that a calibrated model would show: mean,
            standard deviation, and the interval that holds 95 %.
        recalibrated: the best increasing recalibration at each point, (n,).
    """

    curve: Mapping[str, np.ndarray] = field(repr=False)
    brier: Decomposition
    log: Decomposition
    chance: Score
    recalibrated: np.ndarray = field(repr=False)


def corp(
    probability: np.ndarray,
    outcome: np.ndarray,
    *,
    band: AbstractBand = ConsistencyBand(0.95),  # noqa: B008 - immutable
    group: np.ndarray | None = None,
) -> Corp:
    r"""Reliability curve and decomposition by pooling adjacent violators.

    With the increasing function x of the probability that fits the outcomes best, and
    the mean score $S$, miscalibration is $S(p) - S(x)$, discrimination $S(\bar y) -
    S(x)$ and uncertainty $S(\bar y)$. Each has the standard error of the mean of its
    point-by-point values: the fit is optimal, so that its own noise counts only in
    second order. Miscalibration is biased upwards, since x is fitted to the same
    outcomes; `chance` tells by how much, and its p-value is that of a calibrated model.

    Args:
        probability: (n,), between 0 and 1.
        outcome: (n,), booleans.
        band: `ConsistencyBand(level)` or `ConfidenceBand(level)`.
        group: points with the same value depend on each other, (n,).

    Raises:
        ValueError: for shapes that do not fit, or values outside 0 to 1.

    >>> import numpy as np
    >>> c = corp(np.array([0.2, 0.2, 0.7, 0.9]), np.array([0, 0, 1, 0])).brier
    >>> parts = c.miscalibration, c.discrimination, c.uncertainty
    >>> [round(part.value, 4) for part in (c.score, *parts)]
    [0.245, 0.12, 0.0625, 0.1875]

    References:
        Dimitriadis, Gneiting and Jordan, 2021, PNAS 118, e2016191118 (arXiv
        2008.03033).
    """
    p, y = binary(probability, outcome)
    dealt = blocks(p.size, group)
    fit = isotonic(p, y)
    curve, chance = reliability(p, y, fit, dealt, band)
    x = fit.fitted
    brier = decomposition((p - y) ** 2, (x - y) ** 2, (y.mean() - y) ** 2, group)
    logs = [_log_score(q, y) for q in (np.clip(p, 0.0, 1.0), x, y.mean())]
    log = decomposition(logs[0], logs[1], logs[2], group)
    judged = chance(brier.miscalibration.value)
    brier = replace(brier, miscalibration=replace(brier.miscalibration, p=judged.p))
    return Corp(curve, brier, log, judged.score, x)


def reliability(
    p: np.ndarray, y: np.ndarray, fit: Isotonic, dealt: Blocks, band: AbstractBand
) -> tuple[dict[str, np.ndarray], "_ByChance"]:
    """The curve with its band, and what its miscalibration would be by chance.

    Args:
        p: probabilities, (n,).
        y: outcomes 0 and 1, (n,), floating.
        fit: of y on p.
        dealt: the points in blocks.
        band: what the band says.
    """
    cells = Cells.of(p, fit)
    at = fit.corners()
    lower, upper = band.ends(cells, cells.of_value[at], y, p, dealt)
    curve = {
        "confidence": np.clip(fit.probability[at], 0.0, 1.0),
        "accuracy": np.clip(fit.value[at], 0.0, 1.0),
        "lower": lower,
        "upper": upper,
    }
    return curve, _ByChance(cells, y - p, dealt)


def decomposition(
    score: np.ndarray,
    recalibrated: np.ndarray,
    constant: np.ndarray,
    group: np.ndarray | None = None,
) -> Decomposition:
    """From the scores of each point under three predictions.

    Args:
        score: of the predictions, (n,).
        recalibrated: of the best recalibration, (n,).
        constant: of the share of outcomes, (n,).
        group: points with the same value depend on each other, (n,).
    """
    columns = {
        "score": score,
        "miscalibration": score - recalibrated,
        "discrimination": constant - recalibrated,
        "uncertainty": constant,
    }
    found = means(columns, group)
    for name in ("miscalibration", "discrimination"):
        found[name] = not_negative(found[name])
    return Decomposition(**found)


def class_decomposition(
    columns: np.ndarray,
    codes: np.ndarray,
    score: np.ndarray,
    dealt: Blocks,
    group: np.ndarray | None = None,
) -> tuple[Decomposition, Score]:
    """The Brier score summed over classes, each against the rest, and chance.

    Args:
        columns: probabilities by class, (K, n).
        codes: (n,).
        score: Brier scores, (n,).
        dealt: the points in blocks.
        group: as in `corp`.

    Returns:
        The decomposition, and the mean miscalibration of a calibrated model.
    """
    n = codes.size
    squares, own, expected = np.zeros(n), np.zeros(n), 0.0
    for k, p in enumerate(columns):
        y = (codes == k).astype(float)
        fit = isotonic(p, y)
        x = fit.fitted
        squares += x**2
        own += x * y
        if dealt.grouped:
            cells = Cells.of(p, fit)
            share = cells.calibrated(20, y - p, dealt)
            expected += float(cells.miscalibration(share).mean())
        else:
            expected += gain_by_chance(fit, max(1, 100 // len(columns)))
    # sum_k (x_k - y_k)^2 = sum_k x_k^2 - 2 x_own + 1
    recalibrated = squares - 2 * own + 1
    rate = np.bincount(codes, minlength=len(columns)) / n
    constant = rate @ rate - 2 * rate[codes] + 1
    by_chance = Score(expected, None, n, None)
    return decomposition(score, recalibrated, constant, group), by_chance


def not_negative(score: Score) -> Score:
    """The same score with its interval cut off at 0."""
    if score.interval is None:
        return score
    low, high = score.interval
    value = max(score.value, 0.0)  # rounding
    return replace(score, value=value, interval=(max(low, 0.0), max(high, 0.0)))


@dataclass(frozen=True)
class _ByChance:
    cells: Cells
    residual: np.ndarray
    dealt: Blocks

    def __call__(self, value: float) -> Chance:
        share = self.cells.calibrated(DRAWS, self.residual, self.dealt)
        draws = np.maximum(self.cells.miscalibration(share), 0.0)
        return Chance.of(draws, value, self.dealt.n)


def _log_score(p: np.ndarray | float, y: np.ndarray) -> np.ndarray:
    hit = np.where(y > 0, p, 1 - np.asarray(p))
    with np.errstate(divide="ignore"):
        return -np.log(hit)
