"""Counts."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import (
    AbstractLikelihood,
    Marginal,
    log_density,
    no_link,
    variances,
)
from ntkuq.models.likelihoods.gaussian import _normal
from ntkuq.models.likelihoods.quadrature import line


class Poisson(AbstractLikelihood):
    """y ~ Poisson(exp(f)) for counts y = 0, 1, 2, … and one network output.

    >>> import jax.numpy as jnp
    >>> float(Poisson().log_prob(jnp.zeros(1), jnp.asarray(0)))
    -1.0
    """

    classes: ClassVar[bool] = False
    continuous: ClassVar[bool] = False
    canonical: ClassVar[bool] = True

    def distribution(self, latent: Float[Array, "*batch 1"]) -> dist.Distribution:
        return dist.Poisson(jnp.exp(latent[..., 0]))

    def outputs(self, y: Array | np.ndarray) -> int:
        counts = np.asarray(y)
        if counts.ndim != 1 or (counts < 0).any() or (counts != np.round(counts)).any():
            raise ValueError(
                "Poisson: expected counts 0, 1, 2, … of shape (N,), got targets of "
                f"shape {counts.shape} from {counts.min():g} to {counts.max():g}"
                f"{'' if (counts == np.round(counts)).all() else ', not all whole'}"
            )
        return 1

    def rescale(self, loc, scale) -> Poisson:
        return self

    def shift(self, mean, loc, scale):
        return mean, jnp.ones((1,), mean.dtype)

    def log_prob(self, latent, y):
        return log_density(self.distribution(latent), y, latent.dtype)

    def hessian(self, latent, y=None):
        del y
        return jnp.diag(jnp.exp(latent))

    def hessian_sqrt(self, latent, y=None):
        del y
        return jnp.diag(jnp.exp(0.5 * latent))

    def marginalize(self, mean, covariance, link=None) -> Marginal:
        no_link(self, link)
        variance = variances(mean, covariance)
        nodes, weights = line(mean, variance)
        return _mixture(nodes, weights, _normal(mean, variance))

    def mixture(self, latent) -> Marginal:
        size = latent.shape[0]
        return _mixture(latent, jnp.full((size,), 1.0 / size, latent.dtype), None)


def _mixture(latent: Array, weights: Array, normal) -> Marginal:
    rate = jnp.exp(latent[..., 0])
    mean = jnp.tensordot(weights, rate, 1)
    observed = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Poisson(jnp.moveaxis(rate, 0, -1))
    )
    return Marginal(
        latent=normal,
        observed=observed,
        epistemic=jnp.tensordot(weights, (rate - mean) ** 2, 1),
        aleatoric=mean,
    )
