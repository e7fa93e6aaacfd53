"""The MNIST autoencoder: KFAC beside kfac-jax, from the same weights, in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import truncnorm

import ntkuq as nq
from experiments import pictures
from experiments.optimization.contestants import (
    CYCLE,
    Contestant,
    Ours,
    Theirs,
    network,
)
from experiments.record import save


#: Turns that are timed.
LATER = slice(1, None)


@dataclasses.dataclass(frozen=True)
class Size:
    """Images, units of the layers up to the code, and steps, a multiple of CYCLE."""

    images: int
    half: tuple[int, ...]
    steps: int


SIZES = {
    "smoke": Size(100, (64, 32, 8), 10),
    "cpu": Size(5_000, (784, 1000, 500, 250, 30), 40),
    "gpu": Size(60_000, (784, 1000, 500, 250, 30), 5_000),
}


def start(size: Size, seed: int) -> dict[str, np.ndarray]:
    """Weights w0, … (out, in), normal up to two deviations 1 / sqrt(in); no biases."""
    sides = [*size.half, *size.half[-2::-1]]
    rng = np.random.default_rng(seed)
    arrays = {}
    for n, (into, out) in enumerate(itertools.pairwise(sides)):
        drawn = truncnorm.rvs(-2.0, 2.0, size=(out, into), random_state=rng)
        arrays[f"w{n}"] = (drawn / into**0.5).astype(np.float32)
        arrays[f"b{n}"] = np.zeros(out, np.float32)
    return arrays


def images(size: Size) -> np.ndarray:
    """Grey levels, (N, D): MNIST, or digits of 8 x 8 pixels for a small network."""
    small = size.half[0] == 64
    found = nq.data.load("digits").train.x if small else pictures.load("mnist").x
    return found[: size.images].reshape(size.images, -1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """KFAC on the MNIST autoencoder: time a step and loss, beside kfac-jax."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """smoke: small digits; cpu: 5 000 images, 40 steps; gpu: 60 000, 5 000 steps."""
    kfac_python: Path | None = None
    """A Python with kfac-jax (0.0.8 wants jax 0.7); without it only ours runs."""
    seeds: int = 3
    """Runs from other weights."""
    steps: int | None = None
    """Steps, a multiple of 5; those of the size unless given."""
    images: int | None = None
    """Images; those of the size unless given."""
    out: Path = Path("runs/experiments/autoencoder.json")
    """The document."""

    def execute(self) -> None:
        """Run, print the tables, write the document."""
        runs = [self.run(seed) for seed in range(self.seeds)]
        print(curves(runs))
        found = summary(runs)
        for name, value in found.items():
            print(f"{name}: {value}")
        given = dataclasses.asdict(self) | {"kfac_python": self.kfac_python is not None}
        content = given | {"out": self.out.name, "summary": found, "runs": runs}
        print(f"\nwritten {save(self.out, 'autoencoder', content)}")

    def run(self, seed: int) -> dict[str, Any]:
        """Both from the same weights, by turns of a few steps."""
        size = SIZES[self.size]
        if self.images is not None:
            size = dataclasses.replace(size, images=self.images)
        steps = size.steps if self.steps is None else self.steps
        if steps < 2 * CYCLE or steps % CYCLE:
            raise ValueError(
                f"expected at least {2 * CYCLE} steps, in multiples of {CYCLE} (from "
                f"one inversion to the next), got {steps}"
            )
        x, arrays = images(size), start(size, seed)
        ours = Ours(arrays, x, seed)
        both: dict[str, Contestant] = {"ntkuq": ours}
        record: dict[str, Any] = {"seed": seed}
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            if self.kfac_python is not None:
                np.savez(Path(folder) / "start.npz", x=x, **arrays)  # pyright: ignore[reportArgumentType]
                code = len(size.half) - 2
                peer = Theirs(self.kfac_python, Path(folder), code, seed)
                stack.enter_context(peer.process)
                record["peer_versions"] = peer.versions
                both["kfac_jax"] = peer
            for name in both:
                record[name] = {"seconds": [], "processor": [], "losses": []}
            for turn in range(steps // CYCLE):
                # who goes first changes
                for name in list(both)[:: 1 if turn % 2 else -1]:
                    made = both[name].steps(CYCLE)
                    for clock in ("seconds", "processor"):
                        record[name][clock].append(made[clock] / CYCLE)
                    record[name]["losses"] += made["losses"]
            for name, one in both.items():
                record[name] |= reached(ours, one.weights(), x)
        return record


def reached(ours: Ours, arrays: dict[str, np.ndarray], x: np.ndarray) -> dict[str, Any]:
    """Loss and squared error of an image at the end, by one program for both."""
    model = network(arrays)
    f = jax.vmap(model)(jnp.asarray(x))
    error = jnp.mean(jnp.sum((jax.nn.sigmoid(f) - x) ** 2, axis=-1))
    loss = ours.loss(nq.models.parameters(model), jnp.asarray(x))
    return {"loss": float(loss), "squared_error": float(error)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds a step and final losses; ratios to the peer with their range.

    Seconds: median and quartiles over pairs of turns; the first of a run is left out,
    since kfac-jax begins with steps that only estimate. Losses: range over the seeds.
    """
    found: dict[str, Any] = {}
    for name in ("ntkuq", "kfac_jax"):
        if name in runs[0]:
            for clock in ("seconds", "processor"):
                times = np.concatenate([run[name][clock][LATER] for run in runs])
                found[f"{clock} a step, {name}"] = float(np.median(times))
            for what in ("loss", "squared_error"):
                values = [run[name][what] for run in runs]
                found[f"{what}, {name}"] = float(np.mean(values))
    if "kfac_jax" in runs[0]:
        for clock in ("seconds", "processor"):
            pairs = [
                np.divide(run["ntkuq"][clock][LATER], run["kfac_jax"][clock][LATER])
                for run in runs
            ]
            quartiles = np.quantile(np.concatenate(pairs), [0.5, 0.25, 0.75])
            shown = [float(q) for q in quartiles]
            found[f"{clock} ratio: median, quartiles"] = shown
        ratios = [run["ntkuq"]["loss"] / run["kfac_jax"]["loss"] for run in runs]
        shown = [np.mean(ratios), np.min(ratios), np.max(ratios)]
        found["loss ratio: mean, range"] = [float(r) for r in shown]
    return found


