"""What is known after some tasks."""

from __future__ import annotations

from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree

from ntkuq.models import BNN
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.map import MAPPosterior
from ntkuq.posteriors.predictive import Predictive


class Learned(AbstractPosterior):
    """A posterior after some tasks, and what its strategy keeps of them.

    It is the whole state of a run: `ntkuq.posteriors.save` writes it, and a run can
    go on from it.

    Args:
        bnn, hyperparameters, log_marginal_likelihood, diagnostics: of the posterior.
        posterior: what predicts.
        memory: what the strategy keeps: arrays, or `None` before the first task.
        tasks: how many tasks were learned.
    """

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float | None
    diagnostics: dict[str, Any]
    posterior: AbstractPosterior
    memory: PyTree
    tasks: int = eqx.field(static=True)

    @staticmethod
    def of(posterior: AbstractPosterior, memory: PyTree, tasks: int) -> Learned:
        """The state with this posterior, whose problem and diagnostics it shares."""
        return Learned(
            posterior.bnn,
            posterior.hyperparameters,
            posterior.log_marginal_likelihood,
            posterior.diagnostics,
            posterior,
            memory,
            tasks,
        )

    def predict(self, x: PyTree) -> Predictive:
        return self.posterior.predict(x)


def point(bnn: BNN, losses: Any = ()) -> MAPPosterior:
    """The network alone, without uncertainty of the function."""
    return MAPPosterior(
        bnn=bnn,
        hyperparameters=(),
        log_marginal_likelihood=None,
        diagnostics={"losses": [float(loss) for loss in losses]},
    )


def untrained(bnn: BNN, *, key: Array) -> Learned:
    """The state before the first task: a freshly initialized network."""
    return Learned.of(point(bnn.with_model(bnn.network.init(key))), None, 0)
