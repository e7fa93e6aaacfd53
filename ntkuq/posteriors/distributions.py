"""Distributions known only through samples or through quantiles."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, constraints


def first_bad(ok: jax.Array | np.ndarray) -> int:
    """The position along the first axis of the first entry that is not fine."""
    ok = np.asarray(ok)
    flat = ok.reshape(ok.shape[0], -1).all(axis=1) if ok.ndim else ok.reshape(1)
    return int(np.argmin(flat))


def is_concrete(*arrays: ArrayLike) -> bool:
    """Whether all values can be looked at (none is being traced by JAX)."""
    return not any(isinstance(a, Tracer) for a in arrays)


def as_float(a: ArrayLike) -> jax.Array | np.ndarray:
    """A float array; NumPy arrays stay on the host with their precision."""
    if isinstance(a, jax.Array):
        if jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return a.astype(jnp.result_type(float))
    a = np.asarray(a)
    return a if np.issubdtype(a.dtype, np.floating) else a.astype(np.float64)


def _move(a: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """The same with the first axis moved to the end."""
    return (
        np.moveaxis(a, 0, -1) if isinstance(a, np.ndarray) else jnp.moveaxis(a, 0, -1)
    )


class Empirical(Distribution):
    r"""The distribution that puts mass $1/S$ on each of $S$ draws.

    $F(y) = \frac1S \sum_s 1\{z_s \le y\}$. Quantiles interpolate linearly between
    the order statistics. There is no density, so `log_prob` is refused.

    Args:
        samples: draws, shape (S, ...), in the units of the data; the other axes are
            the batch.

    Raises:
        ValueError: when there are no draws or one is not finite.

    >>> import numpy as np
    >>> d = Empirical(np.array([[0.0], [1.0], [2.0], [3.0]]))
    >>> d.batch_shape, float(d.cdf(1.0)[0]), float(d.icdf(0.5)[0])
    ((1,), 0.5, 1.5)
    """

    arg_constraints: ClassVar = {"values": constraints.real_vector}
    support = constraints.real  # pyright: ignore
    pytree_data_fields = ("values",)

    def __init__(self, samples: ArrayLike, *, validate_args: bool | None = None):
        samples = as_float(samples)
        if samples.ndim < 1 or samples.shape[0] < 1:
            raise ValueError(
                f"expected samples of shape (S, N) with S >= 1, got {samples.shape}"
            )
        if is_concrete(samples):
            ok = np.isfinite(np.asarray(samples))
            if not ok.all():
                where = first_bad(_move(ok))
                raise ValueError(
                    f"expected finite samples, got a non-finite one at row {where}"
                )
        # The draws lie on the last axis, so that mapping over the batch keeps them.
        self.values = _move(samples)
        super().__init__(
            batch_shape=tuple(samples.shape[1:]), validate_args=validate_args
        )

    @property
    def samples(self) -> jax.Array:
        """The draws, shape (S, ...)."""
        return jnp.moveaxis(jnp.asarray(self.values), -1, 0)

    @property
    def mean(self) -> jax.Array:
        """The expected value, shape of the batch."""
        return jnp.mean(jnp.asarray(self.values), axis=-1)

    @property
    def variance(self) -> jax.Array:
        """The variance, shape of the batch."""
        return jnp.var(jnp.asarray(self.values), axis=-1)

    def sample(
        self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()
    ) -> jax.Array:
        """Draw with replacement; one index serves the whole batch.

        The dependence between the points of the batch is thereby kept.
        """
        values = jnp.asarray(self.values)
        if key is None:
            raise ValueError("expected a random key, got None")
        index = jax.random.randint(key, sample_shape, 0, values.shape[-1])
        return jnp.take(jnp.moveaxis(values, -1, 0), index, axis=0)

    def log_prob(
        self, value: ArrayLike, intermediates: list[Any] | None = None
    ) -> jax.Array:
        """Refused: there is no density."""
        raise NotImplementedError(
            "A prediction known only through samples has no density; give a Normal or "
            "a mixture of Normals to get a log density."
        )

    def cdf(self, value: ArrayLike) -> jax.Array:
        """The probability of at most `value`."""
        values = jnp.asarray(self.values)
        value = jnp.asarray(value, values.dtype)
        return jnp.mean(
            _align(values, value) <= value[..., None], axis=-1, dtype=values.dtype
        )

    def icdf(self, q: ArrayLike) -> jax.Array:
        """The quantile at level `q`, between 0 and 1."""
        values = jnp.sort(jnp.asarray(self.values), axis=-1)
        last = values.shape[-1] - 1
        place = jnp.asarray(q, values.dtype) * last
        left = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last)
        right = jnp.minimum(left + 1, last)
        v0, v1 = _take(values, left), _take(values, right)
        return v0 + jnp.clip(place - left.astype(values.dtype), 0, 1) * (v1 - v0)


class QuantileTable(Distribution):
    r"""The distribution whose quantile function joins given quantiles linearly.

    $Q(q) = v_k + (v_{k+1} - v_k)\frac{q - l_k}{l_{k+1} - l_k}$ for
    $l_k \le q \le l_{k+1}$. The table says nothing beyond its outermost levels; the
    mass there sits on the outermost values.

    Args:
        levels: increasing, strictly between 0 and 1, shape (Q,).
        values: quantiles in the units of the data, shape (Q, ...); non-decreasing
            along the first axis.

    Raises:
        ValueError: for levels out of order or range, and for quantiles that cross or
            are not finite (the first such row is named).

    >>> import numpy as np
    >>> d = QuantileTable(np.array([0.25, 0.5, 0.75]), np.array([[0.0], [1.0], [3.0]]))
    >>> float(d.icdf(0.625)[0]), float(d.cdf(2.0)[0])
    (2.0, 0.625)
    """

    arg_constraints: ClassVar = {
        "levels": constraints.real_vector,
        "values": constraints.real_vector,
    }
    support = constraints.real  # pyright: ignore
    pytree_data_fields = ("levels", "values")

    def __init__(
        self,
        levels: ArrayLike,
        values: ArrayLike,
        *,
        validate_args: bool | None = None,
    ):
        levels, values = as_float(levels), as_float(values)
        if levels.ndim != 1 or levels.shape[0] < 2:
            raise ValueError(
                f"expected levels of shape (Q,) with Q >= 2, got {levels.shape}"
            )
        if values.ndim < 1 or values.shape[0] != levels.shape[0]:
            raise ValueError(
                f"expected values of shape ({levels.shape[0]}, N) to go with the "
                f"levels, got {values.shape}"
            )
        if is_concrete(levels):
            known = np.asarray(levels)
            # Written so that NaN fails.
            if not ((known > 0).all() and (known < 1).all()):
                raise ValueError(f"expected levels between 0 and 1, got {known}")
            if not (np.diff(known) > 0).all():
                raise ValueError(f"expected increasing levels, got {known}")
        if is_concrete(values):
            known = np.asarray(values)
            ok = np.isfinite(known)
            if not ok.all():
                raise ValueError(
                    "expected finite quantiles, got a non-finite one at row "
                    f"{first_bad(_move(ok))}"
                )
            ok = np.diff(known, axis=0) >= 0
            if not ok.all():
                raise ValueError(
                    "expected quantiles that do not decrease with the level, got "
                    f"crossing quantiles at row {first_bad(_move(ok))}; sort them "
                    "first if that is meant"
                )
        self.levels, self.values = levels, _move(values)
        super().__init__(
            batch_shape=tuple(values.shape[1:]), validate_args=validate_args
        )

    @property
    def mean(self) -> jax.Array:
        """The expected value, shape of the batch."""
        levels, values, weight = self._pieces()
        middle = (values[..., 1:] + values[..., :-1]) / 2
        return (
            jnp.sum(weight * middle, axis=-1)
            + levels[..., 0] * values[..., 0]
            + (1 - levels[..., -1]) * values[..., -1]
        )

    @property
    def variance(self) -> jax.Array:
        """The variance, shape of the batch."""
        levels, values, weight = self._pieces()
        values = values - jnp.expand_dims(self.mean, -1)
        low, high = values[..., :-1], values[..., 1:]
        return (
            jnp.sum(weight * (low**2 + low * high + high**2) / 3, axis=-1)
            + levels[..., 0] * values[..., 0] ** 2
            + (1 - levels[..., -1]) * values[..., -1] ** 2
        )

    def _pieces(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        values = jnp.asarray(self.values)
        levels = jnp.asarray(self.levels, values.dtype)
        levels = jnp.broadcast_to(levels, values.shape)
        return levels, values, jnp.diff(levels, axis=-1)

    def sample(
        self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()
    ) -> jax.Array:
        """Draw independently for each point of the batch."""
        if key is None:
            raise ValueError("expected a random key, got None")
        values = jnp.asarray(self.values)
        u = jax.random.uniform(key, sample_shape + values.shape[:-1], values.dtype)
        return self.icdf(u)

    def log_prob(
        self, value: ArrayLike, intermediates: list[Any] | None = None
    ) -> jax.Array:
        """Refused: there is no density."""
        raise NotImplementedError(
            "A prediction known only through quantiles has no density; give a Normal "
            "or a mixture of Normals to get a log density."
        )

    def cdf(self, value: ArrayLike) -> jax.Array:
        """The probability of at most `value`."""
        levels, values, _ = self._pieces()
        value = jnp.asarray(value, values.dtype)
        size = values.shape[-1]
        below = jnp.sum(_align(values, value) <= value[..., None], axis=-1)
        left, right = jnp.clip(below - 1, 0, size - 2), jnp.clip(below, 1, size - 1)
        v0, v1 = _take(values, left), _take(values, right)
        l0, l1 = _take(levels, left), _take(levels, right)
        width = jnp.where(v1 > v0, v1 - v0, 1)
        inside = l0 + (l1 - l0) * (value - v0) / width
        return jnp.where(below == 0, 0, jnp.where(below == size, 1, inside))

    def icdf(self, q: ArrayLike) -> jax.Array:
        """The quantile at level `q`, between 0 and 1."""
        levels, values, _ = self._pieces()
        return _interpolate(levels, values, jnp.asarray(q, values.dtype))


def _align(table: jax.Array, value: jax.Array) -> jax.Array:
    """`table` (..., Q) with as many leading axes as `value[..., None]`."""
    extra = value.ndim + 1 - table.ndim
    return table.reshape((1,) * extra + table.shape) if extra > 0 else table


def _take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Entries of the last axis of `table` (..., Q) at `index` (...)."""
    shape = jnp.broadcast_shapes(table.shape[:-1], index.shape)
    table = jnp.broadcast_to(table, shape + table.shape[-1:])
    index = jnp.broadcast_to(index, shape)
    return jnp.take_along_axis(table, index[..., None], axis=-1)[..., 0]


def _interpolate(levels: jax.Array, values: jax.Array, q: jax.Array) -> jax.Array:
    """The piecewise linear function through (levels, values) at q, flat outside."""
    size = values.shape[-1]
    right = jnp.clip(jnp.sum(_align(levels, q) < q[..., None], axis=-1), 1, size - 1)
    l0, l1 = _take(levels, right - 1), _take(levels, right)
    v0, v1 = _take(values, right - 1), _take(values, right)
    share = jnp.clip((q - l0) / (l1 - l0), 0, 1)
    return v0 + share * (v1 - v0)
