"""The interfaces of kernels: a strategy, and the covariance it makes."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


if TYPE_CHECKING:
    from ntkuq.models import BNN


#: Values of the hyper-parameters by name, each the logarithm of a positive number.
LogValues = dict[str, Array]


class Parameter(eqx.Module):
    """A positive hyper-parameter of a covariance, kept in logarithms.

    Args:
        initial: logarithm of the first value, shape () or (D,).
        lower, upper: logarithms of the allowed range, of the same shape.
    """

    initial: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @staticmethod
    def of(value: float | np.ndarray, lower: float, upper: float) -> Parameter:
        """A parameter from its value and the range relative to it.

        >>> float(Parameter.of(2.0, 0.5, 10.0).upper)
        2.99573...
        """
        start = np.log(np.asarray(value, np.float64))
        ends = start + np.log(lower), start + np.log(upper)
        # NumPy turns arrays of no axes into scalars
        return Parameter(*(np.asarray(a) for a in (start, *ends)))


class AbstractCovariance(eqx.Module):
    """A covariance function of named positive hyper-parameters, in float64.

    Inputs are arrays with leading axis N; `params` maps each name to the logarithm of
    its value. Call the methods where float64 is enabled (`jax.enable_x64(True)`).
    """

    parameters: eqx.AbstractVar[dict[str, Parameter]]

    @abc.abstractmethod
    def gram(self, params: LogValues, x1: Array, x2: Array | None = None) -> Array:
        """k(x1, x2), shape (N1, N2).

        Without `x2` it is k(x1, x1): symmetric, with the diagonal of `diagonal`.
        """

    @abc.abstractmethod
    def diagonal(self, params: LogValues, x: Array) -> Float[Array, " N"]:
        """k(x_i, x_i) of each input, exact to rounding."""

    @abc.abstractmethod
    def at(self, x: Array) -> Callable[[LogValues], Array]:
        """The Gram matrix of fixed inputs as a function of the hyper-parameters.

        The place for work that does not depend on them. The function is a pytree.
        """

    def initial(self) -> LogValues:
        """The first values of the hyper-parameters, logarithms."""
        return {name: jnp.asarray(p.initial) for name, p in self.parameters.items()}


class AbstractKernel(eqx.Module):
    """How to get a covariance for a problem: static configuration, no data.

    `x` are the network inputs (N, ...) of the training data; `scale` is the standard
    deviation of the targets in the network's units, where initial values start.
    """

    @abc.abstractmethod
    def covariance(self, bnn: BNN, x: Array, scale: float) -> AbstractCovariance:
        """The covariance of a plain GP with this kernel.

        Raises TypeError where the kernel needs to be told which of its covariances is
        meant (use `NNGP` or `NTKGP`).
        """


class AbstractNetworkKernel(AbstractKernel):
    """A kernel that comes from the network of the problem."""

    @abc.abstractmethod
    def nngp(self, bnn: BNN, x: Array, scale: float) -> AbstractCovariance:
        """The covariance K of the outputs of the random network (NNGP)."""

    @abc.abstractmethod
    def ntk(self, bnn: BNN, x: Array, scale: float) -> AbstractCovariance:
        """The covariance Θ of the outputs of the linearized network (NTK)."""

    def dynamics(self, bnn: BNN, x: Array, scale: float) -> AbstractCovariance:
        """Θ of gradient descent: `ntk`, unless a layer's rate is not its prior's."""
        return self.ntk(bnn, x, scale)


def spread(x: np.ndarray) -> Float[np.ndarray, " D"]:
    """The standard deviation of each feature of x (N, ...), flattened to (D,).

    Features that do not vary beyond rounding get the root mean square of the others,
    or 1 where none varies.

    >>> spread(np.array([[0.0, 5.0], [2.0, 5.0]]))
    array([1., 1.])
    """
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    deviation = x.std(axis=0)
    varies = deviation > 1e-10 * np.abs(x).max(axis=0)
    if not varies.any():
        return np.ones(x.shape[1])
    typical = np.sqrt(np.mean(deviation[varies] ** 2))
    return np.where(varies, deviation, typical)


def feature_scale(x: np.ndarray, *, separate: bool) -> Float[np.ndarray, "*D"]:
    """The spread of each feature, (D,), or one number for all, ().

    >>> float(feature_scale(np.array([[0.0, 5.0], [2.0, 5.0]]), separate=False))
    1.0
    """
    each = spread(x)
    return each if separate else np.asarray(np.sqrt(np.mean(each**2)))


def flat(x: Array) -> Float[Array, "N D"]:
    """Inputs (N, ...) as rows (N, D)."""
    return jnp.reshape(x, (x.shape[0], -1))


def symmetric(matrix: Float[Array, "N N"], diagonal: Float[Array, " N"]) -> Array:
    """The symmetric part of a matrix, with this diagonal."""
    half = 0.5 * (matrix + matrix.T)
    rows = jnp.arange(matrix.shape[0])
    return half.at[rows, rows].set(diagonal)


class Gram(eqx.Module):
    """The Gram matrix of fixed inputs as a function of the hyper-parameters."""

    covariance: AbstractCovariance
    x: Array

    def __call__(self, params: LogValues) -> Float[Array, "N N"]:
        return self.covariance.gram(params, self.x)


#: More input features than this share one scale unless told otherwise.
MANY_FEATURES = 20


def separate_scales(ard: bool | None, x: Array) -> bool:
    """Whether each feature gets a scale of its own."""
    features = int(np.prod(x.shape[1:]))
    return features <= MANY_FEATURES if ard is None else ard
