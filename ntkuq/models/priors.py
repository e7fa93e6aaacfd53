"""Gaussian priors over the parameters."""

from __future__ import annotations

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ntkuq.models.checks import positive


class AbstractPrior(eqx.Module):
    """theta ~ N(0, diag(precision)^-1), the precision constant within a leaf."""

    @abc.abstractmethod
    def precisions(self, parameters: PyTree) -> PyTree:
        """The precision of each leaf, (), in its dtype (`None` elsewhere)."""

    @abc.abstractmethod
    def scaled(self, factor: ArrayLike) -> AbstractPrior:
        """The prior with all its precisions multiplied by `factor`."""

    def log_prob(self, parameters: PyTree) -> Float[Array, ""]:
        """log p(theta), summed over the leaves."""
        terms = jax.tree.map(_log_normal, parameters, self.precisions(parameters))
        return jnp.sum(jnp.stack(jax.tree.leaves(terms)))

    def sample(self, parameters: PyTree, *, key: Array) -> PyTree:
        """A draw of the parameters, in the shapes and types of these."""
        leaves, structure = jax.tree.flatten(parameters)
        precisions = jax.tree.leaves(self.precisions(parameters))
        keys = jax.random.split(key, len(leaves))
        drawn = [
            jax.random.normal(now, leaf.shape, leaf.dtype) / jnp.sqrt(precision)
            for leaf, precision, now in zip(leaves, precisions, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, drawn)


def _log_normal(theta: Array, precision: Array) -> Array:
    square = precision * theta**2 - jnp.log(precision)
    return -0.5 * jnp.sum(square + math.log(2 * math.pi))


class NormalPrior(AbstractPrior):
    """Independent normal priors of mean zero.

    Args:
        precision: inverse variance, one number for all parameters, or a pytree like
            the network's parameters with one number a leaf.

    >>> NormalPrior(precision=4.0).scaled(2.0).precision
    8.0
    """

    precision: PyTree = 1.0

    def __check_init__(self):
        if not jax.tree.leaves(self.precision):
            raise ValueError(
                "NormalPrior: expected precision > 0, one number or a pytree of them, "
                f"got {self.precision!r} without any"
            )
        for value in jax.tree.leaves(self.precision):
            if not positive(value):
                raise ValueError(
                    "NormalPrior: expected precision > 0 (an inverse variance), got "
                    f"{value}; a flat prior has no evidence and no posterior here"
                )
            if np.ndim(value):
                raise ValueError(
                    "NormalPrior: expected one precision for each parameter array, got "
                    f"an array of shape {np.shape(value)}"
                )

    @staticmethod
    def from_weight_decay(weight_decay: float, size: int) -> NormalPrior:
        """The prior that `weight_decay` on the mean loss over `size` examples implies.

        Minimizing mean loss + weight_decay / 2 |theta|^2 is MAP with precision
        `weight_decay * size`.

        >>> NormalPrior.from_weight_decay(1e-3, size=1000).precision
        1.0
        """
        return NormalPrior(weight_decay * size)

    def precisions(self, parameters):
        if jax.tree_util.treedef_is_leaf(jax.tree.structure(self.precision)):
            return jax.tree.map(
                lambda leaf: jnp.asarray(self.precision, leaf.dtype), parameters
            )
        self._check_form(parameters)
        return jax.tree.map(
            lambda leaf, value: jnp.asarray(value, leaf.dtype),
            parameters,
            self.precision,
        )

    def _check_form(self, parameters: PyTree) -> None:
        if jax.tree.structure(parameters) == jax.tree.structure(self.precision):
            return
        expected, found = (
            len(jax.tree.leaves(tree)) for tree in (parameters, self.precision)
        )
        raise ValueError(
            "NormalPrior: expected one precision, or a pytree like the network's "
            f"parameters with a number for each of their {expected} arrays, got a "
            f"{type(self.precision).__name__} of {found}: make it by "
            "jax.tree.map(lambda leaf: 1.0, bnn.parameters)"
        )

    def scaled(self, factor):
        return NormalPrior(jax.tree.map(lambda value: value * factor, self.precision))


class FanInPrior(AbstractPrior):
    """The prior whose wide limit is the NNGP/NTK: weights shrink with the fan-in.

    weights ~ N(0, weight_std^2 / fan_in); biases, which are everything named `bias` or
    of one dimension, ~ N(0, bias_std^2). The fan-in of a leaf (out, in, *window) is
    in * |window|, Equinox's layout.

    Args:
        weight_std, bias_std: standard deviations.
        precision: a factor on all precisions, 1 unless fitted.

    >>> FanInPrior(weight_std=2.0).precisions({"w": jnp.zeros((3, 8))})["w"].item()
    2.0
    """

    weight_std: float = 1.0
    bias_std: float = 1.0
    precision: ArrayLike = 1.0

    def __check_init__(self):
        values = (self.weight_std, self.bias_std, self.precision)
        if not all(positive(value) for value in values):
            raise ValueError(
                "FanInPrior: expected weight_std, bias_std and precision > 0, got "
                "{}, {} and {}".format(*values)
            )

    def precisions(self, parameters):
        def leaf_precision(path: tuple, leaf: Array) -> Array:
            factor = jnp.asarray(self.precision, leaf.dtype)
            # the bias of a convolution has the shape (out, 1, 1)
            if leaf.ndim < 2 or (path and getattr(path[-1], "name", "") == "bias"):
                return factor / self.bias_std**2
            return factor * math.prod(leaf.shape[1:]) / self.weight_std**2

        return jax.tree_util.tree_map_with_path(leaf_precision, parameters)

    def scaled(self, factor):
        return FanInPrior(self.weight_std, self.bias_std, self.precision * factor)
