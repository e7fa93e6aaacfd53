"""Run a strategy over a stream and fill the accuracy matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array

from ntkuq.continual import metrics
from ntkuq.continual.strategies import AbstractStrategy
from ntkuq.continual.streams import Task
from ntkuq.data import Dataset
from ntkuq.models import BNN
from ntkuq.posteriors.base import AbstractPosterior


@dataclass(frozen=True)
class Results:
    """What was known of each task after each task, for one run.

    Args:
        accuracy: R, (T, T): on the test data of task j (column) after training on
            task k (row); above the diagonal, tasks not met yet.
        nll: the same for the mean minus log probability, in nats.
        baseline: (T,): accuracy on each task before any training.
        tasks: names of the tasks.

    >>> r = np.array([[0.9, 0.3], [0.7, 0.8]])
    >>> print(Results(r, r, np.array([0.1, 0.1]), ("a", "b")))
    accuracy after      a      b
    a               0.900  0.300
    b               0.700  0.800
    average accuracy 0.750 (one run)
    forgetting 0.200, backward transfer -0.200, forward transfer 0.200
    """

    accuracy: np.ndarray
    nll: np.ndarray
    baseline: np.ndarray
    tasks: tuple[str, ...]

    @property
    def average_accuracy(self) -> float:
        """`average_accuracy` of the accuracy matrix."""
        return float(metrics.average_accuracy(self.accuracy))

    @property
    def forgetting(self) -> float:
        """`forgetting` of the accuracy matrix, over the T − 1 earlier tasks."""
        return float(metrics.forgetting(self.accuracy))

    @property
    def backward_transfer(self) -> float:
        """`backward_transfer` of the accuracy matrix."""
        return float(metrics.backward_transfer(self.accuracy))

    @property
    def forward_transfer(self) -> float:
        """`forward_transfer` of the accuracy matrix over the baseline."""
        return float(metrics.forward_transfer(self.accuracy, self.baseline))

    def __str__(self) -> str:
        first = max(len("accuracy after"), *map(len, self.tasks))
        width = max(5, *map(len, self.tasks))
        head = "accuracy after".ljust(first)
        lines = [head + "".join(f"  {name:>{width}}" for name in self.tasks)]
        for name, row in zip(self.tasks, self.accuracy, strict=True):
            cells = "".join(f"  {value:{width}.3f}" for value in row)
            lines.append(name.ljust(first) + cells)
        lines.append(f"average accuracy {self.average_accuracy:.3f} (one run)")
        if len(self.tasks) > 1:
            lines.append(
                f"forgetting {self.forgetting:.3f}, backward transfer "
                f"{self.backward_transfer:.3f}, forward transfer "
                f"{self.forward_transfer:.3f}"
            )
        return "\n".join(lines)


def run(
    strategy: AbstractStrategy, bnn: BNN, stream: Sequence[Task], *, key: Array
) -> Results:
    """Learn the tasks of a stream in turn; after each, test on all of them.

    The scaling of the `BNN` is fitted on the first task, as nothing else is known then.

    Args:
        strategy: how a posterior is updated, such as `FineTuning()`.
        bnn: the problem, with class labels and a builder.
        stream: the tasks in order.
        key: initializes and trains.

    Returns:
        The accuracy matrix and what follows from it.

    Raises:
        TypeError: where the likelihood is not of classes.
        ValueError: for an empty stream; where a task does not fit the network; where
            an input that varies in a later task is lost because the scaling saw it
            constant in the first.
        TrainingError: where training diverges.

    >>> import equinox as eqx, jax, numpy as np
    >>> from ntkuq.continual import FineTuning
    >>> from ntkuq.models import Categorical, Train
    >>> x = np.eye(4, dtype=np.float32)[[0, 1] * 8]
    >>> data = Dataset(x, [0, 1] * 8)
    >>> bnn = BNN(lambda key: eqx.nn.Linear(4, 2, key=key), Categorical())
    >>> strategy = FineTuning(Train(1e-1, steps=20))
    >>> task = Task(0, data, data, name="one")
    >>> run(strategy, bnn, [task], key=jax.random.key(0)).average_accuracy
    1.0
    """
    if not stream:
        raise ValueError("run: expected at least one task, got an empty stream")
    if not bnn.likelihood.classes:
        raise TypeError(
            "run: expected a likelihood of classes, since accuracies are measured; got "
            f"{type(bnn.likelihood).__name__}"
        )
    bnn = bnn.prepare(stream[0].train)
    for task in stream:
        _check(bnn, task)
    first, *keys = jax.random.split(key, 1 + len(stream))
    posterior = strategy.init(bnn, key=first)
    baseline = [_test(posterior, other.test)[0] for other in stream]
    rows = []
    for task, now in zip(stream, keys, strict=True):
        posterior = strategy.update(posterior, task.train, key=now)
        rows.append([_test(posterior, other.test) for other in stream])
    table = np.asarray(rows)
    names = tuple(task.name or str(task.index) for task in stream)
    return Results(table[..., 0], table[..., 1], np.asarray(baseline), names)


def _test(posterior: AbstractPosterior, data: Dataset) -> tuple[float, float]:
    """Accuracy and mean minus log probability."""
    predictive = posterior.predict(data.x)
    y = np.asarray(data.y)
    right = np.argmax(np.asarray(predictive.mean), axis=-1) == y
    return float(np.mean(right)), -float(np.mean(np.asarray(predictive.log_prob(y))))


def _check(bnn: BNN, task: Task) -> None:
    """The network takes the task, and the scaling keeps what varies in its inputs."""
    name = task.name or str(task.index)
    for part in (task.train, task.test):
        try:
            bnn.check_outputs(part)
        except ValueError as error:
            raise ValueError(f"run: task {name!r} does not fit: {error}") from error
    pairs = zip(
        jax.tree.leaves(task.train.x),
        jax.tree.leaves(bnn.inputs(task.train.x)),
        strict=True,
    )
    for raw, scaled in pairs:
        lost = np.flatnonzero(
            (np.ptp(raw, 0) > 0) & (np.ptp(np.asarray(scaled), 0) == 0)
        )
        if lost.size:
            raise ValueError(
                f"run: {lost.size} input(s) of task {name!r}, the first at position "
                f"{lost[0]}, vary there but were constant in the first task, so the "
                "scaling fitted on it sets them to zero: scale the inputs beforehand "
                "and use scaling=None"
            )
