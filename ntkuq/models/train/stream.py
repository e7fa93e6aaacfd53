"""Training on batches that are read one at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ntkuq.data import Batches, Dataset
from ntkuq.models.bnn import BNN
from ntkuq.models.train.loop import AbstractTraining, Schedule
from ntkuq.models.train.problem import Examples
from ntkuq.models.train.programs import ONE, State, Work


class Stream(AbstractTraining):
    """One training on batches as they come, one call from the host for each."""

    def __init__(
        self, work: Work, static: PyTree, batches: Iterator[tuple[PyTree, PyTree]]
    ):
        self.work, self.static, self.batches = work, static, batches
        self.read = 0

    def advance(self, schedule: Schedule, state: State, start: int, length: int):
        del schedule
        # after an interruption, what was seen before is read again
        skipped = start - self.read
        batches = itertools.islice(self.batches, skipped, skipped + length)
        waiting: deque[jax.Array] = deque()
        for x, y in batches:
            work = self.work._replace(examples=Examples(x, y))
            state = ONE.update(work, self.static, state, None, 1)
            waiting.append(state.loss)
            # no more than two steps wait: their batches take memory on the device
            if len(waiting) > 2:
                jax.block_until_ready(waiting.popleft())
        self.read = start + length
        return state

    def evaluate(self, schedule: Schedule, state: State) -> State:
        return ONE.evaluate(self.work, self.static, state, schedule.score)


def moved(
    bnn: BNN, data: Batches, batch: int | None
) -> Iterator[tuple[PyTree, PyTree]]:
    """Batches without end, scaled and on the device."""
    # traces the network, which takes longer than a small step: once is enough, since
    # all rows have one shape
    types = jax.tree.map(lambda leaf: leaf.dtype, bnn.inputs(data.take_first(1).x))
    for x, y in data.cycle(None if batch is None else min(batch, len(data))):
        yield (
            jax.tree.map(jnp.asarray, bnn.scaling.inputs(x), types),
            bnn.targets(Dataset(x, y, _part=True)),
        )
