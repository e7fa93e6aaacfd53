"""Time of the scores: 100 000 Normal predictions and 100 000 x 10 class probabilities.

Beside ntkuq's full sets stand the core of them (mean scores, coverage, calibration
error, without any standard error) in plain NumPy and in jitted JAX, and, where its
interpreter is named, `get_all_metrics` of uncertainty-toolbox on the same numbers.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import ntkuq as nq
from experiments.record import save


LEVELS = (0.5, 0.9, 0.95)
CENTRAL = np.arange(1, 20) / 20
FIRST = """
import sys, time
import numpy as np
import ntkuq as nq
data = np.load(sys.argv[1], allow_pickle=False)
if sys.argv[2] == "regression":
    p, y = nq.Predictive.normal(data["mean"], data["std"]), data["y"]
else:
    p, y = nq.Predictive.probabilities(data["probs"]), data["codes"]
start = time.perf_counter()
nq.score(p, y)
print(time.perf_counter() - start)
"""
TOOLBOX = """
import sys, time
import numpy as np
import uncertainty_toolbox
data = np.load(sys.argv[1], allow_pickle=False)
args = [data[name] for name in ("mean", "std", "y")]
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    uncertainty_toolbox.get_all_metrics(*args, verbose=False)
    print(time.perf_counter() - start)
