"""Streams of tasks."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.data import Dataset, Split


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


def permuted(data: Split, tasks: int, *, key: Array) -> tuple[Task, ...]:
    """The same data with the entries of every input permuted, anew for each task.

    Task 0 is the original; task k > 0 applies one random permutation to the entries of
    all its inputs, training and test alike (pixels of an image, columns of a table;
    each leaf of a pytree by itself). The labels stay: domain-incremental, one head.
    Column names are dropped, since columns no longer mean the same.

    Args:
        data: train and test; a calibration part is left out.
        tasks: how many, 1 or more.
        key: random key.

    Returns:
        The tasks in order.

    Raises:
        ValueError: for less than one task.

    References: Goodfellow et al. 2013 (arXiv 1312.6211); Kirkpatrick et al. 2017
    (arXiv 1612.00796).

    >>> import jax, numpy as np
    >>> split = Split(*[Dataset(np.arange(6.0).reshape(2, 3), [0, 1])] * 3)
    >>> stream = permuted(split, 3, key=jax.random.key(1))
    >>> [task.index for task in stream], stream[0].train.x[0].tolist()
    ([0, 1, 2], [0.0, 1.0, 2.0])
    """
    if tasks < 1:
        raise ValueError(f"permuted: expected at least 1 task, got {tasks}")
    leaves, tree = jax.tree.flatten(data.train.x)
    stream = []
    for index, now in enumerate(jax.random.split(key, tasks)):
        sizes = [int(np.prod(leaf.shape[1:])) for leaf in leaves]
        orders = [
            np.asarray(jax.random.permutation(one, size)) if index else np.arange(size)
            for one, size in zip(jax.random.split(now, len(leaves)), sizes, strict=True)
        ]
        order = jax.tree.unflatten(tree, orders)
        stream.append(
            Task(
                index,
                _reorder(data.train, order),
                _reorder(data.test, order),
                name=f"permutation {index}" if index else "original",
            )
        )
    return tuple(stream)


def _reorder(data: Dataset, order: PyTree) -> Dataset:
    def one(leaf: np.ndarray, entries: np.ndarray) -> np.ndarray:
        return leaf.reshape(len(leaf), -1)[:, entries].reshape(leaf.shape)

    return Dataset(
        jax.tree.map(one, data.x, order),
        data.y,
        noise_scale=data.noise_scale,
        group=data.group,
        groups=data.groups,
        weight=data.weight,
        target=data.target,
        classes=data.classes,
        units=data.units,
        name=data.name,
    )
