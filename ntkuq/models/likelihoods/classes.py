"""Class labels: several classes (softmax) and two classes with one output."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import AbstractLikelihood, Marginal
from ntkuq.models.likelihoods.quadrature import spread


class Categorical(AbstractLikelihood):
    """P(y = k) = softmax(f)_k for class codes y = 0, …, C - 1.

    Class probabilities of an uncertain output are integrated numerically over 512
    fixed antithetic Gaussian draws, the same for every method.

    >>> import jax.numpy as jnp
    >>> float(Categorical().log_prob(jnp.zeros(2), jnp.asarray(1)))
    -0.693147...
    """

    classes: ClassVar[bool] = True
    continuous: ClassVar[bool] = False

    def distribution(self, latent: Float[Array, "*batch C"]) -> dist.Distribution:
        return dist.Categorical(logits=latent)

    def outputs(self, y: Array) -> int:
        return int(y.max()) + 1

    def rescale(self, loc, scale) -> Categorical:
        return self

    def shift(self, mean, loc, scale):
        return mean, jnp.ones((mean.shape[-1],), mean.dtype)

    def hessian(self, latent):
        p = jax.nn.softmax(latent)
        return jnp.diag(p) - jnp.outer(p, p)

    def hessian_sqrt(self, latent):
        # S = diag(sqrt p) - p sqrt(p)^T gives S S^T = diag(p) - p p^T
        p = jax.nn.softmax(latent)
        return jnp.diag(jnp.sqrt(p)) - jnp.outer(p, jnp.sqrt(p))

    def marginalize(self, mean, covariance) -> Marginal:
        nodes, weights = spread(mean, covariance)
        latent = dist.MultivariateNormal(mean, covariance_matrix=_lift(covariance))
        return _mixture(jax.nn.softmax(nodes), weights, latent)

    def mixture(self, latent) -> Marginal:
        size = latent.shape[0]
        weights = jnp.full((size,), 1.0 / size, latent.dtype)
        return _mixture(jax.nn.softmax(latent), weights, None)


class Bernoulli(AbstractLikelihood):
    """P(y = 1) = sigmoid(f) for labels 0 and 1 and one network output.

    The predictive is a two-class categorical, with the columns P(y=0), P(y=1).

    >>> import jax.numpy as jnp
    >>> float(Bernoulli().log_prob(jnp.zeros(1), jnp.asarray(1)))
    -0.693147...
    """

    classes: ClassVar[bool] = True
    continuous: ClassVar[bool] = False

    def distribution(self, latent: Float[Array, "*batch 1"]) -> dist.Distribution:
        return dist.Bernoulli(logits=latent[..., 0])

    def outputs(self, y: Array) -> int:
        return 1

    def rescale(self, loc, scale) -> Bernoulli:
        return self

    def shift(self, mean, loc, scale):
        return mean, jnp.ones((1,), mean.dtype)

    def hessian(self, latent):
        p = jax.nn.sigmoid(latent)
        return jnp.diag(p * (1 - p))

    def hessian_sqrt(self, latent):
        return jnp.sqrt(self.hessian(latent))

    def marginalize(self, mean, covariance) -> Marginal:
        nodes, weights = spread(mean, covariance)
        latent = dist.Normal(mean[:, 0], jnp.sqrt(covariance[:, 0, 0]))
        return _mixture(_two(nodes), weights, latent)

    def mixture(self, latent) -> Marginal:
        size = latent.shape[0]
        weights = jnp.full((size,), 1.0 / size, latent.dtype)
        return _mixture(_two(latent), weights, None)


def _two(latent: Array) -> Array:
    return jnp.concatenate([jax.nn.sigmoid(-latent), jax.nn.sigmoid(latent)], axis=-1)


def _lift(covariance: Array) -> Array:
    """The smallest diagonal that lets a singular covariance have a Cholesky factor."""
    size = jnp.trace(covariance, axis1=-2, axis2=-1) / covariance.shape[-1]
    eps = jnp.finfo(covariance.dtype).eps
    tiny = jnp.finfo(covariance.dtype).tiny ** 0.5
    lift = 20.0 * eps * size + tiny
    return covariance + lift[:, None, None] * jnp.eye(
        covariance.shape[-1], dtype=covariance.dtype
    )


def _entropy(p: Array) -> Array:
    return -jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1)


def _mixture(probs: Array, weights: Array, latent: dist.Distribution | None) -> Marginal:
    mean = jnp.tensordot(weights, probs, 1)
    mean = mean / jnp.sum(mean, axis=-1, keepdims=True)
    expected = jnp.tensordot(weights, _entropy(probs), 1)
    return Marginal(
        latent=latent,
        observed=dist.Categorical(probs=mean),
        epistemic=jnp.maximum(_entropy(mean) - expected, 0.0),
        aleatoric=expected,
    )
