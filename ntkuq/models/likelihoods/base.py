"""The likelihood: a NumPyro distribution as a function of the network output."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree


if TYPE_CHECKING:
    from ntkuq.models.likelihoods.links import AbstractLink


class Marginal(NamedTuple):
    """A likelihood integrated over the uncertain network output, one row a datum.

    latent: distribution of the network output (`None` where it is not Gaussian).
    observed: distribution of a new observation.
    epistemic: variance over the network output, (N,) or (N, C); for classes the
        mutual information between label and network, (N,), in nats. `None` where it is
        not known.
    aleatoric: expected variance given the network output; for classes the expected
        entropy, in nats. `None` where it is not known.
    """

    latent: dist.Distribution | None
    observed: dist.Distribution
    epistemic: Array | None
    aleatoric: Array | None


class AbstractLikelihood(eqx.Module):
    """log p(y | f): what the data say about the output f, (C,), of one example.

    For a likelihood of one's own that has only a log density there is `LogDensity`.
    One with closed forms derives from this class: it sets `classes` and `continuous`
    and writes every abstract method below. `log_density` gives `log_prob` from
    `distribution`, and `square_root` gives `hessian_sqrt` from any `hessian`, which
    `curvature` checks. Leading axes of outputs (`*batch`) are independent.
    """

    #: Are the targets class codes? (then a predictive has probabilities, no interval)
    classes: eqx.AbstractVar[bool]
    #: Do the targets have units, so that `Standardize` may shift and scale them?
    continuous: eqx.AbstractVar[bool]
    #: Is `hessian` the derivative of minus `residual`, whatever y? Then products with
    #: it are taken without the matrix, which matters for many outputs.
    canonical: ClassVar[bool] = False
    #: Does one number added to all outputs change nothing? Then H 1 = 0.
    shift_invariant: ClassVar[bool] = False

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
        self,
        mean: Float[Array, "*batch C"],
        covariance: Float[Array, "*batch C C"] | Float[Array, "*batch C"],
        link: AbstractLink | None = None,
    ) -> Marginal:
        """Integrate over Gaussian outputs with this mean and covariance.

        Args:
            mean: of the outputs.
            covariance: of the outputs; of the same shape as `mean`, the variances of
                outputs that are independent.
            link: how class probabilities are integrated, `MonteCarlo()` where it is
                `None`. Only likelihoods of classes have one.
        """

    @abc.abstractmethod
    def mixture(self, latent: Float[Array, "S *batch C"]) -> Marginal:
        """Integrate over S equally likely outputs."""

    @abc.abstractmethod
    def hessian(
        self, latent: Float[Array, " C"], y: PyTree | None = None
    ) -> Float[Array, "C C"]:
        """-d2 log p / df2, expected over y or at this y; positive semi-definite.

        The GGN's H. Built-in likelihoods take the expectation (the Fisher information)
        and do not look at `y`; `LogDensity` and `KnownNoise` do.
        """

    @abc.abstractmethod
    def hessian_sqrt(
        self, latent: Float[Array, " C"], y: PyTree | None = None
    ) -> Float[Array, "C K"]:
        """A factor S of the Hessian, H = S S^T, with K <= C columns."""

    def hessian_sum(
        self, latent: Float[Array, "N C"], y: PyTree, weights: Float[Array, " N"]
    ) -> Float[Array, "C C"]:
        """sum_n w_n H_n of several examples."""
        return jnp.einsum("n,ncd->cd", weights, jax.vmap(self.hessian)(latent, y))

    @abc.abstractmethod
    def log_prob(self, latent: Float[Array, " C"], y: PyTree) -> Float[Array, ""]:
        """log p(y | f) of one example."""

    def residual(self, latent: Float[Array, " C"], y: PyTree) -> Float[Array, " C"]:
        """d log p(y | f) / df of one example."""
        return jax.grad(self.log_prob)(latent, y)


def log_density(
    distribution: dist.Distribution, y: Array, dtype: np.dtype
) -> Float[Array, ""]:
    """log p(y) of one example, summed over its columns."""
    codes = isinstance(distribution, dist.CategoricalLogits | dist.CategoricalProbs)
    # counts enter arithmetic; class codes are positions
    value = y if codes else jnp.asarray(y, dtype)
    return jnp.sum(distribution.log_prob(value))


def variances(mean: Array, covariance: Array) -> Array:
    """The variances of the outputs, of the shape of their mean."""
    if covariance.ndim == mean.ndim:
        return covariance
    return jnp.diagonal(covariance, axis1=-2, axis2=-1)


def no_link(likelihood: AbstractLikelihood, link: AbstractLink | None) -> None:
    """Raise `TypeError` where a link is given to a likelihood that has no classes."""
    if link is not None:
        raise TypeError(
            f"{type(likelihood).__name__}: expected no link, since it has no classes, "
            f"got {type(link).__name__}(): leave link out"
        )


def curvature(
    likelihood: AbstractLikelihood, latent: Float[Array, " C"], y: PyTree
) -> Float[Array, "C C"]:
    """-d2 log p / df2 at this y, by automatic differentiation.

    Its mean over y given the latent is `hessian`; where y drops out they are equal.
    """
    return -jax.hessian(likelihood.log_prob)(latent, y)


def square_root(matrix: Float[Array, "C C"]) -> Float[Array, "C C"]:
    """S with S S^T = matrix, by eigendecomposition; negative values count as zero."""
    if matrix.shape[-1] == 1:
        return jnp.sqrt(jnp.clip(matrix, 0.0))
    values, vectors = jnp.linalg.eigh(matrix)
    return vectors * jnp.sqrt(jnp.clip(values, 0.0))


def block_diagonal(blocks: Float[Array, "T K R"]) -> Float[Array, "TK TR"]:
    """The matrix with these blocks on its diagonal."""
    count, rows, columns = blocks.shape
    if count == 1:
        return blocks[0]
    every = jnp.arange(count)
    dense = jnp.zeros((count, rows, count, columns), blocks.dtype)
    dense = dense.at[every, :, every, :].set(blocks)
    return dense.reshape(count * rows, count * columns)
