"""The factor with the least mean loss, exactly where that can be had."""

from collections.abc import Callable

import numpy as np


def smallest(
    loss: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Where each of several functions of one number is least.

    A grid of 61 numbers finds the valley, so that a function with several is followed
    into the lowest; golden sections find the bottom to about $10^{-8}$.

    Args:
        loss: one function at each entry; (...) to (...).
        low: (...).
        high: (...).

    >>> import numpy as np
    >>> at = np.array([1.0, -2.0])
    >>> smallest(lambda x: (x - at) ** 2, np.full(2, -9.0), np.full(2, 9.0)).round(6)
    array([ 1., -2.])
    """
    grid = np.linspace(0, 1, 61)
    values = np.stack([loss(low + share * (high - low)) for share in grid])
    best = np.argmin(np.where(np.isnan(values), np.inf, values), axis=0)
    a = low + grid[np.maximum(best - 1, 0)] * (high - low)
    b = low + grid[np.minimum(best + 1, 60)] * (high - low)
    ratio = (np.sqrt(5) - 1) / 2
    left, right = b - ratio * (b - a), a + ratio * (b - a)
    at_left, at_right = loss(left), loss(right)
    for _ in range(45):  # 0.618^45 of two cells of the grid is below 1e-8 for log s
        down = at_left <= at_right
        a, b = np.where(down, a, left), np.where(down, right, b)
        new = np.where(down, b - ratio * (b - a), a + ratio * (b - a))
        found = loss(new)
        left, right = np.where(down, new, right), np.where(down, left, new)
        at_left, at_right = (
            np.where(down, found, at_right),
            np.where(down, at_left, found),
        )
    return np.asarray((a + b) / 2)


def best_for_samples(values: np.ndarray, away: np.ndarray, who: str) -> np.ndarray:
    r"""The factor on samples with the least fair CRPS.

    With $d_{ij} = z_{ij} - m_i$ and $r_i = y_i - m_i$ the sum of the scores is
    $\sum_{ij} \frac{|d_{ij}|}{S} |s - r_i / d_{ij}| - s \sum_i G_i$, where $G_i$ is
    half the mean distance of two samples. Its least point is a weighted median of
    $r_i / d_{ij}$, tilted by G.

    Args:
        values: z, (N, S) or (N, C, S).
        away: r, (N,) or (N, C).
        who: the name of the method, for messages.

    Returns:
        Shape () or (C,).
    """
    size = values.shape[-1]
    if size < 10:
        raise ValueError(
            f"{who}: expected at least 10 samples of each point to know their spread, "
            f"got {size}"
        )
    if away.ndim == 2:
        return np.array(
            [
                best_for_samples(values[:, c], away[:, c], who)
                for c in range(away.shape[1])
            ]
        )
    ordered = np.sort(values, axis=-1)
    d = ordered - ordered.mean(axis=-1, keepdims=True)
    rank = 2 * np.arange(1, size + 1) - size - 1
    tilt = float((d @ rank).sum() / (size * (size - 1)))
    r = np.broadcast_to(away[:, None], d.shape)
    used = d != 0
    weight = np.abs(d[used]) / size
    at = r[used] / d[used]
    if not at.size:
        raise ValueError(f"{who}: expected samples that differ, got equal ones only")
    order = np.argsort(at, kind="stable")
    total = np.cumsum(weight[order])
    place = np.searchsorted(total, (total[-1] + tilt) / 2)
    return np.asarray(at[order][min(place, at.size - 1)])
