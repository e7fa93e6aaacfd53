"""The interface of methods and of their posteriors."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Batches, DataLike, Dataset
from ntkuq.data.inputs import checked_inputs
from ntkuq.models import BNN
from ntkuq.models.checks import need, whole
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


def _at_inputs(method: Callable) -> Callable:
    """The method with its inputs as arrays, which are checked."""

    @functools.wraps(method)
    def checked(self, x, *args, **options):
        return method(self, checked_inputs(x), *args, **options)

    return checked


def _of_draws(method: Callable) -> Callable:
    """The method with its number of draws checked."""

    @functools.wraps(method)
    def checked(self, key, n, *args, **options):
        if not whole(n):
            raise ValueError(
                f"{method.__name__}: expected at least one sample, n = 1, 2, …, got "
                f"n = {n!r}"
            )
        return method(self, key, n, *args, **options)

    return checked


def _of_problem(method: Callable) -> Callable:
    """The method with its problem checked."""

    @functools.wraps(method)
    def checked(self, bnn, *args, **options):
        what = f"{type(self).__name__}.{method.__name__}"
        need(bnn, BNN, what, "a problem, BNN(network, likelihood, prior)")
        return method(self, bnn, *args, **options)

    return checked


def _check_calls(cls: type, check: Callable[[Callable], Callable], *names: str) -> None:
    """Check the arguments of those of these methods that a class defines itself."""
    for name in names:
        method = vars(cls).get(name)
        if callable(method) and not getattr(method, "__isabstractmethod__", False):
            setattr(cls, name, check(method))


class AbstractPosterior(eqx.Module):
    """What a method knows about the function after seeing data.

    In every subclass the inputs of `predict`, `latent` and `joint` are checked as those
    of a `Dataset` are, and so is the number of samples that is asked for.
    """

    bnn: eqx.AbstractVar[BNN]
    hyperparameters: eqx.AbstractVar[tuple[Hyperparameter, ...]]
    log_marginal_likelihood: eqx.AbstractVar[float | None]
    if TYPE_CHECKING:
        # a field, or a property where some of it is computed when it is asked for
        diagnostics: dict[str, Any] = eqx.field(init=False)

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        _check_calls(cls, _at_inputs, "predict", "latent", "joint", "joint_operator")
        _check_calls(cls, _of_draws, "sample", "sample_functions")

    @abc.abstractmethod
    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""


class AbstractMethod(eqx.Module):
    """A recipe that turns a problem and data into a posterior."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        _check_calls(cls, _of_problem, "fit", "cost")

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
