"""Regression that drifts: by a column of the data, or by a function that changes."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array

from ntkuq.continual.streams.base import DOMAIN, Stream, Task
from ntkuq.data import Dataset, Split


#: Waves of a random function.
WAVES = 32


def sliced(data: Split, column: int | str, tasks: int) -> Stream:
    """Rows in the order of one column, cut into tasks: inputs that drift.

    Args:
        data: a table, (N, D).
        column: its number, or its name where the data have names.
        tasks: how many slices, with as many training rows each as possible; the test
            rows follow the same borders.

    Raises:
        ValueError: for another column, fewer than one task, or a slice without rows.

    >>> x = np.arange(6.0)[:, None]
    >>> data = Dataset(x, 2 * x[:, 0])
    >>> stream = sliced(Split(data, None, data), 0, 2)
    >>> [task.train.y.tolist() for task in stream]
    [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    """
    table = np.asarray(data.train.x)
    known = data.train.features or ()
    number = known.index(column) if column in known else column
    if table.ndim != 2 or not isinstance(number, int) or number >= table.shape[1]:
        raise ValueError(
            f"sliced: expected a column of a table (N, D), by number or as one of "
            f"{list(known)}, got {column!r} of inputs {table.shape}"
        )
    if tasks < 1:
        raise ValueError(f"sliced: expected at least 1 task, got {tasks}")
    inner = np.quantile(table[:, number], np.linspace(0, 1, tasks + 1)[1:-1])

    def part(whole: Dataset, task: int) -> Dataset:
        slices = np.searchsorted(inner, np.asarray(whole.x)[:, number], side="right")
        rows = np.flatnonzero(slices == task)
        if not rows.size:
            raise ValueError(
                f"sliced: no row in slice {task} of {tasks}: column {column!r} has too "
                "few different values; ask for fewer tasks"
            )
        return whole.take(rows)

    def make(task: int) -> Task:
        train, test = part(data.train, task), part(data.test, task)
        return Task(task, train, test, name=names[task])

    names = tuple(f"slice {task}" for task in range(tasks))
    return Stream(make, names, DOMAIN)


def drifting(
    tasks: int,
    rows: int = 200,
    *,
    features: int = 1,
    drift: float = 0.5,
    noise: float = 0.1,
    key: Array,
) -> Stream:
    r"""A random function that turns into another one, step by step.

    $y = \cos(\phi_k) f_a(x) + \sin(\phi_k) f_b(x) + \epsilon$ with $\phi_k$ =
    `drift` · k, two random functions of unit variance (sums of waves, as draws of a
    Gaussian process with a squared exponential kernel of lengthscale 1), inputs normal
    and noise of the same scale in every task: the function drifts, the inputs do not.

    Args:
        tasks: how many.
        rows: training rows of a task; half as many test rows.
        features: D.
        drift: the angle from task to task, in radians; 0 for the same function.
        noise: standard deviation of the noise, in units of the function's.
        key: decides functions, inputs and noise.

    Raises:
        ValueError: for fewer than one task, or 2 rows.

    >>> stream = drifting(3, 20, key=jax.random.key(0))
    >>> len(stream), stream[2].train.x.shape, len(stream[2].test)
    (3, (20, 1), 10)
    """
    if tasks < 1 or rows < 2:
        raise ValueError(
            f"drifting: expected at least 1 task and 2 rows, got {tasks} and {rows}"
        )
    seed = [int(number) for number in np.ravel(jax.random.key_data(key))]
    rng = np.random.default_rng(seed)
    waves = rng.standard_normal((2, features, WAVES))
    phases = rng.uniform(0, 2 * np.pi, (2, WAVES))

    def function(x: np.ndarray, which: int) -> np.ndarray:
        waved = np.cos(x @ waves[which] + phases[which])
        return np.sqrt(2 / WAVES) * waved.sum(axis=1)

    def part(task: int, size: int, number: int) -> Dataset:
        local = np.random.default_rng([*seed, task, number])
        x = local.standard_normal((size, features))
        angle = drift * task
        f = np.cos(angle) * function(x, 0) + np.sin(angle) * function(x, 1)
        return Dataset(x, f + noise * local.standard_normal(size), name="drifting")

    def make(task: int) -> Task:
        train, test = part(task, rows, 0), part(task, max(rows // 2, 1), 1)
        return Task(task, train, test, name=names[task])

    names = tuple(f"step {task}" for task in range(tasks))
    return Stream(make, names, DOMAIN)
