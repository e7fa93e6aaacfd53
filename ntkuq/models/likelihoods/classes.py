"""Class labels: several classes (softmax) and two classes with one output."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import AbstractLikelihood, Marginal
from ntkuq.models.likelihoods.gaussian import _normal
from ntkuq.models.likelihoods.quadrature import spread


class Categorical(AbstractLikelihood):
    """P(y = k) = softmax(f)_k for class codes y = 0, …, C - 1.

    Class probabilities of an uncertain output are integrated numerically: for two
    classes by Gauss-Hermite quadrature over the difference of the logits, for more
    over 512 fixed antithetic Gaussian draws, the same for every method.

    >>> import jax.numpy as jnp
    >>> float(Categorical().log_prob(jnp.zeros(2), jnp.asarray(1)))
    -0.693147...
    """

    classes: ClassVar[bool] = True
    continuous: ClassVar[bool] = False

    def distribution(self, latent: Float[Array, "*batch C"]) -> dist.Distribution:
        return dist.CategoricalLogits(latent)

    def outputs(self, y: Array | np.ndarray) -> int:
        codes = np.asarray(y)
        if codes.min() < 0:
            raise ValueError(
                f"Categorical: expected class codes 0, 1, …, got {codes.min()}"
            )
        return max(int(codes.max()) + 1, 2)

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
        latent = dist.MultivariateNormal(mean, covariance_matrix=_lift(covariance))
        if mean.shape[-1] == 2:
            # softmax depends on the difference of the two logits only
            contrast = jnp.asarray([-1.0, 1.0], mean.dtype)
            variance = jnp.einsum("c,ncd,d->n", contrast, covariance, contrast)
            nodes, weights = spread((mean @ contrast)[:, None], variance[:, None, None])
            return _mixture(_two(nodes), weights, latent)
        nodes, weights = spread(mean, covariance)
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
        # over the labels 0 and 1, as predictions are
        logits = jnp.concatenate([jnp.zeros_like(latent), latent], axis=-1)
        return dist.CategoricalLogits(logits)

    def outputs(self, y: Array | np.ndarray) -> int:
        codes = np.unique(np.asarray(y))
        if not np.isin(codes, (0, 1)).all():
            raise ValueError(
                "Bernoulli: expected the labels 0 and 1, got "
                f"{', '.join(str(code) for code in codes[:5])}: use Categorical() for "
                "more classes"
            )
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
        latent = _normal(mean, covariance[:, 0])
        return _mixture(_two(nodes), weights, latent)

    def mixture(self, latent) -> Marginal:
        size = latent.shape[0]
        weights = jnp.full((size,), 1.0 / size, latent.dtype)
        return _mixture(_two(latent), weights, None)


def _two(latent: Array) -> Array:
    return jnp.concatenate([jax.nn.sigmoid(-latent), jax.nn.sigmoid(latent)], axis=-1)


#: Smallest eigenvalue of a covariance between logits, relative to the mean one.
FLOOR = 1e-9


def _lift(covariance: Array) -> Array:
    """The nearest covariance that has a Cholesky factor: eigenvalues below FLOOR rise.

    A covariance computed in float32 can have eigenvalues slightly below zero.
    """
    values, vectors = jnp.linalg.eigh(covariance)
    size = jnp.trace(covariance, axis1=-2, axis2=-1) / covariance.shape[-1]
    tiny = jnp.finfo(covariance.dtype).tiny ** 0.5
    values = jnp.maximum(values, (FLOOR * size + tiny)[:, None])
    lifted = jnp.einsum("nij,nj,nkj->nik", vectors, values, vectors)
    return 0.5 * (lifted + jnp.swapaxes(lifted, -1, -2))


def _entropy(p: Array) -> Array:
    return -jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1)


def _mixture(
    probs: Array, weights: Array, latent: dist.Distribution | None
) -> Marginal:
    mean = jnp.tensordot(weights, probs, 1)
    mean = mean / jnp.sum(mean, axis=-1, keepdims=True)
    expected = jnp.tensordot(weights, _entropy(probs), 1)
    return Marginal(
        latent=latent,
        observed=dist.CategoricalProbs(mean),
        epistemic=jnp.maximum(_entropy(mean) - expected, 0.0),
        aleatoric=expected,
    )
