"""Scaling of inputs and targets: fitted on the training data, undone in predictions."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ntkuq.data import Moments


class AbstractScaling(eqx.Module):
    """An affine map of inputs and targets into the network's units."""

    @abc.abstractmethod
    def fit(
        self, x: PyTree, y: np.ndarray | Moments, *, continuous: bool
    ) -> AbstractScaling:
        """This scaling fitted on training data; itself when it was fitted before.

        Args:
            x: inputs (N, …), or `Moments` in place of arrays (`Batches.moments`).
            y: targets (N,) or (N, C), or their `Moments`.
            continuous: have the targets units, so that they may be scaled?
        """

    @abc.abstractmethod
    def inputs(self, x: PyTree) -> PyTree:
        """Inputs in the network's units."""

    @abc.abstractmethod
    def loc(self) -> np.ndarray:
        """(D,) location of the targets, in the units of the data."""

    @abc.abstractmethod
    def scale(self) -> np.ndarray:
        """(D,) scale of the targets, in the units of the data."""


class Identity(AbstractScaling):
    """Inputs and targets as they come.

    >>> float(Identity().scale()[0])
    1.0
    """

    def fit(self, x, y, *, continuous):
        return self

    def inputs(self, x):
        return x

    def loc(self):
        return np.zeros(1)

    def scale(self):
        return np.ones(1)


class Standardize(AbstractScaling):
    """Each feature, and a continuous target, to mean 0 and standard deviation 1.

    A feature that is constant up to rounding (its spread is below 1e-10 of its size,
    or 4 times the rounding error of its type) becomes zero, also where a new input
    differs. Images and other inputs of more than one axis share one mean and scale,
    and so do targets of more than one axis.

    >>> import numpy as np
    >>> s = Standardize().fit(
    ...     np.array([[1.0], [3.0]]), np.array([0.0, 2.0]), continuous=True
    ... )
    >>> s.inputs(np.array([[3.0]])).item(), s.scale().item()
    (1.0, 1.0)
    """

    x_loc: PyTree | None = None
    x_scale: PyTree | None = None
    y_loc: np.ndarray | None = None
    y_scale: np.ndarray | None = None

    def fit(self, x, y, *, continuous):
        if self.x_loc is not None:
            return self
        fitted = jax.tree.map(_fit, x)
        loc = jax.tree.map(lambda _, leaf: leaf[0], x, fitted)
        scale = jax.tree.map(lambda _, leaf: leaf[1], x, fitted)
        if not continuous:
            return Standardize(loc, scale, np.zeros(1), np.ones(1))
        y_loc, y_scale = (np.atleast_1d(value) for value in _fit(y))
        if np.isinf(y_scale).any():
            rows = y.count if isinstance(y, Moments) else len(y)
            raise ValueError(
                "Standardize: expected targets that vary, got a constant target "
                f"({y_loc[int(np.argmax(y_scale))]:g} in all {rows} rows): there is "
                "nothing to predict; check the target column"
            )
        return Standardize(loc, scale, y_loc, y_scale)

    def inputs(self, x):
        loc = self._fitted(self.x_loc)
        expected, found = jax.tree.structure(loc), jax.tree.structure(x)
        if found != expected:
            raise ValueError(
                f"expected inputs of {expected.num_leaves} array(s) in the form of the "
                f"training data, got a {type(x).__name__} of {found.num_leaves}: give "
                "the same pytree, and rows as one array (numpy.stack)"
            )
        return jax.tree.map(_standardize, x, loc, self.x_scale)

    def loc(self):
        return self._fitted(self.y_loc)

    def scale(self):
        return self._fitted(self.y_scale)

    def _fitted[T](self, value: T | None) -> T:
        if value is None:
            raise ValueError(
                "Standardize: not fitted yet; call fit (bnn.prepare(data) does)"
            )
        return value


def _fit(leaf: np.ndarray | Moments) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of an array, or of one that was seen in parts."""
    found = leaf if isinstance(leaf, Moments) else Moments.of(np.asarray(leaf))
    if found.mean.ndim > 1:
        found = found.pooled()
    rounding = 0.0
    if np.issubdtype(found.dtype, np.floating):
        rounding = 4.0 * float(np.finfo(found.dtype).eps)
    scale = np.sqrt(found.variance)
    # (x - loc) / inf = 0: a constant column carries nothing, at test time either
    constant = scale <= max(1e-10, rounding) * found.size
    return found.mean, np.asarray(np.where(constant, np.inf, scale))


def _standardize(leaf, loc, scale):
    if leaf.ndim <= 2 and leaf.shape[1:] != loc.shape:
        raise ValueError(
            f"expected inputs of shape {('N', *loc.shape)}, as in training, got "
            f"{leaf.shape}".replace("'", "")
        )
    if isinstance(leaf, jax.Array):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        dtype = leaf.dtype if floating else jnp.zeros(()).dtype
        leaf = leaf.astype(dtype)
        return (leaf - jnp.asarray(loc, dtype)) / jnp.asarray(scale, dtype)
    return (np.asarray(leaf, np.float64) - loc) / scale
