"""Any trained strategy, with a few examples of each task replayed beside it."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.continual.learned import Learned
from ntkuq.continual.strategies.base import (
    AbstractStrategy,
    AbstractTraining,
    Seen,
    trained_on,
)
from ntkuq.continual.strategies.ewc import need_strength
from ntkuq.continual.strategies.memory import AbstractSelection, Buffer, RandomPoints
from ntkuq.continual.strategies.replay import Rehearsal, kept, need_batch, outputs_of
from ntkuq.models.train import AbstractPenalty, Job, Trained


class Both(AbstractPenalty):
    """The sum of two penalties.

    Args:
        one, two: the penalties.
    """

    one: AbstractPenalty
    two: AbstractPenalty

    def __call__(self, model, at):
        return self.one(model, at) + self.two(model, at)


class Beside(NamedTuple):
    """What is kept: by the strategy within, and the examples."""

    within: PyTree
    buffer: Buffer


class WithReplay(AbstractStrategy):
    r"""A strategy whose loss also has the kept examples of earlier tasks.

    $\beta\, \ell(y, f(x)) + \tfrac{\alpha}{C} \|f(x) - z\|^2$ over batches from the
    memory, as in `DarkReplay`, is added to what the strategy minimizes: a posterior
    (`OnlineLaplace`, `EWC`, `VCL`) says what most weights must not do, and the examples
    what the function must still do.

    Args:
        strategy: any that trains: `OnlineLaplace()`, `EWC()`, `VCL()`, ….
        memory: what is kept of each task.
        outputs, labels: α and β.
        batch: examples from the memory an update and term.

    Raises:
        ValueError: for a negative weight, or a batch of no example.

    References: Buzzega et al. 2020 (arXiv 2004.07211); Nguyen et al. 2018 (arXiv
    1710.10628) on the memory beside a posterior.

    >>> from ntkuq.continual import EWC
    >>> WithReplay(EWC(), RandomPoints(40)).labels
    1.0
    """

    strategy: AbstractTraining
    memory: AbstractSelection = RandomPoints()
    outputs: float = 0.0
    labels: float = 1.0
    batch: int = 64

    def __check_init__(self):
        need_strength("WithReplay", min(self.outputs, self.labels))
        need_batch("WithReplay", self.batch)

    def update_many(self, states, data, *, callback=None, keys):
        train = self.strategy.train
        return trained_on(self, train, states, data, callback=callback, keys=keys)

    def init(self, bnn, *, key):
        return self.strategy.init(bnn, key=key)

    def job(self, state: Learned, seen: Seen, *, key: Array) -> Job:
        """The training of the strategy, with the examples beside it."""
        job = self.strategy.job(_within(state), seen, key=key)
        if state.memory is None:
            return job
        dtype = seen.bnn.dtype
        labels, outputs = (jnp.asarray(w, dtype) for w in (self.labels, self.outputs))
        rehearsal = Rehearsal(state.memory.buffer, labels, outputs, self.batch)
        penalty: Any = rehearsal
        if job.penalty is not None:
            penalty = Both(job.penalty, rehearsal)
        return dataclasses.replace(job, penalty=penalty)

    def learned(
        self, state: Learned, seen: Seen, trained: Trained, *, key: Array
    ) -> Learned:
        """What the strategy learned, and the examples of this task."""
        after = self.strategy.learned(_within(state), seen, trained, key=key)
        extra = outputs_of if self.outputs else None
        now = seen._replace(bnn=seen.bnn.with_model(after.bnn.network.trained))
        before = Learned.of(
            state.posterior,
            None if state.memory is None else state.memory.buffer,
            state.tasks,
        )
        buffer = kept(before, now, self.memory, extra, key=key)
        return Learned.of(after.posterior, Beside(after.memory, buffer), after.tasks)


def _within(state: Learned) -> Learned:
    """The state as the strategy within has left it."""
    memory = None if state.memory is None else state.memory.within
    return Learned.of(state.posterior, memory, state.tasks)