def curves(runs: list[dict[str, Any]]) -> str:
    """Losses of the first seed side by side."""
    names = [name for name in ("ntkuq", "kfac_jax") if name in runs[0]]
    lines = ["| step | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    count = len(runs[0]["ntkuq"]["losses"])
    for at in range(0, count, max(1, count // 10)):
        values = " | ".join(f"{runs[0][name]['losses'][at]:.3f}" for name in names)
        lines.append(f"| {at} | {values} |")
    last = " | ".join(f"{runs[0][name]['loss']:.3f}" for name in names)
    return "\n".join([*lines, f"| {count} | {last} |"])


def markdown(document: dict[str, Any]) -> str:
    """What both reached and took, from a stored document."""
    found = document["summary"]
    lines = [
        "| | ntkuq | kfac-jax | ratio |",
        "|---|---|---|---|",
    ]
    for title, name, ratio in (
        ("seconds a step", "seconds a step", "seconds ratio: median, quartiles"),
        ("processor seconds", "processor a step", "processor ratio: median, quartiles"),
        ("loss at the end", "loss", "loss ratio: mean, range"),
    ):
        middle, low, high = found[ratio]
        # one initialization has one loss: no range
        spread = f" ({low:.3f} to {high:.3f})" if low < high else ""
        lines.append(
            f"| {title} | {found[f'{name}, ntkuq']:.4g} "
            f"| {found[f'{name}, kfac_jax']:.4g} | {middle:.3f}{spread} |"
        )
    return "\n".join(lines)
