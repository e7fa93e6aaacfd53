"""What a curvature approximation must offer: log-determinant and covariances.

With a prior of precision tau * L0 (L0 fixed, tau one number) and noise factor v, the
posterior covariance of the parameters is  (tau L0 + v^-2 G)^-1 = (1/tau) (L0 + t G)^-1
with t = 1 / (tau v^2), where G is the Gauss-Newton matrix J^T H J. One pass over the
data gives G; every tau and v after that is cheap.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.jacobian import Factors


class Slopes(NamedTuple):
    """First and second derivative of log det(I + t L0^-1 G) with respect to log t.

    The first is the effective number of parameters.
    """

    first: float
    second: float


class AbstractCovariance(eqx.Module):
    """The Gaussian posterior of the parameters, seen through a Jacobian."""

    @abc.abstractmethod
    def marginal(self, factors: Factors) -> Float[Array, "N C C"]:
        """Covariance of the outputs of each example."""

    @abc.abstractmethod
    def joint(self, factors: Factors) -> Float[Array, "NC NC"]:
        """Covariance of all outputs of all examples, rows ordered (n, c)."""

    @abc.abstractmethod
    def apply(self, vector: list[Array]) -> list[Array]:
        """The covariance times a vector given as raveled leaves."""

    @abc.abstractmethod
    def sample(self, shape: tuple[int, ...], *, key: Array) -> Float[Array, "S P"]:
        """Deviations of the parameters from the mode, in `Jacobian.unravel` order."""


class AbstractCurvature(eqx.Module):
    """A fitted approximation of the Gauss-Newton matrix G."""

    @property
    @abc.abstractmethod
    def cheap(self) -> bool:
        """Is `log_det` cheap (a spectrum is there), or a factorization at each t?"""

    @abc.abstractmethod
    def log_det(self, log_t: float) -> float:
        """log det(I + t L0^-1 G)."""

    @abc.abstractmethod
    def slopes(self, log_t: float) -> Slopes:
        """Its derivatives with respect to log t."""

    @abc.abstractmethod
    def covariance(self, tau: float, t: float) -> AbstractCovariance:
        """(1/tau) (L0 + t G)^-1."""


def spectral_log_det(eigenvalues: np.ndarray, log_t: float) -> float:
    """log det(I + t L0^-1 G) from the eigenvalues of L0^-1 G."""
    return float(np.log1p(np.exp(log_t) * eigenvalues).sum())


def spectral_slopes(eigenvalues: np.ndarray, log_t: float) -> Slopes:
    """Its derivatives in log t: sum of ts / (1 + ts), and of ts / (1 + ts)^2."""
    share = 1.0 / (1.0 + np.exp(-log_t) / np.maximum(eigenvalues, 1e-300))
    return Slopes(float(share.sum()), float((share * (1.0 - share)).sum()))


def symmetric(matrix: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """The symmetric part, so that rounding leaves no trace."""
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))