"""


@dataclasses.dataclass(frozen=True)
class ScoreTimes:
    """Time of the full sets of scores."""

    points: int = 100_000
    """Predictions of each set."""
    classes: int = 10
    """Classes."""
    repeat: int = 7
    """Warm runs of each; the fastest counts."""
    toolbox_python: Path | None = None
    """Interpreter that has uncertainty-toolbox; without it that row is left out."""
    toolbox_repeat: int = 1
    """Runs of uncertainty-toolbox."""
    seed: int = 0
    """Seed of the predictions."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document."""

    def execute(self) -> None:
        """Time all, print the table, write the document."""
        data = self.data()
        normal = nq.Predictive.normal(data["mean"], data["std"])
        probs = nq.Predictive.probabilities(data["probs"])
        normals = data["mean"], data["std"], data["y"]
        classes = data["probs"], data["codes"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "predictions.npz"
            np.savez(path, allow_pickle=False, **data)
            first = {kind: fresh(FIRST, path, kind)[0] for kind in KINDS}
            rows = [
                self.row(
                    "ntkuq", KINDS[0], lambda: nq.score(normal, normals[2]), first
                ),
                self.row("ntkuq", KINDS[1], lambda: nq.score(probs, classes[1]), first),
                self.row("NumPy core", KINDS[0], lambda: core(*normals)),
                self.row("JAX core", KINDS[0], jitted(core_jax, *normals)),
                self.row("NumPy core", KINDS[1], lambda: class_core(*classes)),
                self.row("JAX core", KINDS[1], jitted(class_core_jax, *classes)),
            ]
            if self.toolbox_python is not None:
                count = str(self.toolbox_repeat)
                python = str(self.toolbox_python)
                seconds = fresh(TOOLBOX, path, count, python=python)
                rows.append(
                    {
                        "code": "uncertainty-toolbox",
                        "set": KINDS[0],
                        "seconds": min(seconds),
                        "first": seconds[0],
                        "scores": None,
                    }
                )
        print(markdown(rows))
        settings = {
            "points": self.points,
            "classes": self.classes,
            "cores": len(os.sched_getaffinity(0)),
        }
        written = save(self.out / "scores.json", "scores", settings | {"rows": rows})
        print(f"\nwritten {written}")

    def data(self) -> dict[str, np.ndarray]:
        """Calibrated predictions and what was observed."""
        rng = np.random.default_rng(self.seed)
        mean, std = rng.normal(size=self.points), rng.uniform(0.5, 2, self.points)
        probs = rng.dirichlet(np.ones(self.classes), size=self.points)
        draw = rng.uniform(size=(self.points, 1))
        codes = np.minimum((probs.cumsum(axis=1) < draw).sum(axis=1), self.classes - 1)
        y = mean + std * rng.normal(size=self.points)
        return {"mean": mean, "std": std, "y": y, "probs": probs, "codes": codes}

    def row(
        self,
        code: str,
        kind: str,
        run: Callable[[], Any],
        first: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """The fastest of the warm runs."""
        found, best = run(), float("inf")
        for _ in range(self.repeat):
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
        return {
            "code": code,
            "set": kind,
            "seconds": best,
            "first": None if first is None else first[kind],
            "scores": len(found.values) if isinstance(found, nq.Scores) else len(found),
        }


KINDS = ("regression", "classification")


def fresh(code: str, *args: Any, python: str = sys.executable) -> list[float]:
    """Seconds that a program prints, run in an interpreter of its own."""
    command = [python, "-c", code, *(str(a) for a in args)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return [float(line) for line in done.stdout.split()]


def core(mean: np.ndarray, std: np.ndarray, y: np.ndarray, xp: Any = np) -> list[Any]:
    """NLL, CRPS, RMSE, coverage and width at three levels, and calibration error."""
    ndtr = special.ndtr if xp is np else jax.scipy.special.ndtr
    z = (y - mean) / std
    density = xp.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    below = ndtr(z)
    crps = std * (z * (2 * below - 1) + 2 * density - 1 / np.sqrt(np.pi))
    out = [
        xp.mean(0.5 * z**2 + xp.log(std) + 0.5 * np.log(2 * np.pi)),
        xp.mean(crps),
        xp.sqrt(xp.mean((y - mean) ** 2)),
    ]
    for level in LEVELS:
        reach = float(special.ndtri((1 + level) / 2))
        out += [xp.mean(xp.abs(z) <= reach), xp.mean(2 * reach * std)]
    center = xp.sort(xp.abs(2 * below - 1))
    inside = xp.searchsorted(center, CENTRAL, side="right") / len(z)
    return [*out, xp.mean(xp.abs(inside - CENTRAL))]


def core_jax(mean: jax.Array, std: jax.Array, y: jax.Array) -> list[jax.Array]:
    """The same in JAX."""
    return core(mean, std, y, xp=jnp)  # pyright: ignore[reportArgumentType]


def class_core(probs: np.ndarray, codes: np.ndarray, xp: Any = np) -> list[Any]:
    """NLL, Brier score, accuracy and calibration error of the top label."""
    hit = xp.take_along_axis(probs, codes[:, None], axis=1)[:, 0]
    confidence = probs.max(axis=1)
    right = probs.argmax(axis=1) == codes
    cells = xp.clip(xp.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gap = right - confidence
    sums = (
        np.bincount(cells, gap, minlength=15)
        if xp is np
        else jax.ops.segment_sum(gap, cells, 15)
    )
    return [
        -xp.mean(xp.log(hit)),
        xp.mean(xp.sum(probs**2, axis=1) - 2 * hit + 1),
        xp.mean(right),
        xp.sum(xp.abs(sums)) / len(codes),
    ]


def class_core_jax(probs: jax.Array, codes: jax.Array) -> list[jax.Array]:
    """The same in JAX."""
    return class_core(probs, codes, xp=jnp)  # pyright: ignore[reportArgumentType]


def jitted(function: Callable, *args: np.ndarray) -> Callable[[], list[Any]]:
    """A compiled call in float64 that waits for its result."""
    compiled = jax.jit(function)

    def run() -> list[Any]:
        with jax.enable_x64(True):
            return jax.block_until_ready(compiled(*args))

    return run


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| code | set | numbers | warm, s | first call, s |",
        "|---" * 5 + "|",
    ]
    for one in rows:
        first = "" if one["first"] is None else f"{one['first']:.2f}"
        scores = "" if one["scores"] is None else one["scores"]
        lines.append(
            f"| {one['code']} | {one['set']} | {scores} | {one['seconds']:.3f} "
            f"| {first} |"
        )
    return "\n".join(lines)
