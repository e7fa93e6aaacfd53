"""Weights and data that all contestants of the race share, written once as `.npz`.

Concrete (split 0) comes with the package; Fashion-MNIST is looked for below the folder
that `NTKUQ_DATA` names. The quick sizes use `digits`, enlarged to 28 x 28 pixels, which
comes with the package too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ntkuq as nq
from experiments import pictures
from experiments.race.networks import builder, to_arrays
from experiments.race.peers import clock


@dataclass(frozen=True)
class Sizes:
    """How large the race is."""

    train: int = 10_000
    test: int = 500
    hidden: int = 256
    ntk_hidden: int = 512
    ntk: int = 500
    cnn_ntk: int = 100
    product: int = 1_000
    concrete: int = 927
    epochs: int = 3


FULL = Sizes()
#: For tests: every task in a second or two.
QUICK = Sizes(120, 20, 12, 12, 12, 6, 40, 60, 1)


def write(folder: Path, problems: Iterable[str], *, quick: bool) -> None:
    """Write `<problem>.npz` of each problem (concrete, mlp, cnn, ntk) that lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if quick else FULL
    for name in problems:
        path = folder / f"{name}.npz"
        if not path.exists():
            arrays = _concrete(sizes) if name == "concrete" else _images(name, sizes)
            clock.store(path, arrays)


def _concrete(sizes: Sizes) -> dict[str, np.ndarray]:
    data = nq.data.load("concrete", split=0)
    scaling = nq.Standardize().fit(data.train.x, data.train.y, continuous=True)
    rows = slice(0, sizes.concrete)
    x = scaling.inputs(data.train.x)[rows]
    y = ((data.train.y - scaling.loc()) / scaling.scale())[rows]
    bnn = nq.BNN(nq.Network(builder("concrete", [8, 50, 50, 1])), nq.Gaussian(0.3))
    with jax.enable_x64(True):
        model = nq.Train(1e-2, steps=300 if sizes is QUICK else 3_000).run(
            bnn,
            bnn.network.init(jax.random.key(0)),
            jnp.asarray(x),
            jnp.asarray(y[:, None]),
            key=jax.random.key(1),
        )
    return {
        **to_arrays(model.model),
        "x": x,
        "y": y,
        "x_test": scaling.inputs(data.test.x),
    }


def _images(problem: str, sizes: Sizes) -> dict[str, np.ndarray]:
    if sizes is QUICK:
        x, y, x_test = _digits()
    else:
        x, y, x_test = _fashion()
    x, y, x_test = x[: sizes.train], y[: sizes.train], x_test[: sizes.test]
    if problem == "cnn":
        x, x_test = x[:, None], x_test[:, None]
    else:
        x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    hidden = sizes.ntk_hidden if problem == "ntk" else sizes.hidden
    bnn = nq.BNN(
        nq.Network(builder(problem, [784, hidden, hidden, 10])), nq.Categorical()
    )
    model = bnn.network.init(jax.random.key(0))
    if problem == "ntk":  # at initialization
        return {**to_arrays(model), "x_ntk": x[: sizes.ntk]}
    steps = sizes.epochs * -(-len(x) // 100)
    trained = nq.Train(1e-3, steps=steps, batch=100).run(
        bnn, model, jnp.asarray(x), jnp.asarray(y), key=jax.random.key(1)
    )
    found = {**to_arrays(trained.model), "x": x, "y": y, "x_test": x_test}
    return found | ({"x_ntk": x[: sizes.cnn_ntk]} if problem == "cnn" else {})


def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey levels (N, 28, 28): each pixel three times as wide, with a margin."""
    data = nq.data.load("digits")

    def enlarge(x: np.ndarray) -> np.ndarray:
        wide = np.kron(x.reshape(-1, 8, 8), np.ones((1, 3, 3)))
        return np.pad(wide, ((0, 0), (2, 2), (2, 2))).astype(np.float32)

    y = data.train.y.astype(np.int32)
    # each class must be met: the first rows of every class come first
    order = np.argsort([np.sum(y[:n] == y[n]) for n in range(len(y))], kind="stable")
    return enlarge(data.train.x[order]), y[order], enlarge(data.test.x)


def _fashion() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        found = pictures.load("fashion_mnist")
    except nq.data.DataError as error:
        raise FileNotFoundError(
            f"the race needs Fashion-MNIST: {error}; or use --quick"
        ) from error
    return found.x, found.y.astype(np.int32), found.x_test
