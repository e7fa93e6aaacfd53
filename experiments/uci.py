"""Test scores on the standard splits of a UCI data set, averaged over splits.

Every method is tuned inside the training part of each split. The splits are those of
Hernandez-Lobato and Adams (2015), used by Gal and Ghahramani (2016).
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ntkuq as nq
from experiments.record import save


#: Score -> heading of the table.
COLUMNS = {
    "nll": "NLL",
    "rmse": "RMSE",
    "crps": "CRPS",
    "coverage_90": "coverage of 90 %",
    "fit_seconds": "fit, s",
}


@dataclasses.dataclass(frozen=True)
class UCI:
    """Mean test scores over standard splits, with the standard error over splits."""

    data: str = "concrete"
    """A regression set by name; all but concrete come from $NTKUQ_DATA."""
    splits: int = 5
    """How many standard splits."""
    first: int = 0
    """The first of them."""
    width: int = 50
    """Units of each of the two hidden layers."""
    seed: int = 0
    """Seed of everything random."""
    out: Path = Path("runs/experiments")
    """Directory of the runs and of the JSON document."""

    def execute(self) -> None:
        """Run the splits, print the table, write the document."""
        rows: dict[str, list[dict[str, Any]]] = {}
        start = time.perf_counter()
        for split in range(self.first, self.first + self.splits):
            for row in self.one(split):
                rows.setdefault(row["label"], []).append(row)
            print(f"split {split}: {time.perf_counter() - start:.0f} s", flush=True)
        table = {label: summary(found) for label, found in rows.items()}
        print()
        print(markdown(table))
        path = save(
            self.out
            / f"uci-{self.data}-{self.first}-{self.first + self.splits - 1}.json",
            "uci",
            {
                "data": self.data,
                "splits": self.splits,
                "first": self.first,
                "width": self.width,
                "seed": self.seed,
                "table": table,
                "rows": rows,
            },
        )
        print(f"\nwritten {path}")

    def one(self, split: int) -> list[dict[str, Any]]:
        """The rows of one split."""
        data = nq.data.load(self.data, split=split)
        build = nq.models.mlp(
            data.train.x.shape[1], 1, width=self.width, activation=jax.nn.relu
        )
        bnn = nq.BNN(nq.Network(build), nq.Gaussian(), scaling=nq.Standardize())
        result = nq.compare(
            bnn,
            None,
            data,
            out=self.out / f"{self.data}-{split}",
            key=jax.random.key(self.seed),
        )
        return [row for row in result.rows() if row["status"] == "done"]


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard error over splits of each score."""
    found = {}
    for name in COLUMNS:
        values = np.array([row[name] for row in rows], float)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        found[name] = {"mean": float(values.mean()), "se": float(error)}
    return found


def markdown(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table in Markdown, best mean NLL first."""
    lines = [
        "| method | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for label in sorted(table, key=lambda name: table[name]["nll"]["mean"]):
        cells = []
        for name in COLUMNS:
            value = table[label][name]
            if name == "fit_seconds":
                cells.append(f"{value['mean']:.1f}")
            else:
                cells.append(f"{value['mean']:.2f} ± {value['se']:.2f}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
