"""Classes that come a few at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntkuq.continual.streams.base import CLASS, TASK, Stream, Task
from ntkuq.continual.streams.heads import with_head
from ntkuq.data import Dataset, Split


def split_classes(
    data: Split, classes: int | Sequence[Sequence[int]] = 2, *, heads: bool
) -> Stream:
    """The classes of a data set, a few in each task.

    With a single head all classes compete in every task (class-incremental). With a
    head for each task (task-incremental) an input is `(x, number of its task)`, and
    the network is `multi_head(build, stream.heads)`: only the classes of the task
    compete. The same method may reach 20 % in the first setting and 99 % in the
    second, so that there is no default.

    Args:
        data: class labels 0, 1, ….
        classes: how many a task, in their order, or which they are.
        heads: has the network a head for each task?

    Raises:
        ValueError: where the classes cannot be divided so, or one has no example.
        TypeError: for targets that are no class labels.

    References: Zenke, Poole, Ganguli 2017 (arXiv 1703.04200); van de Ven, Tuytelaars,
    Tolias 2022 (Nature Machine Intelligence 4) on the settings.

    >>> data = Dataset(np.arange(4.0)[:, None], [0, 1, 2, 3])
    >>> stream = split_classes(Split(data, None, data), 2, heads=False)
    >>> [task.train.y.tolist() for task in stream], stream.setting
    ([[0, 1], [2, 3]], 'class-incremental, single head')
    """
    if not np.issubdtype(data.train.y.dtype, np.integer):
        raise TypeError(
            "split_classes: expected class labels 0, 1, …, got targets of type "
            f"{data.train.y.dtype}"
        )
    total = int(data.train.y.max()) + 1
    if isinstance(classes, int):
        if classes < 1 or total % classes:
            raise ValueError(
                f"split_classes: expected a number of classes a task that divides the "
                f"{total} there are, got {classes}; or say which, as in [[0, 1], [2]]"
            )
        groups = np.arange(total).reshape(-1, classes).tolist()
    else:
        groups = [list(map(int, group)) for group in classes]
    flat = [number for group in groups for number in group]
    if sorted(flat) != sorted(set(flat)) or not all(0 <= k < total for k in flat):
        raise ValueError(
            f"split_classes: expected classes from 0 to {total - 1}, each in one task, "
            f"got {groups}"
        )
    for group in groups:
        if not np.isin(data.train.y, group).any():
            raise ValueError(f"split_classes: no training example of classes {group}")
    table = np.zeros((len(groups), total), bool)
    for number, group in enumerate(groups):
        table[number, group] = True
    labels = data.train.classes or tuple(map(str, range(total)))
    names = tuple(" ".join(labels[k] for k in group) for group in groups)

    def part(whole: Dataset, number: int) -> Dataset:
        chosen = whole.take(np.flatnonzero(np.isin(whole.y, groups[number])))
        return with_head(chosen, number) if heads else chosen

    def make(index: int) -> Task:
        train, test = part(data.train, index), part(data.test, index)
        return Task(index, train, test, name=names[index])

    return Stream(make, names, TASK if heads else CLASS, table if heads else None)
