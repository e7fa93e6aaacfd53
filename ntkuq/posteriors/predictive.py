"""What a posterior says about new points: the one record that every score reads."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray
from numpyro import distributions as dist
from numpyro.distributions.batch_util import promote_batch_shape

from .distributions import Empirical, QuantileTable, as_float, first_bad, is_concrete


_CLASSES = (dist.CategoricalProbs, dist.CategoricalLogits)


class Predictive(eqx.Module):
    r"""Predictions at N points, in the units of the data.

    `latent` is the distribution of the function value, `observed` that of a new
    observation. The batch shape is that of the targets: (N,), or (N, C) for C
    regression outputs, each a marginal of its own, or with more axes for images,
    sequences and the like. For classes `observed` is a `Categorical` of that shape.

    Args:
        latent: the function value, or None where it is not known; for classes over
            logits with event shape (C,).
        observed: the new observation: `Normal`, `MixtureSameFamily`, `Empirical` or
            `QuantileTable` for regression, `Categorical` for classes.
        epistemic: variance of the function value, in squared units of the data, shape
            as the batch; for classes the mutual information in nats. `None` where it
            is not known.
        aleatoric: variance of the noise; for classes the expected entropy in nats.

    >>> import numpy as np
    >>> p = Predictive.normal(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    >>> lower, upper = p.interval(0.95)
    >>> [f"{end:.2f}" for end in upper]
    ['1.96', '4.92']
    """

    latent: dist.Distribution | None
    observed: dist.Distribution
    epistemic: jax.Array | np.ndarray | None = None
    aleatoric: jax.Array | np.ndarray | None = None

    @property
    def is_classification(self) -> bool:
        """Whether the observation is a class."""
        return isinstance(self.observed, _CLASSES)

    @property
    def mean(self) -> jax.Array:
        """The expected observation, shape of the batch; class probabilities (N, C)."""
        observed = current(self.observed)
        if self.is_classification:
            return _probs(observed)
        return jnp.asarray(observed.mean)

    def log_prob(self, y: ArrayLike) -> jax.Array:
        r"""The log density, or log probability, of each observation.

        $\log p(y_i \mid x_i)$, in nats; the outputs or positions of one example are
        added up: $\sum_c \log p(y_{ic} \mid x_i)$. A class of probability 0 gives
        $-\infty$.

        Args:
            y: shape of the batch, in the units of the data, or class codes.

        Returns:
            Shape (N,).

        Raises:
            ValueError: when the shape or a class code does not fit.
            NotImplementedError: when the prediction has no density.
        """
        observed = current(self.observed)
        if self.is_classification:
            return _by_example(_log_probability(observed, self.matched(y)))
        return _by_example(jnp.asarray(observed.log_prob(self.matched(y))))

    def cdf(self, y: ArrayLike) -> jax.Array:
        """The predicted probability of an observation of at most y.

        Args:
            y: (N,) or (N, C), in the units of the data.

        Returns:
            Shape of the batch.

        Raises:
            TypeError: for classes.
            ValueError: when the shape does not fit.
        """
        self._need_order("cdf")
        return jnp.asarray(current(self.observed).cdf(self.matched(y)))

    def quantile(self, q: ArrayLike) -> jax.Array:
        """The value below which an observation falls with probability q.

        Args:
            q: one number or shape (Q,), strictly between 0 and 1.

        Returns:
            Shape of the batch for one number, (Q, N) for several; in the units of the
            data.

        Raises:
            TypeError: for classes.
            ValueError: for q outside (0, 1) or beyond a quantile table.
        """
        self._need_order("quantile")
        self._need_levels(q)
        observed = current(self.observed)
        q = jnp.asarray(q, _dtype(observed))
        if q.ndim > 1:
            raise ValueError(f"expected q of shape () or (Q,), got {q.shape}")
        return _quantile(observed, q)

    def interval(self, level: float) -> tuple[jax.Array, jax.Array]:
        r"""The central interval that keeps the probability `level`.

        $[Q(\tfrac{1 - L}{2}),\; Q(\tfrac{1 + L}{2})]$ of the new observation.

        Args:
            level: the kept probability L, strictly between 0 and 1.

        Returns:
            Lower and upper end, each with the shape of the batch.

        Raises:
            TypeError: for classes.
            ValueError: for a level outside (0, 1) or beyond a quantile table.
        """
        self._need_order("interval")
        if is_concrete(level) and not 0 < level < 1:
            raise ValueError(f"expected a level between 0 and 1, got {level}")
        lower, upper = self.quantile(_tails(level))
        return lower, upper

    def sample(self, key: PRNGKeyArray, n: int) -> jax.Array:
        """Draw new observations.

        Args:
            key: random key.
            n: number of draws.

        Returns:
            (n, N, …), the shape of the batch after n; class codes for classes.
        """
        observed = current(self.observed)
        dtype = _dtype(observed)
        # NumPyro draws in the default precision, whatever that of the parameters.
        observed = _cast(observed, jnp.result_type(float))
        keys = jax.random.split(key, n)
        draws = jnp.asarray(jax.vmap(lambda one: observed.sample(one))(keys))
        floating = jnp.issubdtype(draws.dtype, jnp.floating)
        return draws.astype(dtype) if floating else draws

    def matched(self, y: ArrayLike) -> jax.Array:
        """Observations as an array that fits these predictions.

        Args:
            y: shape of the batch; an axis of length 1 may be added or missing at the
                end. Integer codes for classes.

        Returns:
            Shape of the batch, in the precision of the predictions.

        Raises:
            ValueError: when the shape or a class code does not fit.
        """
        if self.is_classification:
            return self._codes(y)
        observed = current(self.observed)
        shape = tuple(observed.batch_shape + observed.event_shape)
        got = np.shape(y)
        if got not in (shape, (*shape, 1)) and (*got, 1) != shape:
            raise ValueError(f"expected y of shape {shape}, got {got}")
        return jnp.asarray(y, _dtype(observed)).reshape(shape)

    @staticmethod
    def normal(mean: ArrayLike, std: ArrayLike) -> "Predictive":
        """Predictions made elsewhere: a mean and a standard deviation per point.

        Args:
            mean: (N,) or (N, C), in the units of the data.
            std: standard deviation of a new observation (noise included), the same
                shape or one number.

        Raises:
            ValueError: when a value is not finite or a std is not positive; the first
                such row is named.
        """
        mean, std = as_float(mean), as_float(std)
        _need_batch("mean", mean.shape)
        if std.ndim and std.shape != mean.shape:
            raise ValueError(
                f"expected std of shape {mean.shape} like mean, got {std.shape}"
            )
        _need_rows("mean", mean, "finite", np.isfinite)
        _need_rows(
            "std", std, "finite and positive", lambda s: np.isfinite(s) & (s > 0)
        )
        on_host = isinstance(mean, np.ndarray) and isinstance(std, np.ndarray)
        std = (np if on_host else jnp).broadcast_to(std, mean.shape)
        if not on_host:
            dtype = jnp.result_type(mean.dtype, std.dtype)
            mean, std = jnp.asarray(mean, dtype), jnp.asarray(std, dtype)
        return Predictive(latent=None, observed=dist.Normal(mean, std))

    @staticmethod
    def samples(s: ArrayLike) -> "Predictive":
        """Predictions made elsewhere: draws of new observations.

        Args:
            s: (S, N) or (S, N, C), in the units of the data, noise included.

        Raises:
            ValueError: for another shape or a value that is not finite.
        """
        s = as_float(s)
        if s.ndim not in (2, 3):
            raise ValueError(f"expected samples of shape (S, N), got {s.shape}")
        _need_batch("samples", s.shape[1:])
        return Predictive(latent=None, observed=Empirical(s))

    @staticmethod
    def quantiles(levels: ArrayLike, values: ArrayLike) -> "Predictive":
        """Predictions made elsewhere: quantiles of new observations.

        Args:
            levels: (Q,), increasing, strictly between 0 and 1.
            values: (Q, N) or (Q, N, C), in the units of the data.

        Raises:
            ValueError: for other shapes, crossing quantiles or values that are not
                finite; the first such row is named.
        """
        values = as_float(values)
        if values.ndim not in (2, 3):
            raise ValueError(f"expected values of shape (Q, N), got {values.shape}")
        _need_batch("values", values.shape[1:])
        return Predictive(latent=None, observed=QuantileTable(levels, values))

    @staticmethod
    def probabilities(p: ArrayLike) -> "Predictive":
        """Predictions made elsewhere: class probabilities.

        Args:
            p: (N, C); nonnegative, each row summing to 1 within 1e-4.

        Raises:
            ValueError: for another shape or a row that is no distribution.
        """
        p = as_float(p)
        if p.ndim != 2 or p.shape[1] < 2:
            raise ValueError(
                f"expected probabilities of shape (N, C) with C >= 2, got {p.shape}; "
                "for two classes give both columns"
            )
        _need_batch("probabilities", p.shape[:1])
        _need_rows(
            "probabilities",
            p,
            "finite and nonnegative",
            lambda a: (np.isfinite(a) & (a >= 0)).all(axis=1),
        )
        _need_rows(
            "probabilities",
            p,
            "summing to 1 within 1e-4",
            lambda a: np.abs(a.sum(axis=1, dtype=np.float64) - 1) <= 1e-4,
        )
        return Predictive(latent=None, observed=dist.CategoricalProbs(p))

    def _need_order(self, name: str) -> None:
        if self.is_classification:
            raise TypeError(
                f"{name} needs observations on a scale, but these predictions are of "
                "classes; use mean for their probabilities or log_prob"
            )

    def _need_levels(self, q: ArrayLike) -> None:
        if not is_concrete(q):
            return
        known = np.asarray(q)
        if not ((known > 0) & (known < 1)).all():
            raise ValueError(f"expected q strictly between 0 and 1, got {known}")
        table = self.observed
        if not isinstance(table, QuantileTable) or not is_concrete(table.levels):
            return
        low, high = np.min(table.levels), np.max(table.levels)
        slack = 1e-6  # levels may have been rounded to float32
        if not ((known >= low - slack) & (known <= high + slack)).all():
            raise ValueError(
                f"expected q within the levels of the quantile table, {low:g} to "
                f"{high:g}, got {known}"
            )

    def _codes(self, y: ArrayLike) -> jax.Array:
        probs = _probs(self.observed)
        shape, size = tuple(probs.shape[:-1]), probs.shape[-1]
        got = np.shape(y)
        if got != shape and got != (*shape, 1):
            raise ValueError(f"expected class codes of shape {shape}, got {got}")
        if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            raise ValueError(
                f"expected integer class codes 0 to {size - 1}, got dtype "
                f"{jnp.result_type(y)}"
            )
        if is_concrete(y):
            known = np.asarray(y)
            ok = (known >= 0) & (known < size)
            if not ok.all():
                row = first_bad(ok)
                raise ValueError(
                    f"expected class codes 0 to {size - 1}, got "
                    f"{known.reshape(-1)[row]} at row {row}"
                )
        return jnp.asarray(y).astype(jnp.int32).reshape(shape)


def _need_batch(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(
            f"expected {name} for at least one point, shape (N,) or (N, C) after any "
            f"leading axis, got {shape}"
        )


def _need_rows(name: str, a: jax.Array | np.ndarray, what: str, good) -> None:
    if not is_concrete(a):
        return
    known = np.asarray(a)
    ok = np.asarray(good(known))
    if not ok.all():
        row = first_bad(ok)
        got = known[row] if known.ndim else known
        raise ValueError(f"expected {name} {what}, got {got} at row {row}")


def current(d: dist.Distribution) -> dist.Distribution:
    """The same distribution on JAX arrays, its batch shape read off its arrays.

    Mapping over a distribution changes its arrays but not its recorded batch shape.
    """
    if isinstance(d, dist.MixtureSameFamily):
        parts = current(d.component_distribution)
        weights = jnp.asarray(d.mixing_distribution.probs)
        weights = jnp.broadcast_to(weights, parts.batch_shape)
        return dist.MixtureSameFamily(dist.Categorical(probs=weights), parts)
    d = jax.tree.map(jnp.asarray, d)
    known = (dist.Normal, *_CLASSES, Empirical, QuantileTable)
    return promote_batch_shape(d) if isinstance(d, known) else d


def _by_example(value: jax.Array) -> jax.Array:
    return jnp.sum(value, axis=tuple(range(1, value.ndim)))


def _dtype(d: dist.Distribution) -> np.dtype:
    leaves = [a.dtype for a in jax.tree.leaves(d)]
    floats = [t for t in leaves if jnp.issubdtype(t, jnp.floating)]
    return jnp.result_type(*floats) if floats else jnp.result_type(float)


def _probs(d: dist.Distribution) -> jax.Array:
    if not isinstance(d, _CLASSES):
        raise TypeError(f"expected a Categorical, got {type(d).__name__}")
    return jnp.asarray(d.probs)


def _cast(d: dist.Distribution, dtype: np.dtype) -> dist.Distribution:
    def one(a: jax.Array) -> jax.Array:
        return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(one, d)


def _tails(level: ArrayLike) -> jax.Array | np.ndarray:
    xp = np if is_concrete(level) else jnp
    return xp.stack([(1 - level) / 2, (1 + level) / 2])


def _log_probability(d: dist.Distribution, codes: jax.Array) -> jax.Array:
    if isinstance(d, dist.CategoricalLogits):
        table = jax.nn.log_softmax(jnp.asarray(d.logits), axis=-1)
    else:
        # NumPyro clips the probabilities; a class held impossible must cost inf.
        table = jnp.log(_probs(d))
    return jnp.take_along_axis(table, codes[..., None], axis=-1)[..., 0]


def _quantile(d: dist.Distribution, q: jax.Array) -> jax.Array:
    if isinstance(d, dist.MixtureSameFamily):
        if q.ndim:
            return jnp.stack([_mixture_quantile(d, one) for one in q])
        return _mixture_quantile(d, q)
    if isinstance(d, Empirical | QuantileTable):
        ones = (1,) * len(d.batch_shape)
        at = q.reshape(q.shape + ones)
        return d.icdf(jnp.broadcast_to(at, q.shape + d.batch_shape))

    def one(level: jax.Array) -> jax.Array:
        return jnp.broadcast_to(d.icdf(level), d.batch_shape)

    return jax.vmap(one)(q) if q.ndim else one(q)


@eqx.filter_jit
def _mixture_quantile(d: dist.MixtureSameFamily, q: jax.Array) -> jax.Array:
    r"""Solve $F(y) = q$ by Newton's method kept inside a shrinking bracket.

    The quantile of a mixture lies between the smallest and the largest quantile of its
    components. A Newton step that leaves the bracket, or that does not at least halve
    the last step, is replaced by bisection. Newton's error after a step is about the
    square of the step over the length on which the density changes, so a step of
    $\sqrt\epsilon$ times the narrowest component is the last one needed.
    """
    components = d.component_distribution
    parts = components.icdf(q)
    low, high = jnp.min(parts, axis=-1), jnp.max(parts, axis=-1)
    low, high = (jnp.broadcast_to(a, d.batch_shape) for a in (low, high))
    info = jnp.finfo(low.dtype)
    # Rounding in the component quantiles must not leave the solution outside.
    pad = 4 * info.eps * (jnp.abs(low) + jnp.abs(high)) + info.tiny
    low, high = low - pad, high + pad

    narrowest = jnp.sqrt(jnp.min(components.variance, axis=-1))
    narrowest = jnp.where(jnp.isfinite(narrowest), narrowest, 0)
    guess = d.mean + jnp.sqrt(d.variance) * jax.scipy.special.ndtri(q)
    start = jnp.where((guess > low) & (guess < high), guess, low + (high - low) / 2)

    def unfinished(state):
        count, settled = state[0], state[-1]
        return (count < 200) & ~jnp.all(settled)

    def improve(state):
        count, low, high, at, step, done = state
        excess = d.cdf(at) - q
        low, high = jnp.where(excess < 0, at, low), jnp.where(excess < 0, high, at)
        density = jnp.exp(d.log_prob(at))
        usable = density > 0
        newton = -excess / jnp.where(usable, density, 1)
        inside = (at + newton >= low) & (at + newton <= high)
        good = usable & inside & (jnp.abs(newton) <= jnp.abs(step) / 2)
        new = jnp.where(good, at + newton, low + (high - low) / 2)
        new = jnp.where(done, at, new)
        size = jnp.abs(new - at)
        resolution = 2 * info.eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
        last = good & (size <= info.eps**0.5 / 8 * narrowest)
        settled = done | last | (size <= resolution) | (high - low <= resolution)
        return count + 1, low, high, new, new - at, settled

    state = (0, low, high, start, high - low, jnp.zeros(low.shape, bool))
    return jax.lax.while_loop(unfinished, improve, state)[3]
