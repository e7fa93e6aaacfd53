"""Small streams and networks that the tests of continual learning share."""

import equinox as eqx
import jax
import numpy as np

from ntkuq.continual import Task, permuted
from ntkuq.continual.strategies.base import Seen
from ntkuq.data import Dataset, Split
from ntkuq.models import BNN, Categorical, Gaussian, NormalPrior, mlp


def blobs(n: int = 120, entries: int = 6) -> Split:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 2 * n)
    x = rng.normal(size=(2 * n, entries)).astype(np.float32)
    # the classes differ in the first entries and agree in the others
    x[:, : entries // 2] += 2.0 * (2 * y[:, None] - 1)
    whole = Dataset(x, y, features=[f"f{i}" for i in range(entries)])
    return Split(whole.take(np.arange(n)), None, whole.take(np.arange(n, 2 * n)))


def two_tasks() -> list[Task]:
    """The blobs, and the same inputs with the labels exchanged in one half of space."""
    data = blobs()

    def other(part: Dataset) -> Dataset:
        return Dataset(part.x[:, ::-1].copy(), part.y)

    return [
        Task(0, data.train, data.test, name="a"),
        Task(1, other(data.train), other(data.test), name="b"),
    ]


def classifier(width: int = 8) -> BNN:
    return BNN(mlp(6, 2, width=width, depth=1), Categorical(), NormalPrior())


def line(features: int = 4) -> BNN:
    return BNN(
        lambda key: eqx.nn.Linear(features, 1, key=key),
        Gaussian(0.5),
        NormalPrior(2.0),
    )


def regression(tasks: int = 3, rows: int = 12, features: int = 4) -> list[Dataset]:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=features)
    found = []
    for _ in range(tasks):
        x = rng.normal(size=(rows, features))
        found.append(Dataset(x, x @ weights + 0.5 * rng.normal(size=rows)))
    return found


def seen(bnn: BNN, data: Dataset) -> Seen:
    bnn = bnn.prepare(data)
    return Seen(bnn, data, bnn.inputs(data.x), bnn.targets(data))


def stream(tasks: int = 2):
    return permuted(blobs(), tasks, key=jax.random.key(4))
