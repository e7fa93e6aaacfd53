"""How a posterior goes from one task to the next."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, PyTree

from ntkuq.continual.learned import Learned, untrained
from ntkuq.data import Dataset
from ntkuq.models import BNN, Train
from ntkuq.models.train import Job, Trained, TrainingError, diverged


#: Told how far a task has come: callback(updates so far, loss).
Callback = Callable[[int, float], None]


class AbstractStrategy(eqx.Module):
    """A posterior before any task, and its update by the data of the next one.

    The posterior is the whole state: a run can stop and go on between any two tasks.
    """

    @abc.abstractmethod
    def update_many(
        self,
        states: Sequence[Learned],
        data: Dataset,
        *,
        callback: Callback | None = None,
        keys: Sequence[Array],
    ) -> list[Learned]:
        """`update` of several states on the same task, which share the machine.

        Args:
            states: one for each seed.
            data: of the task.
            callback: told how far the trainings have come.
            keys: one for each state.
        """

    def init(self, bnn: BNN, *, key: Array) -> Learned:
        """The state before the first task: a freshly initialized network."""
        return untrained(bnn, key=key)

    def update(self, state: Learned, data: Dataset, *, key: Array) -> Learned:
        """The state after one more task; the one given is not changed.

        Args:
            state: `init(bnn, key=key)`, or what the last task left.
            data: of the task.
            key: decides the batches and whatever else is random.

        Raises:
            TrainingError: where training diverges.
            ValueError: where network and data do not fit.
        """
        return self.update_many([state], data, keys=[key])[0]


class Seen(NamedTuple):
    """The data of a task as a training takes them.

    Args:
        bnn: the problem, prepared, with the network that the last task left.
        data: of the task.
        x, y: scaled, on the device, (N, …).
    """

    bnn: BNN
    data: Dataset
    x: PyTree
    y: PyTree

    @property
    def model(self) -> PyTree:
        """The network that the last task left."""
        return self.bnn.network.trained


class AbstractTraining(AbstractStrategy):
    """A strategy that trains the network on each task, in a way of its own."""

    #: How to train on one task; the optimizer starts afresh.
    train: eqx.AbstractVar[Train]

    @abc.abstractmethod
    def job(self, state: Learned, seen: Seen, *, key: Array) -> Job:
        """The training on the next task."""

    @abc.abstractmethod
    def learned(
        self, state: Learned, seen: Seen, trained: Trained, *, key: Array
    ) -> Learned:
        """The state after the training; `seen.bnn` has the network as trained."""

    def update_many(self, states, data, *, callback=None, keys):
        return trained_on(self, self.train, states, data, callback=callback, keys=keys)


def trained_on(
    strategy: Any,
    train: Train,
    states: Sequence[Learned],
    data: Dataset,
    *,
    callback: Callback | None,
    keys: Sequence[Array],
) -> list[Learned]:
    """The states after training on a task, those of all seeds at once.

    Args:
        strategy: with `job` and `learned`, as `AbstractTraining` has them.
        train: how to train.
        states, data, callback, keys: as of `update_many`.

    Raises:
        TrainingError: where a training diverges.
    """
    bnn = states[0].bnn.prepare(data)
    x, y = bnn.inputs(data.x), bnn.targets(data)
    all_seen = [Seen(state.bnn.prepare(data), data, x, y) for state in states]
    jobs = [
        strategy.job(state, seen, key=key)
        for state, seen, key in zip(states, all_seen, keys, strict=True)
    ]
    found = train.run_many(jobs, callback=callback)
    steps = train.updates(len(data))
    after: list[Learned] = []
    every: Any = zip(states, all_seen, found, keys, strict=True)
    for state, seen, trained, key in every:
        if trained.diverged is not None:
            raise TrainingError(diverged(trained.diverged, steps))
        seen = seen._replace(bnn=seen.bnn.with_model(trained.model))
        after.append(strategy.learned(state, seen, trained, key=key))
    return after
