"""A distribution whose probabilities are mapped to other probabilities."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, constraints

from ntkuq.posteriors.distributions import as_float, is_concrete
from ntkuq.posteriors.predictive import current

from .invert import probability, quantile
from .moments import linear, mean_and_variance


class Recalibrated(Distribution):
    r"""The distribution function $R(F(y))$ in place of $F(y)$.

    R runs from 0 to 1 through given points, linearly and strictly increasing between
    them, so that it has an inverse and $F^{-1}(R^{-1}(q))$ is the quantile. Where F has
    a density f, the new one is $R'(F(y)) f(y)$, with jumps at the points. For counts
    the new probability is $R(F(y)) - R(F(y - 1))$.

    Args:
        base: F, any distribution over numbers with `cdf`, batch (N,) or (N, C).
        levels: where R is given, from 0 to 1, shape (K,), or (C, K) for an R of each
            output.
        values: R there, from 0 to 1, the shape of `levels`.

    Raises:
        ValueError: for other shapes, or a map that does not rise from 0 to 1.

    >>> import numpy as np
    >>> import numpyro.distributions as dist
    >>> u, r = np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0])
    >>> d = Recalibrated(dist.Normal(0.0, 1.0), u, r)
    >>> float(d.cdf(0.0)), float(d.icdf(0.8))
    (0.8, 0.0)
    >>> print(f"{float(d.mean):.3f}")
    -0.479

    References:
        Kuleshov, Fenner and Ermon, 2018, ICML, arXiv 1807.00263.
    """

    arg_constraints: ClassVar = {
        "levels": constraints.real_vector,
        "values": constraints.real_vector,
    }
    pytree_data_fields = ("base", "levels", "values")

    def __init__(
        self,
        base: Distribution,
        levels: ArrayLike,
        values: ArrayLike,
        *,
        validate_args: bool | None = None,
    ):
        levels, values = as_float(levels), as_float(values)
        if levels.ndim not in (1, 2) or levels.shape[-1] < 2:
            raise ValueError(
                f"expected levels of shape (K,) or (C, K) with K >= 2, got "
                f"{levels.shape}"
            )
        if values.shape != levels.shape:
            raise ValueError(
                f"expected values of shape {levels.shape} like the levels, got "
                f"{values.shape}"
            )
        batch = tuple(base.batch_shape)
        if levels.ndim == 2 and batch[-1:] != levels.shape[:1]:
            raise ValueError(
                f"expected one row of levels for each of the outputs of a batch "
                f"{batch}, got {levels.shape}"
            )
        for name, a in (("levels", levels), ("values", values)):
            if not is_concrete(a):
                continue
            known = np.asarray(a)
            rises = (np.diff(known) > 0).all()
            if not (
                rises and (known[..., 0] == 0).all() and (known[..., -1] == 1).all()
            ):
                raise ValueError(f"expected {name} that rise from 0 to 1, got {known}")
        self.base, self.levels, self.values = base, levels, values
        super().__init__(batch_shape=batch, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Where the base has it."""
        return self.base.support  # pyright: ignore

    @property
    def mean(self) -> jax.Array:
        """The expected value, shape of the batch."""
        return _moments(self._on_device())[0]

    @property
    def variance(self) -> jax.Array:
        """The variance, shape of the batch."""
        return _moments(self._on_device())[1]

    def sample(
        self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()
    ) -> jax.Array:
        """Draw independently for each point, by the inverse of R(F)."""
        if key is None:
            raise ValueError("expected a random key, got None")
        return _sample(self._on_device(), key, sample_shape)

    def log_prob(
        self, value: ArrayLike, intermediates: list[Any] | None = None
    ) -> jax.Array:
        """The log density, or for counts the log probability."""
        return _log_prob(self._on_device(), jnp.asarray(value))

    def cdf(self, value: ArrayLike) -> jax.Array:
        """The probability of at most `value`."""
        return _cdf(self._on_device(), jnp.asarray(value))

    def icdf(self, q: ArrayLike) -> jax.Array:
        """The quantile at level `q`, between 0 and 1."""
        return _icdf(self._on_device(), jnp.asarray(q))

    def _on_device(self) -> "Recalibrated":
        return jax.tree.map(jnp.asarray, self)


# Each is one compiled program: step by step they would compile dozens.


@eqx.filter_jit
def _moments(law: Recalibrated) -> tuple[jax.Array, jax.Array]:
    return mean_and_variance(*_parts(law))


@eqx.filter_jit
def _sample(
    law: Recalibrated, key: jax.Array, sample_shape: tuple[int, ...]
) -> jax.Array:
    base, levels, _ = _parts(law)
    least = float(jnp.finfo(levels.dtype).tiny)
    shape = sample_shape + tuple(base.batch_shape)
    return _icdf(law, jax.random.uniform(key, shape, levels.dtype, least))


@eqx.filter_jit
def _log_prob(law: Recalibrated, value: jax.Array) -> jax.Array:
    base, levels, values = _parts(law)
    at = probability(base, value).astype(levels.dtype)
    if base.is_discrete:
        before = probability(base, value - 1).astype(levels.dtype)
        return jnp.log(linear(levels, values, at) - linear(levels, values, before))
    log_slope = jnp.log(jnp.diff(values)) - jnp.log(jnp.diff(levels))
    return jnp.asarray(base.log_prob(value)) + _piece(levels, log_slope, at)


@eqx.filter_jit
def _cdf(law: Recalibrated, value: jax.Array) -> jax.Array:
    base, levels, values = _parts(law)
    return linear(levels, values, probability(base, value).astype(levels.dtype))


@eqx.filter_jit
def _icdf(law: Recalibrated, q: jax.Array) -> jax.Array:
    base, levels, values = _parts(law)
    q = q.astype(levels.dtype)
    if levels.ndim == 2:
        q = jnp.broadcast_to(q, jnp.broadcast_shapes(q.shape, base.batch_shape))
    info = jnp.finfo(levels.dtype)
    u = jnp.clip(linear(values, levels, q), info.tiny, 1 - info.eps / 2)
    return quantile(base, u)


def _parts(law: Recalibrated) -> tuple[Distribution, jax.Array, jax.Array]:
    """The base and the map, in the precision of the base."""
    base = current(law.base)
    floats = [
        a.dtype for a in jax.tree.leaves(base) if jnp.issubdtype(a.dtype, jnp.floating)
    ]
    dtype = jnp.result_type(*floats) if floats else jnp.result_type(float)
    return base, jnp.asarray(law.levels, dtype), jnp.asarray(law.values, dtype)


def _piece(x: jax.Array, each: jax.Array, at: jax.Array) -> jax.Array:
    """The entry of `each` (K - 1,) that belongs to the piece of x holding `at`."""

    def one(at: jax.Array, x: jax.Array, each: jax.Array) -> jax.Array:
        place = jnp.searchsorted(x, at, side="right") - 1
        return each[jnp.clip(place, 0, each.shape[0] - 1)]

    if x.ndim == 1:
        return one(at, x, each)
    return jax.vmap(one, in_axes=(-1, 0, 0), out_axes=-1)(at, x, each)
