"""How time and memory of Laplace grow with N, C and width, beside what was estimated.

Each point is fitted in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ntkuq as nq
from experiments.race.peers import clock
from experiments.record import save


METHODS = {
    "full": nq.Laplace(structure=nq.Full()),
    "KFAC": nq.Laplace(structure=nq.KFAC()),
    "diagonal": nq.Laplace(structure=nq.Diagonal()),
    "last layer": nq.Laplace(structure=nq.Full(), subset=nq.LastLayer()),
}
#: Where no axis varies.
BASE = {"N": 500, "C": 3, "width": 32}
AXES = {
    "N": (250, 1_000, 4_000),
    "C": (2, 6, 16),
    "width": (16, 48, 128),
}
QUICK = {"N": (60,)}
#: Features, and test points.
INPUTS, POINTS = 16, 100
COLUMNS = (
    "| method | N | C | width | P | first fit, s | estimated | warm fit, s "
    "| predict 100, s | GB | estimated |"
)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Time and memory of Laplace against N, C, P and width, and the estimates."""

    quick: bool = False
    """One point."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document and of the figure."""

    def execute(self) -> None:
        """Run every point, print the table, write document and figure."""
        rows = []
        for method, axis, value in self.points():
            sizes = {**(BASE if not self.quick else BASE | {"N": 60}), axis: value}
            row = {"method": method, "axis": axis, **sizes, **apart(method, sizes)}
            print(line(row), flush=True)
            rows.append(row)
        print()
        print(markdown(rows))
        path = save(self.out / "scaling.json", "scaling", {"rows": rows})
        draw(rows, self.out / "scaling.svg")
        print(f"\nwritten {path} and {self.out / 'scaling.svg'}")

    def points(self) -> list[tuple[str, str, int]]:
        """(method, axis, value) of each point."""
        axes = QUICK if self.quick else AXES
        methods = ("KFAC",) if self.quick else tuple(METHODS)
        return [
            (method, axis, value)
            for method, (axis, values) in itertools.product(methods, axes.items())
            for value in values
        ]


def apart(method: str, sizes: dict[str, int]) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "experiments.scaling"]
    done = subprocess.run(  # noqa: S603
        [*command, json.dumps({"method": method, **sizes})],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(method: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Estimate, then fit twice and predict twice; nothing is trained."""
    laplace = METHODS[method]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(sizes["N"], INPUTS)).astype(np.float32)
    y = rng.integers(0, sizes["C"], sizes["N"])
    y[: sizes["C"]] = np.arange(sizes["C"])
    build = nq.models.mlp(INPUTS, sizes["C"], width=sizes["width"])
    bnn = nq.BNN(build(jax.random.key(0)), nq.Categorical())
    data = nq.Dataset(x, y)
    estimated = nq.estimate(laplace, bnn, data)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        posterior = laplace.fit(bnn, data, key=jax.random.key(0))
        fitted = time.perf_counter()
        jax.block_until_ready(posterior.latent(x[:POINTS]))
        seconds.append((fitted - start, time.perf_counter() - fitted))
    return {
        "P": bnn.size(),
        "first_seconds": seconds[0][0],
        "estimated_seconds": estimated.seconds,
        "fit_seconds": min(fit for fit, _ in seconds[1:]),
        "predict_seconds": min(predict for _, predict in seconds[1:]),
        "peak_bytes": clock.peak_bytes(),
        "estimated_bytes": estimated.bytes,
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    cells = [row["method"], *(row[name] for name in ("N", "C", "width", "P"))]
    kinds = ("first", "estimated", "fit", "predict")
    cells += [f"{row[f'{name}_seconds']:.3g}" for name in kinds]
    cells += [f"{row[f'{name}_bytes'] / 1e9:.2f}" for name in ("peak", "estimated")]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    rule = "|---" * (COLUMNS.count("|") - 1) + "|"
    return "\n".join([COLUMNS, rule, *map(line, rows)])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds above, memory below, one column an axis; estimates dashed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    with mpl.rc_context({"svg.hashsalt": "scaling", "font.size": 9}):
        figure = Figure(figsize=(3.2 * len(axes), 5.4), layout="constrained")
        panels = figure.subplots(2, len(axes), squeeze=False, sharex="col")
        kinds = (
            ("first_seconds", "estimated_seconds", 1.0, "first fit, s"),
            ("peak_bytes", "estimated_bytes", 1e9, "peak memory, GB"),
        )
        for (measured, estimated, unit, label), panel_row in zip(
            kinds, panels, strict=True
        ):
            for axis, panel in zip(axes, panel_row, strict=True):
                for number, method in enumerate(METHODS):
                    chosen = [
                        row
                        for row in rows
                        if row["axis"] == axis and row["method"] == method
                    ]
                    at = [row[axis] for row in chosen]
                    color = f"C{number}"
                    values = [row[measured] / unit for row in chosen]
                    guesses = [row[estimated] / unit for row in chosen]
                    panel.plot(at, values, "o-", color=color, label=method)
                    panel.plot(at, guesses, "--", color=color)
                panel.set(xscale="log", yscale="log")
                panel.grid(visible=True, alpha=0.3)
            panel_row[0].set_ylabel(label)
        for axis, panel in zip(axes, panels[1], strict=True):
            panel.set_xlabel(axis)
            sizes = sorted({row[axis] for row in rows if row["axis"] == axis})
            panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
            panel.xaxis.set_minor_locator(NullLocator())
        for panel in panels.flat:
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_locator(NullLocator())
        lines, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(
            lines,
            labels,
            loc="outside lower center",
            ncols=4,
            title="dashed: estimated",
            frameon=False,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(measure(given.pop("method"), given)))
