"""Tasks that are met twice: when they are checked, and when they are learned."""

from __future__ import annotations

import jax
import numpy as np

from ntkuq.continual.streams.base import Stream, Task
from ntkuq.data import Dataset


#: Bytes of tasks that are held until they are learned; further ones are made twice.
HELD = 2**31


class Met:
    """Tasks as they were made, so that few are made twice; the first ones that fit."""

    def __init__(self, tasks: Stream):
        self.tasks, self.held, self.bytes = tasks, {}, 0

    def task(self, number: int) -> Task:
        """A task, to be met again."""
        if number in self.held:
            return self.held[number]
        task = self.tasks[number]
        size = sum(
            leaf.nbytes for part in (task.train, task.test) for leaf in _arrays(part)
        )
        if self.bytes + size <= HELD:
            self.held[number], self.bytes = task, self.bytes + size
        return task

    def last(self, number: int) -> Task:
        """A task that is not met again."""
        return self.held.pop(number, None) or self.tasks[number]


def _arrays(data: Dataset) -> list[np.ndarray]:
    return jax.tree.leaves((data.x, data.y))
