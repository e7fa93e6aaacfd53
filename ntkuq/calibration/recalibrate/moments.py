"""Mean and variance of a recalibrated law."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from numpyro import distributions as dist
from numpyro.distributions import constraints

from .invert import quantile


MOST = 100_000  # counts above that are not added up

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def mean_and_variance(
    base: dist.Distribution, levels: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
    r"""Of the law $R \circ F$, R piecewise linear: slope times moments of each piece.

    $E[Y] = \sum_k r_k \int_{l_k}^{l_{k+1}} F^{-1}(u)\,du$ with the slopes $r_k$. For a
    Normal and a mixture of Normals the integrals have a closed form at the quantiles
    $F^{-1}(l_k)$; else 8 Gauss-Legendre nodes on each piece, the outermost two divided
    further towards 0 and 1. For counts $E[Y] = \sum_{k \ge 0} P(Y > k)$ and
    $E[Y^2] = \sum_k (2k + 1) P(Y > k)$, up to where nothing is left.

    Args:
        base: F, on JAX arrays, batch (N,) or (N, C).
        levels: l from 0 to 1, (K,) or (C, K).
        values: R there.

    Returns:
        Both of the shape of the batch.
    """
    if base.support is constraints.nonnegative_integer:
        return _by_counting(base, levels, values)
    parts = _normals(base)
    if parts is None:
        return _by_quadrature(base, levels, values)
    loc, scale, weights = parts
    middle = jnp.sum(weights * loc, axis=-1)
    slope = jnp.diff(values) / jnp.diff(levels)
    # knots on an axis behind the batch, (N, K) or (N, C, K)
    inner = jnp.moveaxis(levels[..., 1:-1], -1, 0)
    inner = inner.reshape(
        inner.shape[:1] + (1,) * (middle.ndim + 1 - inner.ndim) + inner.shape[1:]
    )
    knots = jnp.moveaxis(quantile(base, inner), 0, -1)
    knots = jnp.broadcast_to(knots, middle.shape + knots.shape[-1:])
    z = (knots[..., None] - loc[..., None, :]) / scale[..., None, :]
    inside = jnp.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    below, density, tilted = (
        _with_ends(a, *ends)
        for a, ends in ((ndtr(z), (0, 1)), (inside, (0, 0)), (z * inside, (0, 0)))
    )
    zero, one, two = (jnp.diff(a, axis=-2) for a in (below, -density, below - tilted))
    # moments of each component around the mean of the whole, on each piece
    at, by = (loc - middle[..., None])[..., None, :], scale[..., None, :]
    first = at * zero + by * one
    second = at**2 * zero + 2 * at * by * one + by**2 * two
    share = slope[..., :, None] * weights[..., None, :]
    shift = jnp.sum(share * first, axis=(-2, -1))
    square = jnp.sum(share * second, axis=(-2, -1))
    return middle + shift, square - shift**2


def linear(x: jax.Array, y: jax.Array, at: jax.Array) -> jax.Array:
    """The line through (x, y) at `at`; lines (C, K) go with its last axis."""
    if x.ndim == 1:
        return jnp.interp(at, x, y)
    return jax.vmap(jnp.interp, in_axes=(-1, 0, 0), out_axes=-1)(at, x, y)


def _with_ends(a: jax.Array, low: float, high: float) -> jax.Array:
    ends = (*a.shape[:-2], 1, *a.shape[-1:])
    return jnp.concatenate(
        [jnp.full(ends, low, a.dtype), a, jnp.full(ends, high, a.dtype)], axis=-2
    )


def _normals(base: dist.Distribution) -> tuple[jax.Array, jax.Array, jax.Array] | None:
    """Means, scales and weights of the components, on the last axis."""
    if isinstance(base, dist.Normal):
        loc, scale = (jnp.asarray(a) for a in (base.loc, base.scale))
        loc, scale = jnp.broadcast_arrays(loc, scale)
        return loc[..., None], scale[..., None], jnp.ones_like(loc)[..., None]
    if isinstance(base, dist.MixtureSameFamily) and isinstance(
        base.component_distribution, dist.Normal
    ):
        inner = base.component_distribution
        weights = base.mixing_distribution.probs  # pyright: ignore[reportAttributeAccessIssue]
        loc, scale, weights = (
            jnp.asarray(a) for a in (inner.loc, inner.scale, weights)
        )
        loc, scale, weights = jnp.broadcast_arrays(loc, scale, weights)
        return loc, scale, weights
    return None


def _by_counting(
    base: dist.Distribution, levels: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
    zero = jnp.zeros(base.batch_shape, levels.dtype)
    least = jnp.finfo(levels.dtype).eps

    def more(state):
        k, *_, above = state
        return (k < MOST) & jnp.any(above > least)

    def add(state):
        k, first, second, _ = state
        at = jnp.broadcast_to(k.astype(levels.dtype), zero.shape)
        above = 1 - linear(levels, values, jnp.asarray(base.cdf(at), levels.dtype))
        return k + 1, first + above, second + (2 * at + 1) * above, above

    state = (jnp.asarray(0), zero, zero, jnp.ones_like(zero))
    _, first, second, _ = jax.lax.while_loop(more, add, state)
    return first, second - first**2


def _by_quadrature(
    base: dist.Distribution, levels: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
    slope = jnp.diff(values) / jnp.diff(levels)
    # halves, quarters, ... of the outermost pieces, where quantiles run away
    fine = jnp.asarray(0.5 ** np.arange(12, 0, -1), levels.dtype)
    left = levels[..., 1:2] * fine
    right = 1 - (1 - levels[..., -2:-1]) * fine[::-1]
    ends = jnp.concatenate(
        [levels[..., :1], left, levels[..., 1:-1], right, levels[..., -1:]], axis=-1
    )
    first, last = (jnp.repeat(slope[..., k], 12, axis=-1) for k in ([0], [-1]))
    slopes = jnp.concatenate([first, slope, last], axis=-1)
    half = jnp.diff(ends) / 2
    nodes = jnp.asarray((NODES + 1), levels.dtype)
    at = (ends[..., :-1, None] + half[..., None] * nodes).reshape(
        *levels.shape[:-1], -1
    )
    mass = slopes[..., None] * half[..., None] * jnp.asarray(WEIGHTS, levels.dtype)
    mass = jnp.moveaxis(mass.reshape(at.shape), -1, 0)
    at = jnp.moveaxis(at, -1, 0)
    if at.ndim == 1:
        spread = (1,) * len(base.batch_shape)
        at, mass = at.reshape(-1, *spread), mass.reshape(-1, *spread)
    else:
        at, mass = at[:, None], mass[:, None]
    info = jnp.finfo(levels.dtype)
    x = quantile(base, jnp.clip(at, info.tiny, 1 - info.eps / 2))
    mean = jnp.sum(mass * x, axis=0)
    return mean, jnp.sum(mass * (x - mean) ** 2, axis=0)
