"""How a posterior goes from one task to the next."""

from __future__ import annotations

import abc

import equinox as eqx
from jaxtyping import Array

from ntkuq.data import Dataset
from ntkuq.models import BNN, Train
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.map import MAPPosterior


class AbstractStrategy(eqx.Module):
    """A posterior before any task, and its update by the data of the next one.

    The posterior is the whole state: a run can stop and go on between any two tasks.
    """

    @abc.abstractmethod
    def init(self, bnn: BNN, *, key: Array) -> AbstractPosterior:
        """The state before the first task: a freshly initialized network."""

    @abc.abstractmethod
    def update(
        self, posterior: AbstractPosterior, data: Dataset, *, key: Array
    ) -> AbstractPosterior:
        """The state after one more task; the posterior given is not changed."""


class FineTuning(AbstractStrategy):
    """Go on training on each new task, with nothing done against forgetting.

    Minimizes the minus log posterior of the new data alone, starting from the weights
    that the last task left; the prior stays that of the `BNN`, centered at zero. The
    baseline that every other strategy has to beat.

    Args:
        train: how to train on one task; the optimizer starts afresh.

    >>> FineTuning(Train(1e-2, steps=100)).train.steps
    100
    """

    train: Train = Train()

    def init(self, bnn: BNN, *, key: Array) -> MAPPosterior:
        return _posterior(bnn.with_model(bnn.network.init(key)), [])

    def update(
        self, posterior: AbstractPosterior, data: Dataset, *, key: Array
    ) -> MAPPosterior:
        """Train on `data` from the posterior's weights.

        Raises:
            TrainingError: where training diverges.
            ValueError: where network and data do not fit.
        """
        bnn = posterior.bnn.prepare(data)
        result = self.train.run(
            bnn, bnn.network.trained, bnn.inputs(data.x), bnn.targets(data), key=key
        )
        losses = [float(loss) for loss in result.losses]
        return _posterior(bnn.with_model(result.model), losses)


def _posterior(bnn: BNN, losses: list[float]) -> MAPPosterior:
    return MAPPosterior(
        bnn=bnn,
        hyperparameters=(),
        log_marginal_likelihood=None,
        diagnostics={"losses": losses},
    )
