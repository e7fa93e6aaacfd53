"""`python -m experiments training`: ensembles by ntkuq and by PyTorch, in one run."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import ntkuq as nq
from experiments import pictures
from experiments.race.networks import builder
from experiments.race.run import environment, machine
from experiments.record import save


class Task(NamedTuple):
    """One training: members, passes, and how many times faster than the loop."""

    what: str
    members: int
    epochs: int
    over_loop: float
    over_vmap: float | None


TASKS = {
    "mlp": Task("10 MLPs 8-50-50-2, concrete, 100 epochs, batch 100", 10, 100, 15, 3),
    "cnn": Task(
        "5 LeNets, 10 000 Fashion-MNIST images, 3 epochs, batch 100",
        5,
        3,
        1 / 1.2,
        None,
    ),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """Ensembles trained by ntkuq beside a PyTorch loop and torch.func's vmap."""

    torch_python: Path | None = None
    """A Python with PyTorch; without it only ntkuq runs."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Which trainings: mlp, cnn."""
    repeat: int = 3
    """Warm runs; the fastest counts."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document."""

    def execute(self) -> None:
        """Run everything, print the table, write the document."""
        self.out.mkdir(parents=True, exist_ok=True)
        rows = []
        for name in self.tasks:
            data, bnn = PROBLEMS[name]()
            found = self.peers(name, data) | {"ntkuq": self.ours(name, data, bnn)}
            rows.append(row(name, found))
            print(rows[-1], flush=True)
        print()
        print(markdown(rows))
        document = {"machine": machine(), "load": os.getloadavg()[0], "rows": rows}
        path = save(self.out / "training.json", "training", document)
        print(f"\nwritten {path}")

    def ours(self, name: str, data: nq.Dataset, bnn: nq.BNN) -> list[float]:
        """Seconds of `DeepEnsemble.fit`, compiled before."""
        task = TASKS[name]
        train = nq.Train(optax.adam(1e-3), epochs=task.epochs, batch=100)
        method = nq.DeepEnsemble(task.members, train)
        seconds = []
        for number in range(self.repeat + 1):
            start = time.perf_counter()
            posterior = method.fit(bnn, data, key=jax.random.key(number))
            jax.block_until_ready(jax.tree.leaves(posterior.members[-1])[0])
            seconds.append(time.perf_counter() - start)
        return seconds[1:]

    def peers(self, name: str, data: nq.Dataset) -> dict[str, list[float]]:
        """Seconds of the PyTorch loops, on the same scaled data."""
        if self.torch_python is None:
            return {}
        task, inputs = TASKS[name], self.out / f"training-{name}.npz"
        x, y = scaled(name, data)
        np.savez(inputs, x=x, y=y)
        out = self.out / f"training-{name}-torch.json"
        script = Path(__file__).with_name("torch_loops.py")
        flags = {
            "task": name,
            "members": task.members,
            "epochs": task.epochs,
            "repeat": self.repeat,
            "inputs": inputs,
            "out": out,
        }
        words = [f"--{key}={value}" for key, value in flags.items()]
        command = [str(self.torch_python), str(script), *words]
        subprocess.run(command, check=True, env=environment())  # noqa: S603
        return json.loads(out.read_text())["seconds"]


def concrete() -> tuple[nq.Dataset, nq.BNN]:
    """927 rows, a mean and a log-scale."""
    build = nq.models.mlp(8, 2, width=50, depth=2, activation=jax.nn.relu)
    bnn = nq.BNN(build, nq.HeteroscedasticGaussian(), scaling=nq.Standardize())
    return nq.data.load("concrete", split=0).train, bnn


def images() -> tuple[nq.Dataset, nq.BNN]:
    """10 000 pictures of ten classes."""
    found = pictures.load("fashion_mnist")
    x = np.asarray(found.x[:10_000], np.float32).reshape(-1, 1, 28, 28)
    data = nq.Dataset(x, np.asarray(found.y[:10_000], np.int64))
    return data, nq.BNN(nq.Network(builder("cnn", [])), nq.Categorical())


PROBLEMS = {"mlp": concrete, "cnn": images}


def scaled(name: str, data: nq.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets as PyTorch takes them."""
    if name == "cnn":
        return np.asarray(data.x, np.float32), np.asarray(data.y, np.int64)
    scaling = nq.Standardize().fit(data.x, data.y, continuous=True)
    y = (data.y - scaling.loc()) / scaling.scale()
    return np.asarray(scaling.inputs(data.x), np.float32), np.asarray(y, np.float32)


def row(name: str, found: dict[str, list[float]]) -> dict[str, Any]:
    """The fastest run of each, and the ratios."""
    best = {who: min(seconds) for who, seconds in found.items()}
    task = TASKS[name]
    return {
        "task": name,
        "what": task.what,
        "seconds": best,
        "over_loop": _ratio(best, "torch loop"),
        "over_vmap": _ratio(best, "torch vmap"),
        "reach_loop": task.over_loop,
        "reach_vmap": task.over_vmap,
    }


def _ratio(best: dict[str, float], peer: str) -> float | None:
    return best[peer] / best["ntkuq"] if peer in best else None


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a task."""
    heads = ("task", "torch loop, s", "torch vmap, s", "ntkuq, s")
    heads += ("loop ÷ ntkuq", "reach", "vmap ÷ ntkuq", "reach")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for one in rows:
        seconds = one["seconds"]
        cells = [_shown(seconds.get(who)) for who in ("torch loop", "torch vmap")]
        cells.append(_shown(seconds["ntkuq"]))
        for peer in ("loop", "vmap"):
            cells.append(_shown(one[f"over_{peer}"], "×"))
            cells.append(_shown(one[f"reach_{peer}"], "×"))
        lines.append(f"| {one['what']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:.3g}{unit}"
