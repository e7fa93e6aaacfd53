"""Quantiles of a law that knows its distribution function only."""

import jax
import jax.numpy as jnp
from numpyro import distributions as dist
from numpyro.distributions import constraints


def quantile(base: dist.Distribution, u: jax.Array) -> jax.Array:
    r"""The least x with $F(x) \ge u$, by the law itself or by halving brackets.

    A bracket grows from the mean in steps of the standard deviation, doubled until it
    holds x, and is halved to the resolution of the numbers; where there is a density,
    Newton steps that stay inside and at least halve the last step go first.

    Args:
        base: the law, on JAX arrays.
        u: strictly between 0 and 1, broadcast against the batch.

    Returns:
        The shape of both together.
    """
    if not isinstance(base, dist.MixtureSameFamily) and not base.is_discrete:
        try:
            return jnp.asarray(base.icdf(u))
        except (NotImplementedError, ImportError):
            pass  # some laws of NumPyro need a package that is not there
    shape = jnp.broadcast_shapes(u.shape, base.batch_shape)
    u = jnp.broadcast_to(u, shape)
    return _solve(base, u)


def probability(base: dist.Distribution, x: jax.Array) -> jax.Array:
    """F(x), and 0 below 0 for counts, where NumPyro's formula may not hold."""
    value = jnp.asarray(base.cdf(x))
    if base.support is constraints.nonnegative_integer:
        return jnp.where(x < 0, 0, value)
    return value


def _solve(base: dist.Distribution, u: jax.Array) -> jax.Array:
    info = jnp.finfo(u.dtype)
    middle = _finite(base.mean, 0.0, u.dtype)
    spread = _finite(jnp.sqrt(base.variance), 1.0, u.dtype)
    spread = jnp.where(spread > 0, spread, 1)

    def below(x: jax.Array) -> jax.Array:
        at = jnp.floor(x) if base.is_discrete else x
        return probability(base, at).astype(u.dtype) < u

    def grow(state):
        count, low, high = state
        reach = spread * 2.0**count
        low = jnp.where(below(low), low, middle - reach)
        return count + 1, low, jnp.where(below(high), middle + reach, high)

    def open_ended(state):
        count, low, high = state
        return (count < 60) & (jnp.any(~below(low)) | jnp.any(below(high)))

    middle, spread = (jnp.broadcast_to(a, u.shape) for a in (middle, spread))
    guess = middle + spread * jnp.clip(jax.scipy.special.ndtri(u), -30, 30)
    start = (jnp.asarray(1), middle - spread, middle + spread)
    if isinstance(base, dist.MixtureSameFamily):
        # between the quantiles of the components
        try:
            each = base.component_distribution.icdf(u[..., None])
            pad = spread * info.eps**0.5
            low, high = jnp.min(each, axis=-1) - pad, jnp.max(each, axis=-1) + pad
            start = (jnp.asarray(1), low, high)
        except (NotImplementedError, ImportError):
            pass  # as above
    _, low, high = jax.lax.while_loop(open_ended, grow, start)

    def unfinished(state):
        count, done = state[0], state[-1]
        return (count < 200) & ~jnp.all(done)

    def improve(state):
        count, low, high, at, step, done = state
        under = below(at)
        low, high = jnp.where(under, at, low), jnp.where(under, high, at)
        half = low + (high - low) / 2
        if base.is_discrete:
            new, last = half, jnp.zeros(u.shape, bool)
        else:
            density = jnp.exp(jnp.asarray(base.log_prob(at), u.dtype))
            usable = density > 0
            excess = probability(base, at).astype(u.dtype) - u
            newton = at - excess / jnp.where(usable, density, 1)
            good = usable & (newton >= low) & (newton <= high)
            good &= jnp.abs(newton - at) <= jnp.abs(step) / 2
            new = jnp.where(good, newton, half)
            # Newton's error after a step is about its square
            last = good & (jnp.abs(newton - at) <= info.eps**0.6 * spread)
        new = jnp.where(done, at, new)
        size = 2 * info.eps * jnp.maximum(jnp.abs(low), jnp.abs(high)) + info.tiny
        narrow = (high - low) <= (0.25 if base.is_discrete else size)
        return count + 1, low, high, new, new - at, done | last | narrow

    done = jnp.zeros(u.shape, bool)
    at = jnp.where((guess > low) & (guess < high), guess, low + (high - low) / 2)
    state = (jnp.asarray(0), low, high, at, high - low, done)
    _, low, high, at, *_ = jax.lax.while_loop(unfinished, improve, state)
    if not base.is_discrete:
        return at
    # the only whole number in (low, high], where F steps over u
    return jnp.floor(high)


def _finite(a: jax.Array, instead: float, dtype) -> jax.Array:
    a = jnp.asarray(a, dtype)
    return jnp.where(jnp.isfinite(a), a, jnp.asarray(instead, dtype))
