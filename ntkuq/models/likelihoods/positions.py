"""Several independent targets an example: a label for each word, a count a pixel."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import (
    AbstractLikelihood,
    Marginal,
    block_diagonal,
)


class Positions(AbstractLikelihood):
    r"""One likelihood at every position: $\sum_t \log p(y_t \mid f_t)$.

    The network's outputs have the shape (*shape, K), classes last, flattened to C.
    Given the network the positions are independent, so that the Hessian has a K x K
    block for each; the outputs themselves stay correlated. `BNN.prepare` makes it of
    `Categorical`, `Bernoulli` and `Poisson` where the targets of an example have axes.

    Args:
        likelihood: of one position.
        shape: of the targets of one example, such as (T,) or (H, W).

    >>> from ntkuq.models import Categorical
    >>> labels = Positions(Categorical(), (2,))
    >>> labels.distribution(jnp.zeros(6)).probs.shape
    (2, 3)
    """

    likelihood: AbstractLikelihood
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, likelihood: AbstractLikelihood, shape: tuple[int, ...]):
        self.likelihood = likelihood
        self.shape = shape

    @property
    def classes(self) -> bool:
        """Are the targets class codes?"""
        return self.likelihood.classes

    @property
    def continuous(self) -> bool:
        """Do the targets have units?"""
        return self.likelihood.continuous

    @property
    def canonical(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Is the Hessian the same whatever y?"""
        return self.likelihood.canonical

    @property
    def count(self) -> int:
        """The number of positions."""
        return math.prod(self.shape)

    def distribution(self, latent: Float[Array, "*batch C"]) -> dist.Distribution:
        return self.likelihood.distribution(self._apart(latent))

    def outputs(self, y: Array | np.ndarray) -> int:
        if y.shape[1:] != self.shape:
            raise ValueError(
                f"Positions: expected targets of shape {('N', *self.shape)}, got "
                f"{y.shape}".replace("'", "")
            )
        return self.count * self.likelihood.outputs(np.asarray(y).reshape(-1))

    def rescale(self, loc, scale) -> Positions:
        return Positions(self.likelihood.rescale(loc, scale), self.shape)

    def shift(self, mean, loc, scale):
        shape = (*mean.shape[:-1], self.count, -1)
        moved, factor = self.likelihood.shift(mean.reshape(shape), loc, scale)
        return moved.reshape(mean.shape), jnp.tile(factor, self.count)

    def log_prob(self, latent, y):
        each = jax.vmap(self.likelihood.log_prob)
        return jnp.sum(each(latent.reshape(self.count, -1), jnp.ravel(y)))

    def hessian(self, latent, y=None):
        return self._blocks(self.likelihood.hessian, latent, y)

    def hessian_sqrt(self, latent, y=None):
        return self._blocks(self.likelihood.hessian_sqrt, latent, y)

    def marginalize(self, mean, covariance, link=None) -> Marginal:
        apart = self._apart(mean)
        if covariance.ndim == mean.ndim:
            return self.likelihood.marginalize(apart, self._apart(covariance), link)
        size = apart.shape[-1]
        shape = (*mean.shape[:-1], self.count, size, self.count, size)
        blocks = jnp.diagonal(covariance.reshape(shape), axis1=-4, axis2=-2)
        blocks = jnp.moveaxis(blocks, -1, -3).reshape(*apart.shape, size)
        return self.likelihood.marginalize(apart, blocks, link)

    def mixture(self, latent) -> Marginal:
        return self.likelihood.mixture(self._apart(latent))

    def _apart(self, latent: Array) -> Array:
        return latent.reshape(*latent.shape[:-1], *self.shape, -1)

    def _blocks(self, function, latent: Array, y: Array | None) -> Array:
        f = latent.reshape(self.count, -1)
        if y is None:
            return block_diagonal(jax.vmap(function)(f))
        return block_diagonal(jax.vmap(function)(f, jnp.ravel(y)))
