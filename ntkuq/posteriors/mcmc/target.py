"""The log posterior of a network's weights as a function of one vector."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize import find_sites
from ntkuq.models import (
    BNN,
    AbstractLikelihood,
    Gaussian,
    as_arrays,
    log_likelihoods,
    parameters,
    trainable,
)
from ntkuq.posteriors.laplace.subsets import AbstractSubset, All
from ntkuq.posteriors.mcmc.noise import AbstractNoisePrior


class Target(eqx.Module):
    r"""Minus the log posterior of whitened weights z, with theta = z / sqrt(precision).

    $$U(z) = -\sum_n \log p(y_n \mid f(x_n, \theta), \sigma) + \tfrac12 |z|^2
    - \log p(\sigma),$$

    up to a constant. z holds the raveled leaves of the subset in their order, and last
    log(sigma / sigma0) where the noise is sampled. Under the prior every weight has
    scale 1, whatever its layer.

    Args:
        model: all other weights, and the network's structure.
        scales: prior standard deviation of each sampled leaf.
        subset: positions of the sampled leaves in `jax.tree.leaves(parameters(…))`.
        noise: prior of the noise scale; `None` keeps that of the likelihood.
    """

    likelihood: AbstractLikelihood
    model: PyTree
    scales: list[Array]
    x: PyTree
    y: PyTree
    noise: AbstractNoisePrior | None
    subset: tuple[int, ...] = eqx.field(static=True)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the sampled leaves."""
        leaves = jax.tree.leaves(parameters(self.model))
        return [leaves[number].shape for number in self.subset]

    @property
    def outputs(self) -> int:
        """How many noise scales are sampled."""
        return 0 if self.noise is None else self._center().size

    @property
    def size(self) -> int:
        """The length of z."""
        return sum(math.prod(shape) for shape in self.shapes) + self.outputs

    def leaves(self, z: Float[Array, " K"]) -> list[Array]:
        """The sampled leaves, in their own units."""
        found, start = [], 0
        for scale, shape in zip(self.scales, self.shapes, strict=True):
            stop = start + math.prod(shape)
            found.append(scale * z[start:stop].reshape(shape))
            start = stop
        return found

    def whiten(self, leaves: list[Array]) -> Float[Array, " P"]:
        """The vector of these leaves, noise aside."""
        parts = [
            (leaf / scale).reshape(-1)
            for leaf, scale in zip(leaves, self.scales, strict=True)
        ]
        return jnp.concatenate(parts)

    def scale(self, z: Float[Array, " K"]) -> Array:
        """The noise scale, of the likelihood's shape."""
        center = self._center()
        shift = z[z.size - self.outputs :].reshape(center.shape)
        return center * jnp.exp(shift)

    def potential(self, z: Float[Array, " K"]) -> Float[Array, ""]:
        """U(z)."""
        likelihood = self.likelihood
        weights, prior = z, jnp.zeros((), z.dtype)
        if self.noise is not None:
            weights = z[: z.size - self.outputs]
            shift = z[z.size - self.outputs :]
            prior = self.noise.log_prob(shift, jnp.ravel(self._center()))
            likelihood = Gaussian(self.scale(z))
        model = replaced(self.model, self.subset, self.leaves(z))
        fit = log_likelihoods(likelihood, model, self.x, self.y)
        return 0.5 * jnp.sum(weights**2) - jnp.sum(fit) - prior

    def _center(self) -> Array:
        likelihood = self.likelihood
        if not isinstance(likelihood, Gaussian):
            raise TypeError(_no_noise(likelihood))
        return jnp.asarray(likelihood.scale)


def target(
    bnn: BNN,
    model: PyTree,
    x: PyTree,
    y: PyTree,
    subset: AbstractSubset,
    noise: AbstractNoisePrior | None,
) -> Target:
    """The target of a prepared problem, all of it in the network's precision.

    Raises:
        TypeError: for a prior of the noise where there is no Gaussian noise.
    """
    if noise is not None and not isinstance(bnn.likelihood, Gaussian):
        raise TypeError(_no_noise(bnn.likelihood))
    values = parameters(model)
    leaves = jax.tree.leaves(values)
    dtype = leaves[0].dtype
    chosen = tuple(range(len(leaves)))
    if not isinstance(subset, All):
        example = jax.tree.map(lambda leaf: leaf[0], x)
        chosen = subset(model, find_sites(model, example))
    prior = as_arrays(bnn.prior, dtype)
    precisions = jax.tree.leaves(prior.precisions(values))
    return Target(
        likelihood=as_arrays(bnn.likelihood, dtype),
        model=model,
        scales=[1.0 / jnp.sqrt(precisions[number]) for number in chosen],
        x=x,
        y=y,
        noise=None if noise is None else as_arrays(noise, dtype),
        subset=chosen,
    )


def replaced(model: PyTree, subset: tuple[int, ...], leaves: list[Array]) -> PyTree:
    """The network with other values of some of its parameter leaves."""
    values, rest = eqx.partition(model, trainable(model))
    every, structure = jax.tree.flatten(values)
    for number, leaf in zip(subset, leaves, strict=True):
        every[number] = leaf
    return eqx.combine(jax.tree.unflatten(structure, every), rest)


def picked(model: PyTree, subset: tuple[int, ...]) -> list[Array]:
    """Some of the parameter leaves of a network."""
    leaves = jax.tree.leaves(parameters(model))
    return [leaves[number] for number in subset]


def check_dtype(model: PyTree) -> np.dtype:
    """The precision of the chains: that of the weights.

    Raises:
        TypeError: for weights in half precision, whose energies are too rough.
    """
    leaves = jax.tree.leaves(parameters(model))
    dtype = np.dtype(jnp.result_type(*(leaf.dtype for leaf in leaves)))
    if dtype not in (np.float32, np.float64):
        raise TypeError(
            f"NUTS: expected weights in float32 or float64, got {dtype}: cast the "
            "network (ntkuq.models.cast)"
        )
    return dtype


def _no_noise(likelihood: AbstractLikelihood) -> str:
    return (
        "NUTS(noise=…): expected a Gaussian likelihood of one noise scale, got "
        f"{type(likelihood).__name__}: leave noise out"
    )
