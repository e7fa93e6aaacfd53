"""Both tails of any observed distribution, and the interval between equal tails."""

import jax
import numpy as np
from numpyro import distributions as dist

from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive

from .inputs import moments
from .invert import crossing, first_whole


def tails(p: Predictive, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""$F(y)$ and $1 - F(y^-)$, the probabilities of at most and of at least y."""
    from scipy import special

    d = p.observed
    if isinstance(d, dist.Normal):
        mean, std = moments(p)
        z = (y - mean) / std
        return special.ndtr(z), special.ndtr(-z)
    if isinstance(d, Empirical):
        values, at = np.asarray(d.values), y[..., None]
        return (values <= at).mean(axis=-1), (values >= at).mean(axis=-1)
    if isinstance(d, QuantileTable):
        values, levels = np.asarray(d.values), np.asarray(d.levels)
        below = _table(levels, values, y)
        # mirrored: the levels and the values of -y
        return below, _table((1 - levels)[::-1], -values[..., ::-1], -y)
    return _below(p, y), _above(p, np.ceil(y) - 1 if d.is_discrete else y)


def ends(p: Predictive, tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""$\inf\{y : F(y) \ge t\}$ and $\sup\{y : 1 - F(y^-) \ge t\}$."""
    from scipy import special

    d = p.observed
    if isinstance(d, dist.Normal):
        mean, std = moments(p)
        half = -std * special.ndtri(tail)
        return mean - half, mean + half
    if isinstance(d, Empirical):
        values = np.sort(np.asarray(d.values), axis=-1)
        size = values.shape[-1]
        # 1e-9: t is k / S, and rounding must not make k of it k + 1
        place = np.clip(np.ceil(size * tail - 1e-9).astype(int), 1, size)[..., None]
        low = np.take_along_axis(values, place - 1, axis=-1)
        return low[..., 0], np.take_along_axis(values, size - place, axis=-1)[..., 0]
    if isinstance(d, QuantileTable):
        values, levels = np.asarray(d.values), np.asarray(d.levels)
        low = _table_quantile(levels, values, tail)
        return low, -_table_quantile((1 - levels)[::-1], -values[..., ::-1], tail)
    return _search(p, tail)


def central(p: Predictive, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The central interval, as `Predictive.interval` has it, in float64.

    Raises:
        ValueError: for a level beyond a quantile table.
    """
    d, tail = p.observed, (1 - level) / 2
    if isinstance(d, Empirical):
        low, high = np.quantile(np.asarray(d.values), [tail, 1 - tail], axis=-1)
        return low, high
    if isinstance(d, QuantileTable):
        levels = np.asarray(d.levels)
        # 1e-6: levels may have been rounded to float32
        if max(levels[0], 1 - levels[-1]) > tail + 1e-6:
            raise ValueError(
                f"expected an interval within the levels of the quantile table, "
                f"{levels[0]:g} to {levels[-1]:g}, got level {level:g}; "
                "Quantiles(level=...) may take a smaller one"
            )
    return ends(p, np.full(tuple(d.batch_shape), tail))


def _search(p: Predictive, tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends for a distribution that is known by its distribution function."""
    from scipy import special

    mean, std = moments(p)
    if p.observed.is_discrete:
        start, step = np.round(mean), np.ceil(std)

        def holds(y: np.ndarray) -> np.ndarray:
            return tails(p, y)[0] >= tail

        def mirrored_holds(y: np.ndarray) -> np.ndarray:
            return tails(p, -y)[1] >= tail

        low = first_whole(holds, start, step)
        return low, -first_whole(mirrored_holds, -start, step)

    # On the scale of normal quantiles a tail is nearly a straight line.
    aim = special.ndtri(np.clip(tail, 1e-300, 1 - 1e-16))

    def gap(share: np.ndarray) -> np.ndarray:
        return special.ndtri(np.clip(share, 1e-300, 1 - 1e-16)) - aim

    def below(y: np.ndarray) -> np.ndarray:
        return gap(_below(p, y))

    def above(y: np.ndarray) -> np.ndarray:
        return gap(_above(p, -y))

    guess = std * np.clip(aim, -8, 8)
    low = crossing(below, mean + guess, std)
    return low, -crossing(above, -mean + guess, std)


def _is_normal_mixture(d: dist.Distribution) -> bool:
    return isinstance(d, dist.MixtureSameFamily) and isinstance(
        d.component_distribution, dist.Normal
    )


def _below(p: Predictive, y: np.ndarray) -> np.ndarray:
    """F(y)."""
    if _is_normal_mixture(p.observed):
        return _mixture(p.observed, y, 1)
    at = np.floor(y) if p.observed.is_discrete else y
    with jax.enable_x64(True):
        share = np.asarray(p.cdf(at))
        possible = np.asarray(p.observed.support(at))  # pyright: ignore[reportOptionalCall]
        mean = np.asarray(p.mean)
    # NumPyro does not define F where nothing can be observed: counts below 0
    return np.where(possible, share, (at > mean).astype(np.float64))


def _above(p: Predictive, y: np.ndarray) -> np.ndarray:
    """1 - F(y)."""
    if _is_normal_mixture(p.observed):
        return _mixture(p.observed, y, -1)
    return 1 - _below(p, y)


def _mixture(d: dist.Distribution, y: np.ndarray, sign: int) -> np.ndarray:
    from scipy import special

    parts = d.component_distribution  # pyright: ignore[reportAttributeAccessIssue]
    weights = d.mixing_distribution.probs  # pyright: ignore[reportAttributeAccessIssue]
    z = sign * (y[..., None] - np.asarray(parts.loc)) / np.asarray(parts.scale)
    return np.sum(np.asarray(weights) * special.ndtr(z), axis=-1)


def _table(levels: np.ndarray, values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """F of a quantile table: 0 below it, 1 from its last value on."""
    size = values.shape[-1]
    below = np.sum(values <= y[..., None], axis=-1)
    left = np.clip(below - 1, 0, size - 2)[..., None]
    v0 = np.take_along_axis(values, left, axis=-1)[..., 0]
    v1 = np.take_along_axis(values, left + 1, axis=-1)[..., 0]
    l0, l1 = levels[left[..., 0]], levels[left[..., 0] + 1]
    inside = l0 + (l1 - l0) * (y - v0) / np.where(v1 > v0, v1 - v0, 1.0)
    return np.where(below == 0, 0.0, np.where(below == size, 1.0, inside))


def _table_quantile(
    levels: np.ndarray, values: np.ndarray, q: np.ndarray
) -> np.ndarray:
    """The least value with F of at least q > 0: a flat end beyond the levels."""
    right = np.clip(np.searchsorted(levels, q), 1, levels.size - 1)
    l0, l1 = levels[right - 1], levels[right]
    v0 = np.take_along_axis(values, right[..., None] - 1, axis=-1)[..., 0]
    v1 = np.take_along_axis(values, right[..., None], axis=-1)[..., 0]
    return v0 + np.clip((q - l0) / (l1 - l0), 0.0, 1.0) * (v1 - v0)
