"""Standard errors and intervals by resampling, the same on every run."""

import numpy as np

from .records import Score


SEED = 20231


def resamples(n: int, budget: int = 20_000_000) -> int:
    """How many resamples of n values to draw: 200 to 1000, fewer for large n."""
    return int(np.clip(budget // max(n, 1), 200, 1000))


def distance_score(
    value: float, replicates: np.ndarray, n: int, p: float | None = None
) -> Score:
    r"""A distance from perfection with bootstrap standard error and 95 % interval.

    A distance is biased upwards: noise alone moves it away from 0, and resampling adds
    the same amount again. So the interval is the reflected one, $2\hat\theta -
    \theta^*_{97.5\,\%}$ to $2\hat\theta - \theta^*_{2.5\,\%}$, cut off at 0 and
    stretched where needed to contain the value itself. Near perfection, where a
    distance has no normal law, it holds the truth less often than 95 %: it describes
    the value, and tests are done by other means.

    Args:
        value: the distance.
        replicates: the distance on each resample, (B,).
        n: number of points.
        p: kept along in the record.
    """
    if n < 2:
        return Score(value, None, n, None, p=p)
    low, high = np.quantile(replicates, [0.025, 0.975])
    ends = max(min(2 * value - high, value), 0.0), max(2 * value - low, value)
    se = float(np.std(replicates, ddof=1))
    return Score(value, se, n, (float(ends[0]), float(ends[1])), p=p)


def cell_counts(counts: np.ndarray, size: int) -> np.ndarray:
    """Resampled counts of points per cell, (size, cells), from the observed counts."""
    rng = np.random.default_rng(SEED)
    total = counts.sum()
    return rng.multinomial(round(total), counts / total, size=size)


def group_means(
    values: np.ndarray, group: np.ndarray, draws: int = 2000
) -> tuple[np.ndarray, int]:
    """Means of resampled groups, whole groups at a time, and the number of groups.

    Args:
        values: (n,) or (n, k).
        group: the group of each point, (n,).
        draws: most resamples to draw.
    """
    names, code = np.unique(group, return_inverse=True)
    total = len(names)
    columns = values.reshape(values.shape[0], -1)
    sums = np.stack(
        [np.bincount(code, column, minlength=total) for column in columns.T], axis=1
    )
    sizes = np.bincount(code, minlength=total)
    rng = np.random.default_rng(SEED)
    out = np.empty((min(draws, resamples(total) * 2), columns.shape[1]))
    step = max(1, 2_000_000 // total)
    for start in range(0, out.shape[0], step):
        rows = min(step, out.shape[0] - start)
        index = rng.integers(0, total, size=(rows, total))
        key = index + total * np.arange(rows)[:, None]
        often = np.bincount(key.reshape(-1), minlength=rows * total)
        often = often.reshape(rows, total)
        out[start : start + rows] = (often @ sums) / (often @ sizes)[:, None]
    return out.reshape(-1, *values.shape[1:]), total
