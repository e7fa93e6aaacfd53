"""Which outer products of output gradients stand for the Hessian of the likelihood."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.models import AbstractLikelihood, KnownNoise


class AbstractFisher(eqx.Module):
    """Weights S of the output gradients of an example, G = sum_n J^T S S^T J."""

    @abc.abstractmethod
    def extras(self, y: PyTree, first: int) -> tuple[PyTree, ...]:
        """What `weights` needs of each example besides its outputs, (N, …) each.

        first: the number of the first of these examples.
        """

    @abc.abstractmethod
    def weights(
        self, likelihood: AbstractLikelihood, latent: Float[Array, " C"], *extra: Any
    ) -> Float[Array, "C K"]:
        """S for one example with these outputs."""

    @abc.abstractmethod
    def columns(self, outputs: int) -> int:
        """K, the columns of S: how many backward passes an example takes."""

    def after(self, count: int) -> AbstractFisher:
        """For further examples, when so many have been seen."""
        del count
        return self


class ExactFisher(AbstractFisher):
    """The exact Hessian, S S^T = H: the generalized Gauss-Newton matrix.

    Costs one backward pass for each output. For the likelihoods here it is the Fisher
    information too.

    >>> ExactFisher()
    ExactFisher()
    """

    def extras(self, y, first):
        del first
        return (y,)

    def weights(self, likelihood, latent, *extra):
        return likelihood.hessian_sqrt(latent, *extra)

    def columns(self, outputs):
        return outputs


class SampledFisher(AbstractFisher):
    """The Fisher information from targets drawn from the model: unbiased and noisy.

    Costs one backward pass for each sample, however many outputs there are.

    Args:
        key: a JAX random key; the same key gives the same draws.
        samples: draws an example.
        seen: the number of examples that went before (`Laplace.update` counts them).

    References: Kunstner, Balles, Hennig 2019 (arXiv 1905.12558).

    >>> SampledFisher(jax.random.key(0)).samples
    1
    """

    key: Array
    samples: int = eqx.field(static=True, default=1)
    # an array, so that programs do not depend on it
    seen: np.ndarray = eqx.field(default_factory=lambda: np.zeros((), np.uint32))

    def __check_init__(self):
        if self.samples < 1:
            raise ValueError(
                f"SampledFisher: expected samples >= 1, got {self.samples}"
            )

    def extras(self, y, first):
        size = jax.tree.leaves(y)[0].shape[0]
        # by the number of the example, whatever the chunks
        numbers = self.seen + first + np.arange(size, dtype=np.uint32)
        return (_keys(self.key, numbers),)

    def weights(self, likelihood, latent, *extra):
        (key,) = extra
        if isinstance(likelihood, KnownNoise):
            raise TypeError(
                "SampledFisher: expected a likelihood that targets can be drawn from, "
                "got noise scales known by datum: use ExactFisher()"
            )
        draws = likelihood.distribution(latent).sample(key, (self.samples,))
        gradients = jax.vmap(lambda y: likelihood.residual(latent, y))(draws)
        return gradients.T / jnp.sqrt(jnp.asarray(self.samples, latent.dtype))

    def columns(self, outputs):
        return self.samples

    def after(self, count):
        seen = np.asarray(self.seen + np.uint32(count))
        return SampledFisher(self.key, self.samples, seen)


@jax.jit
def _keys(key: Array, numbers: Array) -> Array:
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


class EmpiricalFisher(AbstractFisher):
    """Gradients at the observed targets: cheap, and no approximation of the Hessian.

    References: Kunstner, Balles, Hennig 2019 (arXiv 1905.12558), who show its limits.

    >>> EmpiricalFisher()
    EmpiricalFisher()
    """

    def extras(self, y, first):
        del first
        return (y,)

    def weights(self, likelihood, latent, *extra):
        return likelihood.residual(latent, *extra)[:, None]

    def columns(self, outputs):
        return 1
