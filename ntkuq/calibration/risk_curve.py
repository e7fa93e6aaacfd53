"""The loss of what is kept against how much is kept, with its band."""

import numpy as np

from .areas import ordered
from .bootstrap import SEED


POINTS = 200  # most points of a curve

CELLS = 500  # cells of neighboring points that are resampled for the band

DRAWS = 1000


def risk_curve(values: np.ndarray, losses: np.ndarray) -> dict[str, np.ndarray]:
    """The risk-coverage curve with its bootstrap band.

    Neighboring points form cells (ties stay together) that stand for the points when
    resampling: their counts are multinomial, and the sum of k losses of a cell is
    normal with the moments of k draws from it. Up to 500 points without ties a cell
    is a point.

    Args:
        values: larger is less certain, (n,).
        losses: (n,).

    Returns:
        Columns `coverage`, `risk`, `lower`, `upper`, (K,) each with K <= 200.
    """
    n = losses.size
    kept = ordered(values, losses)
    at = np.unique(np.ceil(np.linspace(n / POINTS, n, min(n, POINTS))).astype(int))
    risk = np.cumsum(kept.expected)[at - 1] / at
    coverage = at / n
    out = {"coverage": coverage, "risk": risk}
    if n < 2:
        return out | {"lower": risk * np.nan, "upper": risk * np.nan}

    first = kept.start * CELLS // max(n, CELLS) if n > CELLS else kept.start
    cell = np.unique(first, return_inverse=True)[1]
    count = np.bincount(cell)
    mean = np.bincount(cell, kept.losses) / count
    spread = np.sqrt(np.bincount(cell, (kept.losses - mean[cell]) ** 2) / count)
    rng = np.random.default_rng(SEED)
    counts = rng.multinomial(n, count / n, size=DRAWS)
    noise = rng.standard_normal(counts.shape) if spread.any() else 0.0
    sums = np.maximum(counts * mean + np.sqrt(counts) * spread * noise, 0.0)
    if losses.max() <= 1:
        sums = np.minimum(sums, counts)
    edges = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0))) / n
    totals = np.pad(np.cumsum(sums, axis=1), ((0, 0), (1, 0))) / n
    draws = np.stack(
        [np.interp(coverage, x, t) / coverage for x, t in zip(edges, totals)]
    )
    lower, upper = np.quantile(draws, [0.025, 0.975], axis=0)
    # The band of a curve shows the curve inside.
    return out | {"lower": np.minimum(lower, risk), "upper": np.maximum(upper, risk)}
