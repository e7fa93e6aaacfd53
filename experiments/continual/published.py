"""Strategies on permuted and split MNIST, beside published numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console

import ntkuq as nq
from experiments.record import save
from ntkuq.continual import (
    EWC,
    FROMP,
    SFSVI,
    AbstractStrategy,
    DarkReplay,
    FineTuning,
    Joint,
    OnlineLaplace,
    RandomPoints,
    Replay,
    Results,
    Stream,
    SynapticIntelligence,
    UncertainPoints,
    WithReplay,
    multi_head,
    permuted,
    run,
    split_classes,
)
from ntkuq.data import Dataset, Split
from ntkuq.models import BNN, Categorical, NormalPrior, Train, mlp
from ntkuq.report.catalog import slug


class Row(NamedTuple):
    """A row of the table: a stream, a network, a strategy, and what was published."""

    stream: str
    strategy: Callable[[int], AbstractStrategy]
    published: str
    width: int = 100


def adam(rate: float, epochs: int, batch: int) -> Train:
    """Adam, afresh for each task."""
    return Train(optax.adam(rate), epochs=epochs, batch=batch)


def cosine(rate: float, epochs: int, batch: int) -> Train:
    """Adam whose rate decays to zero within each task."""
    return Train(rate, epochs=epochs, batch=batch)


#: `epochs` is the argument of each strategy: 10, or fewer for a smoke test.
ROWS: dict[str, Row] = {
    "fine-tuning": Row("permuted", lambda e: FineTuning(adam(1e-3, e, 256)), ""),
    "joint": Row("permuted", lambda e: Joint(adam(1e-3, e, 256)), ""),
    "EWC": Row(
        "permuted",
        lambda e: EWC(adam(1e-3, e, 256), strength=1_000.0),
        "83 to 84 (re-runs; 2x100 and 1x512)",
    ),
    "EWC, strength 100": Row(
        "permuted",
        lambda e: EWC(adam(1e-3, e, 256), strength=100.0),
        "83 to 84 (re-runs; 2x100 and 1x512)",
    ),
    "SI": Row(
        "permuted",
        lambda e: SynapticIntelligence(adam(1e-3, e, 256), 0.1),
        "83 to 86 (re-runs)",
    ),
    "online KFAC Laplace": Row(
        "permuted",
        lambda e: OnlineLaplace(adam(1e-3, e, 256)),
        "VCL 90, EWC and SI 83 to 86",
    ),
    "replay, 200": Row(
        "permuted",
        lambda e: Replay(adam(1e-3, e, 256), RandomPoints(200), 1.0, 256),
        "VCL with coreset 93",
    ),
    "DER++, 200": Row(
        "permuted",
        lambda e: DarkReplay(adam(1e-3, e, 256), RandomPoints(200), 1.0, 1.0, 256),
        "FROMP 94.8",
    ),
    "DER++, 200, cosine": Row(
        "permuted",
        lambda e: DarkReplay(cosine(1e-3, e, 256), RandomPoints(200), 1.0, 1.0, 256),
        "FROMP 94.8",
    ),
    "S-FSVI, 200": Row(
        "permuted",
        lambda e: SFSVI(cosine(1e-3, e, 256), memory=RandomPoints(200), context=40),
        "95.76 (2x100)",
    ),
    "online KFAC Laplace + DER++, 200": Row(
        "permuted",
        lambda e: WithReplay(
            OnlineLaplace(adam(1e-3, e, 256)), RandomPoints(200), 1.0, 1.0, 256
        ),
        "FROMP 94.8, S-FSVI 95.76",
    ),
    "FROMP, 200": Row(
        "permuted",
        lambda e: FROMP(adam(1e-3, e, 128), UncertainPoints(200), 500.0),
        "94.8 (code), 94.9 +- 0.1 (paper)",
    ),
    "multi-head: online KFAC Laplace": Row(
        "split, multi-head",
        lambda e: OnlineLaplace(adam(1e-3, e, 256), strength=100.0),
        "S-FSVI without coreset 99.62, SI 98.9",
        256,
    ),
    "multi-head: DER++, 40": Row(
        "split, multi-head",
        lambda e: DarkReplay(adam(1e-3, e, 256), RandomPoints(40), 1.0, 1.0, 40),
        "FROMP 99.3",
        256,
    ),
    "multi-head: DER++, 40, cosine": Row(
        "split, multi-head",
        lambda e: DarkReplay(cosine(1e-3, e, 256), RandomPoints(40), 1.0, 1.0, 40),
        "FROMP 99.3",
        256,
    ),
    "multi-head: FROMP, 40": Row(
        "split, multi-head",
        lambda e: FROMP(adam(1e-3, e, 256), UncertainPoints(40), 500.0),
        "99.3 (code), 99.0 +- 0.1 (paper)",
        256,
    ),
    "multi-head: S-FSVI, 40": Row(
        "split, multi-head",
        lambda e: SFSVI(cosine(1e-3, e, 256), memory=RandomPoints(40), context=40),
        "99.54 (2x256)",
        256,
    ),
    "multi-head: online KFAC Laplace + DER++, 40, cosine": Row(
        "split, multi-head",
        lambda e: WithReplay(
            OnlineLaplace(cosine(1e-3, e, 256), strength=100.0),
            *(RandomPoints(40), 1.0, 1.0, 40),
        ),
        "FROMP 99.3",
        256,
    ),
    "multi-head: online KFAC Laplace + DER++, 40": Row(
        "split, multi-head",
        lambda e: WithReplay(
            OnlineLaplace(adam(1e-3, e, 256), strength=100.0),
            *(RandomPoints(40), 1.0, 1.0, 40),
        ),
        "FROMP 99.3",
        256,
    ),
    "single head: DER++, 200": Row(
        "split, single head",
        lambda e: DarkReplay(adam(1e-3, e, 256), RandomPoints(200), 1.0, 1.0, 256),
        "S-FSVI 92.87",
        256,
    ),
    "single head: online KFAC Laplace": Row(
        "split, single head",
        lambda e: OnlineLaplace(adam(1e-3, e, 256)),
        "about 20 without memory",
        256,
    ),
}


def flat(data: Split, most: int | None) -> Split:
    """Images as rows."""

    def one(part: Dataset, most: int | None) -> Dataset:
        x = np.asarray(part.x)[:most].reshape(-1, 784)
        return Dataset(x, part.y[:most], classes=part.classes, name=part.name)

    return Split(one(data.train, most), None, one(data.test, None))


def setting(row: Row, data: Split, tasks: int) -> tuple[BNN, Stream]:
    """The problem and the stream of a row; ReLU networks, prior precision 1."""
    build = mlp(784, 10, width=row.width, depth=2, activation=jax.nn.relu)
    if row.stream == "permuted":
        stream = permuted(data, tasks, key=jax.random.key(0))
    else:
        stream = split_classes(data, 2, heads=row.stream == "split, multi-head")
    if stream.heads is not None:
        build = multi_head(build, stream.heads)
    return BNN(build, Categorical(), NormalPrior(1.0)), stream


@dataclass(frozen=True)
class Published:
    """Strategies on permuted and split MNIST, beside published numbers."""

    out: Path = Path("out/continual")
    """Where states, and `continual.json`, are written; a rerun goes on from there."""
    rows: tuple[str, ...] = field(default_factory=lambda: tuple(ROWS))
    """Which rows; all of them unless given."""
    size: Literal["smoke", "cpu"] = "cpu"
    """smoke: 2 000 images, 2 tasks, 1 epoch. cpu: all, 10 tasks, 10 epochs."""
    seeds: int = 1
    """How often each is done."""

    def execute(self) -> None:
        console = Console()
        small = self.size == "smoke"
        data = flat(nq.data.load_images("mnist"), 2_000 if small else None)
        tasks, epochs = (2, 1) if small else (10, 10)
        found: dict[str, Any] = {}
        for name in self.rows:
            if name not in ROWS:
                raise SystemExit(f"--rows: expected some of {list(ROWS)}, got {name!r}")
            row = ROWS[name]
            bnn, stream = setting(row, data, tasks)
            began = time.perf_counter()
            result = run(
                row.strategy(epochs),
                bnn,
                stream,
                seeds=self.seeds,
                out=self.out / "units" / slug(name),
                say=lambda line, name=name: console.print(f"{name}: {line}"),
                key=jax.random.key(0),
            )
            spent = time.perf_counter() - began
            found[name] = entry(row, result, spent)
            console.print(line(name, found[name]))
        save(
            self.out / "continual.json",
            "continual",
            {"size": self.size, "tasks": tasks, "epochs": epochs, "rows": found},
        )


def entry(row: Row, result: Results, spent: float) -> dict[str, Any]:
    """The numbers of a row."""
    seconds = np.zeros(1) if result.seconds is None else result.seconds
    return {
        **result.to_dict(),
        "stream": row.stream,
        "width": row.width,
        "published": row.published,
        "wall": spent,
        "total seconds": float(seconds.sum()),
    }


def line(name: str, found: dict[str, Any]) -> str:
    """A row of the table in a line."""
    scores = found["scores"]
    names = ("average accuracy", "forgetting", "final ece")
    cells = [f"{key} {scores[key]['value']:.4f}" for key in names]
    head, seconds = f"{name} ({found['setting']})", found["total seconds"]
    return f"{head}: {'; '.join(cells)}; {seconds:.0f} s"


def markdown(found: dict[str, Any]) -> str:
    """The table of the documentation, from a stored run."""
    heads = (
        "strategy",
        "setting, units",
        "accuracy, %",
        "forgotten, points",
        "ECE",
        "time",
        "published, %",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in (name for name in ROWS if name in found["rows"]):
        row = found["rows"][name]
        scores = row["scores"]
        cells = (
            name.partition(": ")[2] or name,
            f"{row['stream']}, 2x{row['width']}",
            f"{100 * scores['average accuracy']['value']:.1f}",
            f"{100 * scores['forgetting']['value']:.1f}",
            f"{scores['final ece']['value']:.3f}",
            f"{row['total seconds']:.0f} s",
            row["published"] or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
