"""Forgetting against width, parametrization, output scale, optimizer, stopping rule."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree
from rich.console import Console

import ntkuq as nq
from experiments.continual.width_views import figure
from experiments.race.run import machine
from experiments.record import save
from ntkuq.continual import (
    AbstractStrategy,
    Arm,
    FineTuning,
    Stream,
    UntilFitted,
    forgetting_claims,
    rotated,
    run,
)
from ntkuq.data import Dataset, Split
from ntkuq.models import BNN, NTK, Categorical, MuP, NormalPrior, Standard, Train, mlp
from ntkuq.report.catalog import slug


#: Largest width of networks with several hidden layers on the CPU.
DEEP = 512


class Scaled(eqx.Module):
    """A network whose outputs are multiplied by a number: lazier where it is large."""

    network: PyTree
    scale: float = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        """The scaled outputs."""
        return self.scale * self.network(x)


class Way(NamedTuple):
    """One way of training: what is varied beside the width."""

    train: Train
    stop: Literal["epochs", "fitted"] = "epochs"
    parametrization: Any = Standard()
    depth: int = 1
    scale: float = 1.0

    @property
    def strategy(self) -> AbstractStrategy:
        """Fine-tuning, for some epochs or until the task is fitted."""
        if self.stop == "fitted":
            return UntilFitted(self.train, 0.999, 40)
        return FineTuning(self.train)


def sgd(rate: float, epochs: int, momentum: float | None = None) -> Train:
    """Gradient descent on batches of 32, with the rate that the pilot used."""
    return Train(optax.sgd(rate, momentum=momentum), epochs=epochs, batch=32)


WAYS: dict[str, Way] = {
    "SGD, 1 epoch": Way(sgd(0.01, 1)),
    "SGD, 5 epochs": Way(sgd(0.01, 5)),
    "SGD, to 99.9 %": Way(sgd(0.1, 1), "fitted"),
    "momentum, 5 epochs": Way(sgd(0.01, 5, 0.9)),
    "Adam, 5 epochs": Way(Train(optax.adam(1e-3), epochs=5, batch=32)),
    "NTK, 5 epochs": Way(sgd(1.0, 5), parametrization=NTK()),
    "muP, 5 epochs": Way(sgd(0.1, 5), parametrization=MuP()),
    "3 layers, 5 epochs": Way(sgd(0.01, 5), depth=3),
    "output scale 10, 5 epochs": Way(sgd(1e-4, 5), scale=10.0),
}


@dataclass(frozen=True)
class Width:
    """Forgetting against width: rotated MNIST, five tasks."""

    out: Path = Path("out/width")
    """Where units, forgetting-width.json and the figure are written; resumes."""
    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """smoke: digits, widths 8 to 32. cpu: 1 600 rows a task, widths 32 to 2048, of
    three layers to 512. gpu: 60 000 rows, widths to 16 384, five seeds."""
    ways: tuple[str, ...] = field(default_factory=lambda: tuple(WAYS))
    """Which ways of training."""
    seeds: int | None = None
    """Seeds; 2 for smoke, 3 for cpu, 5 for gpu unless given."""

    def execute(self) -> None:
        console = Console()
        data, widths, seeds = setting(self.size)
        seeds = seeds if self.seeds is None else self.seeds
        stream = rotated(data)
        arms: dict[str, Arm] = {}
        began, processors = time.perf_counter(), time.process_time()
        for name in self.ways:
            if name not in WAYS:
                raise SystemExit(f"--ways: expected some of {list(WAYS)}, got {name!r}")
            own = widths
            if self.size == "cpu" and WAYS[name].depth > 1:
                # layers between layers grow with the square of the width
                own = tuple(width for width in widths if width <= DEEP)
            arms[name] = arm(self.out, name, stream, own, seeds)
            values = arms[name].forgetting.mean(axis=0)
            console.print(f"{name}: forgetting {np.round(values, 3).tolist()}")
        early, late = "SGD, 5 epochs", "SGD, to 99.9 %"
        both = early in arms and late in arms
        claims = forgetting_claims(
            arms, early=early if both else None, converged=late if both else None
        )
        for claim in claims:
            console.print(str(claim), markup=False)
        document = {
            "size": self.size,
            "seeds": seeds,
            "widths": list(widths),
            "seconds": time.perf_counter() - began,
            "processor seconds": time.process_time() - processors,
            "load": os.getloadavg()[0],
            "machine": machine(),
            "arms": {name: plain(one) for name, one in arms.items()},
            "claims": [claim.to_dict() for claim in claims],
        }
        path = save(self.out / "forgetting-width.json", "width", document)
        figure(document, self.out / "forgetting-width.svg")
        console.print(f"written {path}")


def setting(size: str) -> tuple[Split, tuple[int, ...], int]:
    """Images, widths and seeds of a size."""
    if size == "smoke":
        data = nq.data.load("digits")
        return _images(data, 8, 300, 200), (8, 16, 32), 2
    data = nq.data.load_images("mnist")
    if size == "cpu":
        return _images(data, 28, 1_600, 1_000), (32, 128, 512, 2_048), 3
    return _images(data, 28, 60_000, 10_000), (32, 128, 512, 2_048, 8_192, 16_384), 5


def _images(data: Split, side: int, rows: int, test: int) -> Split:
    def part(one: Dataset, most: int) -> Dataset:
        x = np.asarray(one.x, np.float32)[:most].reshape(-1, side, side)
        return Dataset(x, one.y[:most], classes=one.classes, name=one.name)

    return Split(part(data.train, rows), None, part(data.test, test))


def arm(
    out: Path, name: str, stream: Stream, widths: tuple[int, ...], seeds: int
) -> Arm:
    """Forgetting over the widths under one way of training, stored by width."""
    way = WAYS[name]
    pixels = int(np.prod(np.shape(stream[0].train.x)[1:]))
    forgetting, distance, learned = [], [], []
    for width in widths:
        build = _builder(way, pixels, width)
        result = run(
            way.strategy,
            # the prior hardly pulls: what is studied is training, not the prior
            BNN(build, Categorical(), NormalPrior(1e-4)),
            stream,
            seeds=seeds,
            out=out / "units" / f"{slug(name)}-{width}",
            key=jax.random.key(0),
        )
        values = result.performance
        forgetting.append(np.asarray(nq.continual.forgetting(values), float))
        learned.append(values.diagonal(axis1=1, axis2=2).mean(axis=1))
        distance.append(result.distance[:, -1])
    note = (
        f"{name}; depth {way.depth}, {type(way.parametrization).__name__} "
        f"parametrization, output scale {way.scale:g}, rotated images, single head"
    )
    every = (np.stack(v, axis=1) for v in (forgetting, distance, learned))
    return Arm(widths, *every, note)


def _builder(way: Way, pixels: int, width: int) -> Callable[[Array], PyTree]:
    inner = mlp(
        pixels,
        10,
        width=width,
        depth=way.depth,
        activation=jax.nn.relu,
        parametrization=way.parametrization,
    )

    def build(key: Array) -> PyTree:
        network = eqx.nn.Sequential([eqx.nn.Lambda(jax.numpy.ravel), inner(key)])
        return network if way.scale == 1.0 else Scaled(network, way.scale)

    return build


def plain(one: Arm) -> dict[str, Any]:
    """Plain numbers of an arm."""
    return {
        "forgetting": one.forgetting.tolist(),
        "distance": one.distance.tolist(),
        "learned": one.learned.tolist(),
        "note": one.note,
    }
