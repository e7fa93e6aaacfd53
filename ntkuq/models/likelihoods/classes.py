"""Class labels: several classes (softmax) and two classes with one output."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import (
    AbstractLikelihood,
    Marginal,
    log_density,
    variances,
)
from ntkuq.models.likelihoods.gaussian import _normal
from ntkuq.models.likelihoods.links import (
    AbstractLink,
    Integrated,
    MonteCarlo,
    mixed,
    two_classes,
)
from ntkuq.models.likelihoods.quadrature import root


class Categorical(AbstractLikelihood):
    """P(y = k) = softmax(f)_k for class codes y = 0, …, C - 1.

    Class probabilities of an uncertain output are integrated by a link, `MonteCarlo()`
    unless another is given.

    >>> import jax.numpy as jnp
    >>> float(Categorical().log_prob(jnp.zeros(2), jnp.asarray(1)))
    -0.693147...
    """

    classes: ClassVar[bool] = True
    continuous: ClassVar[bool] = False
    canonical: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = True

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

    def log_prob(self, latent, y):
        return log_density(self.distribution(latent), y, latent.dtype)

    def hessian(self, latent, y=None):
        del y
        p = jax.nn.softmax(latent)
        return jnp.diag(p) - jnp.outer(p, p)

    def hessian_sum(self, latent, y, weights):
        del y
        p = jax.nn.softmax(latent)
        weighed = weights[:, None] * p
        # one product: the matrices of a thousand classes are a million numbers each
        return jnp.diag(jnp.sum(weighed, axis=0)) - p.T @ weighed

    def hessian_sqrt(self, latent, y=None):
        # With q = sqrt(p), a unit vector, H = diag(q) (I - q q^T) diag(q), and the
        # Householder reflection that takes q to -e_C has as its first C - 1 columns an
        # orthonormal basis of the complement of q: S = diag(q) times these, (C, C - 1).
        del y
        q = jnp.sqrt(jax.nn.softmax(latent))
        last = jnp.zeros_like(q).at[-1].set(1.0)
        basis = jnp.eye(q.size, dtype=q.dtype)
        basis = basis - jnp.outer(q + last, (q + last) / (1.0 + q[-1]))
        return q[:, None] * basis[:, :-1]

    def marginalize(self, mean, covariance, link=None) -> Marginal:
        if covariance.ndim == mean.ndim:
            latent = independent(mean, covariance)
        else:
            latent = dist.MultivariateNormal(mean, scale_tril=root(covariance))
        return _classes((link or MonteCarlo()).several(mean, covariance), latent)

    def mixture(self, latent) -> Marginal:
        return _equal(jax.nn.softmax(latent))


class Bernoulli(AbstractLikelihood):
    """P(y = 1) = sigmoid(f) for labels 0 and 1 and one network output.

    The predictive is a two-class categorical, with the columns P(y=0), P(y=1).

    >>> import jax.numpy as jnp
    >>> float(Bernoulli().log_prob(jnp.zeros(1), jnp.asarray(1)))
    -0.693147...
    """

    classes: ClassVar[bool] = True
    continuous: ClassVar[bool] = False
    canonical: ClassVar[bool] = True

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

    def log_prob(self, latent, y):
        return log_density(self.distribution(latent), y, latent.dtype)

    def hessian(self, latent, y=None):
        del y
        p = jax.nn.sigmoid(latent)
        return jnp.diag(p * (1 - p))

    def hessian_sqrt(self, latent, y=None):
        return jnp.sqrt(self.hessian(latent, y))

    def marginalize(self, mean, covariance, link: AbstractLink | None = None):
        variance = variances(mean, covariance)
        found = (link or MonteCarlo()).two(mean, variance)
        return _classes(found, _normal(mean, variance))

    def mixture(self, latent) -> Marginal:
        return _equal(two_classes(latent))


def independent(
    mean: Float[Array, "*batch C"], variance: Float[Array, "*batch C"]
) -> dist.Distribution:
    """Independent logits; a variance of zero is that of the smallest number."""
    tiny = jnp.finfo(variance.dtype).tiny
    scale = jnp.sqrt(jnp.maximum(variance, tiny))
    return dist.Normal(mean, scale).to_event(1)


def _equal(probs: Float[Array, "S *batch C"]) -> Marginal:
    size = probs.shape[0]
    weights = jnp.full((size,), 1.0 / size, probs.dtype)
    return _classes(mixed(probs, weights), None)


def _classes(found: Integrated, latent: dist.Distribution | None) -> Marginal:
    return Marginal(
        latent=latent,
        observed=dist.CategoricalProbs(found.probs),
        epistemic=found.information,
        aleatoric=found.expected,
    )
