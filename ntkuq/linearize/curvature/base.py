"""What a curvature approximation must offer: log-determinant and covariances.

With a prior of precision tau * L0 (L0 fixed, tau one number) and noise factor v, the
posterior covariance of the parameters is  (tau L0 + v^-2 G)^-1 = (1/tau) (L0 + t G)^-1
with t = 1 / (tau v^2), where G is the Gauss-Newton matrix J^T H J. One pass over the
data gives G; every tau and v after that is cheap.
"""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.jacobian import Factors, Jacobian


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

    def variance(self, factors: Factors) -> Float[Array, "N C"]:
        """Variance of each output of each example."""
        return jnp.diagonal(self.marginal(factors), axis1=-2, axis2=-1)

    @abc.abstractmethod
    def numbers(self, jacobian: Jacobian, outputs: int) -> int:
        """How many numbers `marginal` holds for one example."""

    @abc.abstractmethod
    def joint(self, factors: Factors) -> Float[Array, "NC NC"]:
        """Covariance of all outputs of all examples, rows ordered (n, c)."""

    @abc.abstractmethod
    def apply(self, vector: list[Array]) -> list[Array]:
        """The covariance times a vector given as raveled leaves."""

    @abc.abstractmethod
    def sample(self, shape: tuple[int, ...], *, key: Array) -> Float[Array, "S P"]:
        """Deviations of the parameters from the mode, in `Jacobian.unravel` order."""


class Evaluated(NamedTuple):
    """What a curvature says at one prior precision and noise.

    covariance: (1/tau) (L0 + t G)^-1.
    log_det: log det(I + t L0^-1 G).
    effective: the effective number of parameters; `None` where it would take more than
        all the rest and the covariance has it (`FunctionCovariance.effective`).
    """

    covariance: AbstractCovariance
    log_det: float
    effective: float | None


class AbstractCurvature(eqx.Module):
    """A fitted approximation of the Gauss-Newton matrix G, under a prior L0."""

    @property
    @abc.abstractmethod
    def cheap(self) -> bool:
        """Is `log_det` cheap (a spectrum is there), or a factorization at each t?"""

    def prepared(self) -> AbstractCurvature:
        """The same with a spectrum, where one pays for many evaluations."""
        return self

    @abc.abstractmethod
    def log_det(self, log_t: float) -> float:
        """log det(I + t L0^-1 G)."""

    @abc.abstractmethod
    def slopes(self, log_t: float) -> Slopes:
        """Its derivatives with respect to log t."""

    def at(self, tau: float, t: float) -> Evaluated:
        """Covariance, log-determinant and effective parameters at one place."""
        log_t = math.log(t)
        return Evaluated(
            self.covariance(tau, t), self.log_det(log_t), self.slopes(log_t).first
        )

    @abc.abstractmethod
    def covariance(self, tau: float, t: float) -> AbstractCovariance:
        """(1/tau) (L0 + t G)^-1."""

    @abc.abstractmethod
    def log_det_at(
        self, variances: list[Array], scale: Float[Array, ""]
    ) -> Float[Array, ""]:
        """log det(I + scale V G) for prior variances V, one for each leaf.

        Traceable and differentiable in both, unlike `log_det`.
        """

    @abc.abstractmethod
    def with_variances(self, variances: list[Array]) -> AbstractCurvature:
        """The same G under a prior with these variances, one for each leaf."""

    @abc.abstractmethod
    def merge(self, other: AbstractCurvature) -> AbstractCurvature:
        """G of the data of both (at the same parameters and under the same prior)."""

    @property
    def diagnostics(self) -> dict[str, Any]:
        """What the approximation reports of itself."""
        return {}


def same_kind[T](one: T, other: object) -> T:
    """`other`, which has to be of the class of `one`."""
    if not isinstance(other, type(one)):
        raise TypeError(
            f"expected a {type(one).__name__} to merge with, got "
            f"{type(other).__name__}: fit both with the same structure and view"
        )
    return other


def spectral_log_det(eigenvalues: np.ndarray, log_t: float) -> float:
    """log det(I + t L0^-1 G) from the eigenvalues of L0^-1 G."""
    return float(np.log1p(np.exp(log_t) * eigenvalues).sum())


def spectral_slopes(
    eigenvalues: np.ndarray, log_t: float, counts: np.ndarray | None = None
) -> Slopes:
    """Its derivatives in log t: sum of ts / (1 + ts), and of ts / (1 + ts)^2.

    counts: how often each eigenvalue occurs; `None` for once.
    """
    scaled = np.exp(log_t) * np.maximum(eigenvalues, 0.0)
    share = scaled / (1.0 + scaled)
    weight = np.ones_like(share) if counts is None else counts
    return Slopes(float(weight @ share), float(weight @ (share * (1.0 - share))))


def symmetric(matrix: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """The symmetric part, so that rounding leaves no trace."""
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


def without_negative(covariance: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """The same with no variance below 0, which is what rounding leaves of a difference.

    Where the data say all of a direction, prior and what was seen are equal numbers.
    """
    variances = jnp.diagonal(covariance, axis1=-2, axis2=-1)
    missing = jnp.maximum(-variances, 0.0)
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return covariance + missing[..., None] * eye
