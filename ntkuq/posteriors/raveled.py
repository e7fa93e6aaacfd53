"""The parameters of a network as one vector, its log posterior, Gaussians over it."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.linearize.chunks import rows, split_rows
from ntkuq.models import (
    BNN,
    AbstractLikelihood,
    AbstractPrior,
    as_arrays,
    log_likelihoods,
    parameters,
    trainable,
)


#: Examples whose likelihoods are computed at a time, network by network.
CHUNK = 1024


class Raveled(eqx.Module):
    """The parameters of a network as one vector theta (P,), leaf after leaf.

    The vector has the widest dtype of the leaves, float32 at least.

    Args:
        model: gives the leaves, and everything that is no parameter.

    >>> raveled = Raveled(eqx.nn.Linear(2, 3, key=jax.random.key(0)))
    >>> raveled.vector.shape, raveled.network(jnp.ones(9)).weight.shape
    ((9,), (3, 2))
    """

    model: PyTree

    @property
    def vector(self) -> Float[Array, " P"]:
        """The parameters of the model."""
        return _joined(jax.tree.leaves(parameters(self.model)))

    def network(self, theta: Float[Array, " P"]) -> PyTree:
        """The network with these parameters, each leaf in its own dtype."""
        params, rest = eqx.partition(self.model, trainable(self.model))
        return eqx.combine(_split(params, theta), rest)

    def networks(self, thetas: Float[Array, "S P"]) -> PyTree:
        """Networks with these parameters, stacked along a leading axis."""
        params, rest = eqx.partition(self.model, trainable(self.model))
        return eqx.combine(_split_rows(params, thetas), rest)

    def precisions(self, prior: AbstractPrior) -> Float[Array, " P"]:
        """The prior precision of each parameter."""
        params = parameters(self.model)
        dtype = self.vector.dtype
        wide = jax.tree.map(
            lambda leaf, value: jnp.full(leaf.size, value, dtype),
            params,
            prior.precisions(params),
        )
        return jnp.concatenate(jax.tree.leaves(wide))


@jax.jit
def _joined(leaves: list[Array]) -> Array:
    # leaves of several types are allowed, where JAX is strict about it too
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*(leaf.dtype for leaf in leaves), np.float32)
    return jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in leaves])


@jax.jit
def _split_rows(params: PyTree, thetas: Array) -> PyTree:
    return jax.vmap(lambda theta: _split(params, theta))(thetas)


def _split(params: PyTree, theta: Array) -> PyTree:
    leaves, structure = jax.tree.flatten(params)
    parts, start = [], 0
    for leaf in leaves:
        part = theta[start : start + leaf.size]
        parts.append(part.reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(structure, parts)


class Target(eqx.Module):
    r"""The log posterior of a network's parameters, up to its constant.

    $\log p(\theta) + \sum_n \log p(y_n \mid f(x_n, \theta))$

    Args:
        raveled: from theta to the network.
        likelihood, prior: of the problem, their numbers as arrays.
        x, y: all examples, in the network's units.
    """

    raveled: Raveled
    likelihood: AbstractLikelihood
    prior: AbstractPrior
    x: PyTree
    y: PyTree

    @staticmethod
    def of(bnn: BNN, data: Dataset) -> Target:
        """The log posterior of a prepared problem, whose network has a model."""
        dtype = bnn.dtype
        return Target(
            Raveled(bnn.model),
            as_arrays(bnn.likelihood, dtype),
            as_arrays(bnn.prior, dtype),
            bnn.inputs(data.x),
            bnn.targets(data),
        )

    @property
    def size(self) -> int:
        """The number of examples N."""
        return rows(self.x)

    def draw(self, batch: int | None, key: Array) -> tuple[PyTree, PyTree]:
        """`batch` examples, drawn with replacement; all of them for `None`."""
        if batch is None:
            return self.x, self.y
        chosen = jax.random.randint(key, (batch,), 0, self.size)
        return jax.tree.map(lambda leaf: leaf[chosen], (self.x, self.y))

    def log_prior(self, theta: Float[Array, " P"]) -> Float[Array, ""]:
        """log p(theta)."""
        return self.prior.log_prob(parameters(self.raveled.network(theta)))

    def log_likelihood(
        self, theta: Float[Array, " P"], x: PyTree, y: PyTree
    ) -> Float[Array, ""]:
        r"""$N/B \sum_b \log p(y_b \mid f(x_b))$ over B examples: unbiased."""
        model = self.raveled.network(theta)
        every = log_likelihoods(self.likelihood, model, x, y)
        return jnp.sum(every) * (self.size / every.shape[0])

    def loss(self, theta: Float[Array, " P"], x: PyTree, y: PyTree) -> Float[Array, ""]:
        """Minus the log posterior per datum, estimated from these examples."""
        return -(self.log_likelihood(theta, x, y) + self.log_prior(theta)) / self.size

    def log_joints(self, thetas: Float[Array, "S P"]) -> Float[Array, " S"]:
        """log p(y, theta) of each row, in chunks of the data."""
        parts = split_rows((self.x, self.y), CHUNK)
        held = self.raveled, self.likelihood
        total = _log_priors(self.raveled, self.prior, thetas)
        for x, y in parts:
            total = total + _log_likelihoods(*held, thetas, x, y)
        return total


@eqx.filter_jit
def _log_priors(raveled: Raveled, prior: AbstractPrior, thetas: Array) -> Array:
    def one(theta: Array) -> Array:
        return prior.log_prob(parameters(raveled.network(theta)))

    return jax.lax.map(one, thetas)


@eqx.filter_jit
def _log_likelihoods(raveled, likelihood, thetas, x, y):
    def one(theta: Array) -> Array:
        return jnp.sum(log_likelihoods(likelihood, raveled.network(theta), x, y))

    return jax.lax.map(one, thetas)


class AbstractGaussian(eqx.Module):
    """A normal distribution of theta, (P,)."""

    mean: eqx.AbstractVar[Float[Array, " P"]]

    @abc.abstractmethod
    def distribution(self) -> dist.Distribution:
        """As a NumPyro distribution, for densities."""

    @abc.abstractmethod
    def sample(self, key: Array, n: int) -> Float[Array, "n P"]:
        """n independent draws, in the dtype of the mean."""

    @abc.abstractmethod
    def covariance(self) -> Float[Array, "P P"]:
        """The covariance as a dense matrix."""


class DiagonalGaussian(AbstractGaussian):
    """N(mean, diag(scale^2)).

    >>> DiagonalGaussian(jnp.zeros(2), jnp.full(2, 3.0)).covariance()[0].tolist()
    [9.0, 0.0]
    """

    mean: Float[Array, " P"]
    scale: Float[Array, " P"]

    def distribution(self):
        return dist.Normal(self.mean, self.scale).to_event(1)

    def sample(self, key, n):
        white = jax.random.normal(key, (n, self.mean.size), self.mean.dtype)
        return self.mean + white * self.scale

    def covariance(self):
        return jnp.diag(self.scale**2)


class LowRankGaussian(AbstractGaussian):
    """N(mean, F F^T + diag(scale^2)) with F (P, R).

    >>> g = LowRankGaussian(jnp.zeros(2), jnp.ones((2, 1)), jnp.ones(2))
    >>> g.covariance()[0].tolist()
    [2.0, 1.0]
    """

    mean: Float[Array, " P"]
    factor: Float[Array, "P R"]
    scale: Float[Array, " P"]

    def distribution(self):
        return dist.LowRankMultivariateNormal(self.mean, self.factor, self.scale**2)

    def sample(self, key, n):
        first, last = jax.random.split(key)
        rank, dtype = self.factor.shape[1], self.mean.dtype
        low = jax.random.normal(first, (n, rank), dtype)
        own = jax.random.normal(last, (n, self.mean.size), dtype)
        return self.mean + low @ self.factor.T + own * self.scale

    def covariance(self):
        return self.factor @ self.factor.T + jnp.diag(self.scale**2)


class FullGaussian(AbstractGaussian):
    """N(mean, L L^T) with lower triangular L (P, P).

    >>> FullGaussian(jnp.zeros(2), jnp.eye(2)).sample(jax.random.key(0), 3).shape
    (3, 2)
    """

    mean: Float[Array, " P"]
    lower: Float[Array, "P P"]

    def distribution(self):
        return dist.MultivariateNormal(self.mean, scale_tril=self.lower)

    def sample(self, key, n):
        white = jax.random.normal(key, (n, self.mean.size), self.mean.dtype)
        return self.mean + white @ self.lower.T

    def covariance(self):
        return self.lower @ self.lower.T
