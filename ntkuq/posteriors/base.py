"""The interface of methods and of their posteriors."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Batches, DataLike, Dataset
from ntkuq.models import BNN
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.predictive import Predictive


class Cost(NamedTuple):
    """What a fit and a prediction need: floating-point operations and peak bytes.

    Args:
        flops: operations of `fit`, in float64 unless the method works in the network's
            precision.
        bytes: peak memory beyond the data and the network.
        compiles: programs compiled at the first call, about half a second each.
    """

    flops: float
    bytes: float
    compiles: int = 4


class AbstractPosterior(eqx.Module):
    """What a method knows about the function after seeing data."""

    bnn: eqx.AbstractVar[BNN]
    hyperparameters: eqx.AbstractVar[tuple[Hyperparameter, ...]]
    log_marginal_likelihood: eqx.AbstractVar[float | None]
    if TYPE_CHECKING:
        # a field, or a property where some of it is computed when it is asked for
        diagnostics: dict[str, Any] = eqx.field(init=False)

    @abc.abstractmethod
    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""


class AbstractMethod(eqx.Module):
    """A recipe that turns a problem and data into a posterior."""

    @abc.abstractmethod
    def fit(self, bnn: BNN, data: DataLike, *, key: Array) -> AbstractPosterior:
        """The posterior of the problem given the data; nothing is changed."""

    @abc.abstractmethod
    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        """What `fit` will need, before anything runs."""


class Joint(NamedTuple):
    """Mean and covariance of the function across inputs, in the units of the data.

    Args:
        mean: (N, C).
        covariance: (N C, N C), rows ordered (n, c).
    """

    mean: Float[Array, "N C"]
    covariance: Float[Array, "NC NC"]
