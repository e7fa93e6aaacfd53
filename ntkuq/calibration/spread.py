"""Does a larger predicted spread mean larger errors? Curves over the predictions."""

import numpy as np


#: Fewest points in a bin.
LEAST = 30


def spread_curve(std: np.ndarray, error: np.ndarray, bins: int = 20) -> dict:
    r"""Root mean squared error over predicted spread, by predicted spread.

    The points are sorted by their predicted standard deviation $\sigma$ and cut into
    bins of equal count, at least 30 points each. In bin b the ratio is
    $\sqrt{\sum (y - \mu)^2 / \sum \sigma^2}$. The band holds the ratio of a calibrated
    prediction with Gaussian errors of one size in a bin, $\sqrt{\chi^2_n / n}$, with
    95 % probability, bin by bin.

    Args:
        std: predicted standard deviations of the observations, (n,).
        error: observation minus mean, (n,), in the units of std.
        bins: most bins.

    Returns:
        Columns `std` (root mean predicted variance), `ratio`, `count`, `lower`,
        `upper`, one entry a bin.

    References:
        Levi, Gispan, Giladi and Fetaya, 2022, Sensors 22 (arXiv 1905.11659).

    >>> import numpy as np
    >>> curve = spread_curve(np.ones(60), np.full(60, 2.0))
    >>> curve["ratio"].tolist(), curve["count"].tolist()
    ([2.0, 2.0], [30.0, 30.0])
    """
    from scipy import stats

    n = std.size
    cells = max(min(bins, n // LEAST), 1)
    order = np.argsort(std, kind="stable")
    # the first bins are longer by one where n is no multiple
    edges = np.cumsum([0, *(len(part) for part in np.array_split(order, cells))])
    count = np.diff(edges).astype(float)
    predicted = np.add.reduceat(std[order] ** 2, edges[:-1])
    seen = np.add.reduceat(error[order] ** 2, edges[:-1])
    return {
        "std": np.sqrt(predicted / count),
        "ratio": np.sqrt(seen / predicted),
        "count": count,
        "lower": np.sqrt(stats.chi2.ppf(0.025, count) / count),
        "upper": np.sqrt(stats.chi2.ppf(0.975, count) / count),
    }


def width_curve(width: np.ndarray) -> dict:
    """Quantiles of the widths of the predicted intervals: how much do they vary?

    Args:
        width: (n,), in the units of the data.

    Returns:
        Columns `level` (5 to 95 % in 19 steps) and `width`.

    >>> import numpy as np
    >>> float(width_curve(np.arange(101.0))["width"][9])
    50.0
    """
    levels = np.arange(1, 20) / 20
    return {"level": levels, "width": np.quantile(width, levels)}
