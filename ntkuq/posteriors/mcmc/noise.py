"""Priors over the scale of Gaussian noise, for chains that sample it."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.models.checks import positive


class AbstractNoisePrior(eqx.Module):
    """p(sigma), in the units of the network's output."""

    @abc.abstractmethod
    def log_prob(
        self, shift: Float[Array, " D"], center: Float[Array, " D"]
    ) -> Float[Array, ""]:
        """log p(shift), up to a constant, of shift = log(sigma / center).

        Args:
            shift: what the chains move.
            center: the noise scale of the `BNN`.
        """


class HalfNormalNoise(AbstractNoisePrior):
    r"""$\sigma \sim N^+(0, s^2)$: weak where s is well above the noise expected.

    Args:
        scale: s, in the units of the network's output. 1 is the standard deviation of
            standardized targets.

    Raises:
        ValueError: unless the scale is positive.

    References:
        Gelman, *Prior distributions for variance parameters in hierarchical models*,
        Bayesian Analysis 2006.

    >>> HalfNormalNoise(2.0).scale
    2.0
    """

    scale: float = 1.0

    def __check_init__(self):
        if not positive(self.scale):
            raise ValueError(
                f"HalfNormalNoise: expected scale > 0, got {self.scale}: give the "
                "largest noise that you expect, in units of the network's output"
            )

    def log_prob(self, shift, center):
        # with the Jacobian d sigma / d shift = sigma
        sigma = center * jnp.exp(shift)
        return jnp.sum(shift - 0.5 * (sigma / self.scale) ** 2)


class LogNormalNoise(AbstractNoisePrior):
    r"""$\log \sigma \sim N(\log \sigma_0, s^2)$ around the noise scale of the `BNN`.

    Args:
        spread: s; 1 allows a factor of about 7 either way (95 %).

    Raises:
        ValueError: unless the spread is positive.

    >>> LogNormalNoise().spread
    1.0
    """

    spread: float = 1.0

    def __check_init__(self):
        if not positive(self.spread):
            raise ValueError(
                f"LogNormalNoise: expected spread > 0, got {self.spread}: leave the "
                "prior out (noise=None) to keep the noise of the BNN"
            )

    def log_prob(self, shift, center):
        del center
        return jnp.sum(-0.5 * (shift / self.spread) ** 2)
