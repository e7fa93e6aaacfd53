"""A task, and tasks in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import equinox as eqx
import numpy as np

from ntkuq.data import Dataset


class Task(eqx.Module):
    """One task of a stream.

    Args:
        index: its place in the stream, from 0.
        train: what it is learned from.
        test: what accuracies on it are measured on.
        name: for tables.

    >>> data = Dataset([[0.0], [1.0]], [0, 1])
    >>> Task(0, data, data, name="original").index
    0
    """

    index: int = eqx.field(static=True)
    train: Dataset
    test: Dataset
    name: str = eqx.field(static=True, default="")


#: Settings in the terms of van de Ven, Tuytelaars, Tolias 2022.
DOMAIN = "domain-incremental, single head"
CLASS = "class-incremental, single head"
TASK = "task-incremental, multi-head"


@dataclass(frozen=True)
class Stream(Sequence[Task]):
    """Tasks in order, each made when it is asked for.

    Args:
        make: number from 0 -> task.
        names: of the tasks; there are as many.
        setting: what changes from task to task, and how many heads there are.
        heads: which classes belong to each head, (H, C); `None` for a single head.

    >>> data = Dataset([[0.0], [1.0]], [0, 1])
    >>> stream = Stream(lambda k: Task(k, data, data), ("a", "b"))
    >>> len(stream), stream[-1].index, stream.setting
    (2, 1, 'domain-incremental, single head')
    """

    make: Callable[[int], Task]
    names: tuple[str, ...]
    setting: str = DOMAIN
    heads: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self.make(k) for k in range(*index.indices(len(self))))
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"expected a task from 0 to {size - 1}, got {index}")
        return self.make(index % size)

    def __iter__(self) -> Iterator[Task]:
        return (self.make(number) for number in range(len(self)))


def as_stream(tasks: Sequence[Task]) -> Stream:
    """A stream of tasks that are there already; a stream as it is.

    Raises:
        TypeError: for something else among them.
        ValueError: for no task at all.

    >>> data = Dataset([[0.0], [1.0]], [0, 1])
    >>> as_stream([Task(0, data, data), Task(1, data, data, name="b")]).names
    ('0', 'b')
    """
    if not len(tasks):
        raise ValueError("expected at least one task, got an empty stream")
    if isinstance(tasks, Stream):
        return tasks
    kept = tuple(tasks)
    for task in kept:
        if not isinstance(task, Task):
            raise TypeError(
                f"expected tasks, Task(index, train, test), got {type(task).__name__}"
            )
    names = tuple(task.name or str(task.index) for task in kept)
    return Stream(kept.__getitem__, names, "as given")
