"""Accuracy, time and memory of infinitely wide networks on images, exact.

Regression on the labels, as in Lee et al. (2018), of the first N training images. Depth
and hyper-parameters have the largest evidence on 2 000 of them, on 500 where there are
convolutions. Each set runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ntkuq as nq
from experiments import pictures
from experiments.record import save


#: Published accuracy in percent of an NNGP at this number of training images.
PUBLISHED = {
    "mnist": "97.73 (Lee et al. 2018, N = 10 000)",
    "cifar10": "47.80 (Lee et al. 2018, N = 10 000)",
}
METHODS = {"NNGP": nq.NNGP, "NTK-GP": nq.NTKGP}
#: Hyper-parameters of convolutional networks are tuned on so many images.
TUNED = 500


@dataclasses.dataclass(frozen=True)
class Images:
    """NNGP and NTK-GP on MNIST, Fashion-MNIST and CIFAR-10, ReLU networks."""

    data: tuple[str, ...] = pictures.NAMES
    """Sets of images, below the folder that $NTKUQ_DATA names."""
    methods: tuple[str, ...] = ("NNGP",)
    """NNGP, NTK-GP."""
    network: Literal["dense", "convolutional"] = "dense"
    """Dense layers, or two convolutions with stride 2 and a flatten."""
    depths: tuple[int, ...] = (3,)
    """Hidden layers to choose from, of dense networks."""
    train: int = 10_000
    """How many training images, at most."""
    test: int = 10_000
    """How many test images, at most."""
    seed: int = 0
    """Seed of everything random."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document; rows in it that are not run again stay."""
    apart: bool = True
    """Run each set and method in a process of its own."""

    def execute(self) -> None:
        """Run all, print the table, write the document."""
        path = self.out / "gp-images.json"
        rows = json.loads(path.read_text())["rows"] if path.exists() else {}
        for name in self.data:
            for method in self.methods:
                row = (
                    self.process(name, method) if self.apart else self.one(name, method)
                )
                rows[self.key(name, method)] = row
                print(line(row), flush=True)
                save(path, "gp-images", {"rows": rows})
        print()
        print(markdown(rows))
        print(f"\nwritten {path}")

    def process(self, name: str, method: str) -> dict[str, Any]:
        """One set and method in a process of its own."""
        out = self.out / f"{name}-{method}-{self.network}"
        flags = [
            *("--data", name, "--methods", method, "--no-apart"),
            *("--network", self.network),
            *("--depths", *map(str, self.depths)),
            *("--train", str(self.train), "--test", str(self.test)),
            *("--seed", str(self.seed), "--out", str(out)),
        ]
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "experiments", "gp-images", *flags],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found = json.loads((out / "gp-images.json").read_text())
        return found["rows"][self.key(name, method)]

    def key(self, name: str, method: str) -> str:
        """What the row of a set and method is called."""
        ending = "" if self.network == "dense" else f", {self.network}"
        return f"{name}, {method}{ending}"

    def one(self, name: str, label: str) -> dict[str, Any]:
        """One set and method."""
        found = pictures.load(name)
        x, x_test = found.x[: self.train], found.x_test[: self.test]
        y, y_test = found.y[: self.train], found.y_test[: self.test]
        if self.network == "dense":
            x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
            build = nq.models.mlp(x.shape[1], 10, width=8, activation=jax.nn.relu)
            kernel = nq.Analytic(ard=False, depth=self.depths)
            inner = METHODS[label](kernel=kernel)
        else:
            x, x_test = channels_first(x), channels_first(x_test)
            build = convolutional(x.shape[1:])
            kernel = nq.Analytic(ard=False)
            inner = METHODS[label](kernel=kernel, solver=nq.Cholesky(tune_points=TUNED))
        bnn = nq.BNN(nq.Network(build), nq.Categorical())
        method = nq.LabelRegression(inner)
        start = time.perf_counter()
        posterior = method.fit(
            bnn, nq.Dataset(x, y.astype(np.int64)), key=jax.random.key(self.seed)
        )
        fitted = time.perf_counter()
        p = posterior.predict(x_test)
        scores = nq.score(p, y_test.astype(np.int64))
        done = time.perf_counter()
        correct = float(np.mean(np.asarray(p.mean).argmax(axis=1) == y_test))
        return {
            "set": name,
            "method": label,
            "network": self.network,
            "train": len(x),
            "test": len(x_test),
            "accuracy": correct,
            "accuracy_se": math.sqrt(correct * (1 - correct) / len(x_test)),
            "nll": scores.values["nll"].value,
            "fit_seconds": fitted - start,
            "predict_seconds": done - fitted,
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "hyperparameters": {h.name: h.value for h in posterior.hyperparameters},
            "diagnostics": {k: str(v) for k, v in posterior.diagnostics.items()},
            "cores": len(os.sched_getaffinity(0)),
        }


def channels_first(images: np.ndarray) -> np.ndarray:
    """(N, height, width) or (N, height, width, channels) to (N, channels, …)."""
    if images.ndim == 3:
        return images[:, None]
    return np.moveaxis(images, -1, 1)


def convolutional(shape: tuple[int, ...]) -> Callable[[jax.Array], eqx.Module]:
    """Two convolutions with ReLU, 5 × 5 and 3 × 3, stride 2 each; a dense layer.

    Its width plays no part.
    """
    channels, height, width = shape
    positions = math.ceil(height / 4) * math.ceil(width / 4)

    def build(key: jax.Array) -> eqx.Module:
        first, second, last = jax.random.split(key, 3)
        relu = eqx.nn.Lambda(jax.nn.relu)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(channels, 8, 5, 2, "SAME", key=first),
                relu,
                eqx.nn.Conv2d(8, 8, 3, 2, "SAME", key=second),
                relu,
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(8 * positions, 10, key=last),
            ]
        )

    return build


COLUMNS = (
    "| set | method | train | test | accuracy, % | published | NLL | fit, s | "
    "predict, s | GB |"
)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    accuracy = f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_se']:.2f}"
    dense = row.get("network", "dense") == "dense"
    listed = dense and row["method"] == "NNGP"
    published = PUBLISHED.get(row["set"], "–") if listed else "–"
    method = row["method"] + ("" if dense else f", {row['network']}")
    return (
        f"| {row['set']} | {method} | {row['train']} | {row['test']} "
        f"| {accuracy} | {published} | {row['nll']:.3f} | {row['fit_seconds']:.0f} "
        f"| {row['predict_seconds']:.0f} | {row['peak_gb']:.1f} |"
    )


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table."""
    rule = "|---" * COLUMNS.count(" | ") + "|---|"
    return "\n".join([COLUMNS, rule, *(line(row) for row in rows.values())])
