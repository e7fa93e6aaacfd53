"""The same data under permutations of its inputs."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.continual.streams.base import DOMAIN, Stream, Task
from ntkuq.data import Dataset, Split


def permuted(data: Split, tasks: int, *, key: Array) -> Stream:
    """The same data with the entries of every input permuted, anew for each task.

    Task 0 is the original; task k > 0 applies one random permutation to the entries of
    all its inputs, training and test alike (pixels of an image, columns of a table;
    for a pytree each leaf by its own). The targets stay, so that a network learns the
    same function of other inputs: a single head.

    Args:
        data: what is permuted; its `train` and `test`.
        tasks: how many.
        key: decides the permutations.

    Returns:
        The stream. The features lose their names, which would no longer fit.

    Raises:
        ValueError: for fewer than one task.

    References: Goodfellow et al. 2014 (arXiv 1312.6211).

    >>> data = Dataset(np.arange(6.0).reshape(2, 3), [0, 1])
    >>> one, two = permuted(Split(data, None, data), 2, key=jax.random.key(1))
    >>> one.train.x.tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    >>> two.train.x.tolist()
    [[1.0, 0.0, 2.0], [4.0, 3.0, 5.0]]
    """
    if tasks < 1:
        raise ValueError(f"permuted: expected at least 1 task, got {tasks}")
    leaves, tree = jax.tree.flatten(data.train.x)
    sizes = [int(np.prod(leaf.shape[1:])) for leaf in leaves]
    orders = []
    for index, now in enumerate(jax.random.split(key, tasks)):
        each = [
            np.asarray(jax.random.permutation(one, size)) if index else np.arange(size)
            for one, size in zip(jax.random.split(now, len(leaves)), sizes, strict=True)
        ]
        orders.append(jax.tree.unflatten(tree, each))

    def make(index: int) -> Task:
        train, test = data.train, data.test
        train, test = (_reorder(part, orders[index]) for part in (train, test))
        return Task(index, train, test, name=names[index])

    names = tuple(f"permutation {k}" if k else "original" for k in range(tasks))
    return Stream(make, names, DOMAIN)


def _reorder(data: Dataset, order: PyTree) -> Dataset:
    def one(leaf: np.ndarray, entries: np.ndarray) -> np.ndarray:
        flat = leaf.reshape(len(leaf), -1)
        return np.take(flat, entries, axis=1).reshape(leaf.shape)

    return data.with_inputs(jax.tree.map(one, data.x, order))
