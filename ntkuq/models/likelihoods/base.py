"""The likelihood: a NumPyro distribution as a function of the network output."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float


class Marginal(NamedTuple):
    """A likelihood integrated over the uncertain network output, one row a datum.

    latent: distribution of the network output (`None` where it is not Gaussian).
    observed: distribution of a new observation.
    epistemic: variance over the network output, (N,) or (N, C); for classes the
        mutual information between label and network, (N,), in nats.
    aleatoric: expected variance given the network output; for classes the expected
        entropy, in nats.
    """

    latent: dist.Distribution | None
    observed: dist.Distribution
    epistemic: Array
    aleatoric: Array


class AbstractLikelihood(eqx.Module):
    """log p(y | f): what the data say about the output f, (C,), of one example.

    A likelihood of one's own sets `classes` and `continuous` and writes every abstract
    method below. `log_prob` and `residual` follow from `distribution`. The rest has no
    default: `hessian` is an expectation over y and `marginalize` an integral over
    outputs, for which no one rule is right for every distribution. `square_root` gives
    `hessian_sqrt` from any `hessian`, and `curvature` is there to check one.
    """

    #: Are the targets class codes? (then a predictive has probabilities, no interval)
    classes: eqx.AbstractClassVar[bool]
    #: Do the targets have units, so that `Standardize` may shift and scale them?
    continuous: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def distribution(self, latent: Float[Array, "*batch C"]) -> dist.Distribution:
        """The distribution of y given the network output, batched over `*batch`."""

    @abc.abstractmethod
    def outputs(self, y: Array | np.ndarray) -> int:
        """How many network outputs the targets `y` of a data set ask for.

        Raises:
            ValueError: for targets that this likelihood does not have.
        """

    @abc.abstractmethod
    def rescale(
        self, loc: Float[Array, " D"], scale: Float[Array, " D"]
    ) -> AbstractLikelihood:
        """The likelihood of `loc + scale * y` for this likelihood's y.

        Called with 0 and 1 where the targets are not `continuous`: then itself.
        """

    @abc.abstractmethod
    def shift(
        self,
        mean: Float[Array, "*batch C"],
        loc: Float[Array, " D"],
        scale: Float[Array, " D"],
    ) -> tuple[Float[Array, "*batch C"], Float[Array, " C"]]:
        """Network outputs for `loc + scale * y`, and the factor of their deviations."""

    @abc.abstractmethod
    def marginalize(
        self, mean: Float[Array, "N C"], covariance: Float[Array, "N C C"]
    ) -> Marginal:
        """Integrate over Gaussian outputs with this mean and covariance."""

    @abc.abstractmethod
    def mixture(self, latent: Float[Array, "S N C"]) -> Marginal:
        """Integrate over S equally likely outputs."""

    @abc.abstractmethod
    def hessian(self, latent: Float[Array, " C"]) -> Float[Array, "C C"]:
        """Expected -d2 log p / df2, positive semi-definite (the GGN's H)."""

    @abc.abstractmethod
    def hessian_sqrt(self, latent: Float[Array, " C"]) -> Float[Array, "C C"]:
        """A factor S of the Hessian, H = S S^T."""

    def log_prob(self, latent: Float[Array, " C"], y: Array) -> Float[Array, ""]:
        """log p(y | f) of one example."""
        distribution = self.distribution(latent)
        codes = isinstance(distribution, dist.CategoricalLogits | dist.CategoricalProbs)
        # counts enter arithmetic; class codes are positions
        value = y if codes else jnp.asarray(y, latent.dtype)
        return jnp.sum(distribution.log_prob(value))

    def residual(self, latent: Float[Array, " C"], y: Array) -> Float[Array, " C"]:
        """d log p(y | f) / df of one example."""
        return jax.grad(self.log_prob)(latent, y)


def curvature(
    likelihood: AbstractLikelihood, latent: Float[Array, " C"], y: Array
) -> Float[Array, "C C"]:
    """-d2 log p / df2 at this y, by automatic differentiation.

    Its mean over y given the latent is `hessian`; where y drops out they are equal.
    """
    return -jax.hessian(likelihood.log_prob)(latent, y)


def square_root(matrix: Float[Array, "C C"]) -> Float[Array, "C C"]:
    """S with S S^T = matrix, from the eigendecomposition (zero eigenvalues allowed)."""
    values, vectors = jnp.linalg.eigh(matrix)
    return vectors * jnp.sqrt(jnp.clip(values, 0.0))
