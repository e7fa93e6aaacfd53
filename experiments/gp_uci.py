"""Infinite-width posteriors on the standard UCI splits, beside a plain GP.

Every method is tuned inside the training part of each split, the depth of the network
too: by the evidence of at most `points` training rows.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ntkuq as nq
from experiments.record import save
from experiments.uci import markdown, summary


#: Hidden layers that are tried.
DEPTHS = (1, 2, 3)
RBF = "GP (RBF-ARD)"
NETWORKS = {"NNGP": nq.NNGP, "NTK-GP": nq.NTKGP}


@dataclasses.dataclass(frozen=True)
class GaussianProcesses:
    """NNGP, NTK-GP and a GP with an RBF-ARD kernel: mean scores over the UCI splits."""

    data: tuple[str, ...] = ("yacht", "energy", "boston", "concrete", "wine", "power")
    """Regression sets by name; all but concrete come from $NTKUQ_DATA."""
    splits: int = 20
    """How many standard splits."""
    points: int = 300
    """Training rows on which the depth is chosen."""
    tuned: int = 2_000
    """Training rows, at most, on which the hyper-parameters are tuned; the posterior
    uses all."""
    seed: int = 0
    """Seed of everything random."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON documents, one a set and split; kept where present."""

    def execute(self) -> None:
        """Run all sets, print the tables, write one document."""
        found: dict[str, dict[str, Any]] = {}
        for name in self.data:
            rows: dict[str, list[dict[str, Any]]] = {}
            start = time.perf_counter()
            for split in range(self.splits):
                for row in self.stored(name, split):
                    rows.setdefault(row["label"], []).append(row)
            table = {label: summary(each) for label, each in rows.items()}
            found[name] = {"table": table, "differences": paired(rows), "rows": rows}
            seconds = time.perf_counter() - start
            print(f"\n{name}, {self.splits} splits, {seconds:.0f} s\n")
            print(markdown(table), flush=True)
        print()
        print(overview(found))
        settings = {
            "splits": self.splits,
            "points": self.points,
            "tuned": self.tuned,
            "seed": self.seed,
        }
        path = save(self.out / "gp-uci.json", "gp-uci", settings | {"sets": found})
        print(f"\nwritten {path}")

    def stored(self, name: str, split: int) -> list[dict[str, Any]]:
        """The rows of one split, from its file where there is one."""
        unit = f"{name}-{split}-{self.points}-{self.tuned}-{self.seed}"
        path = self.out / "gp-uci" / f"{unit}.json"
        if path.exists():
            return json.loads(path.read_text())["rows"]
        rows = self.one(name, split)
        save(path, "gp-uci", {"rows": rows})
        return rows

    def one(self, name: str, split: int) -> list[dict[str, Any]]:
        """The rows of one split."""
        data = nq.data.load(name, split=split)
        key = jax.random.key(self.seed)
        solver = nq.Cholesky(tune_points=self.tuned)
        kernel = nq.Analytic(ard=True)
        networks = {
            label: method(kernel=kernel, solver=solver)
            for label, method in NETWORKS.items()
        }
        methods = [
            (label, method, self.depth(method, data.train))
            for label, method in networks.items()
        ]
        methods.append((RBF, nq.GP(kernel=nq.RBF(ard=True), solver=solver), 1))
        rows = []
        for label, method, depth in methods:
            start = time.perf_counter()
            posterior = method.fit(problem(data.train, depth), data.train, key=key)
            seconds = time.perf_counter() - start
            p = posterior.predict(data.test.x)
            scores = nq.score(p, data.test.y)
            rows.append(
                {
                    "label": label,
                    "depth": depth,
                    "nll": scores.values["nll"].value,
                    "rmse": scores.values["rmse"].value,
                    "crps": scores.values["crps"].value,
                    "coverage_90": scores.values["coverage_90"].value,
                    "fit_seconds": seconds,
                    "evidence": posterior.log_marginal_likelihood,
                }
            )
        return rows

    def depth(self, method: Any, train: nq.Dataset) -> int:
        """The number of hidden layers with the largest evidence on a few rows."""
        order = np.random.default_rng(self.seed).permutation(len(train))
        few = train.take(np.sort(order[: self.points]))
        key = jax.random.key(self.seed)
        evidence = {
            depth: method.fit(problem(few, depth), few, key=key).log_marginal_likelihood
            for depth in DEPTHS
        }
        return max(evidence, key=lambda depth: evidence[depth])


def problem(train: nq.Dataset, depth: int) -> nq.BNN:
    """A ReLU network of this depth; its width plays no part."""
    features = train.x.shape[1]
    build = nq.models.mlp(features, 1, width=8, depth=depth, activation=jax.nn.relu)
    return nq.BNN(nq.Network(build), nq.Gaussian(), scaling=nq.Standardize())


def paired(rows: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """NLL of each method minus that of the RBF kernel, over splits."""
    plain = np.array([row["nll"] for row in rows[RBF]])
    found = {}
    for label, each in rows.items():
        difference = np.array([row["nll"] for row in each]) - plain
        error = np.nan
        if len(plain) > 1:
            error = difference.std(ddof=1) / np.sqrt(len(plain))
        found[label] = {"mean": float(difference.mean()), "se": float(error)}
    return found


def overview(sets: dict[str, dict[str, Any]]) -> str:
    """One row a set: NLL of each method, and the paired difference to the plain GP."""
    lines = [
        "| set | "
        + " | ".join([*NETWORKS, RBF])
        + " | "
        + " | ".join(f"{label} − RBF" for label in NETWORKS)
        + " | better |",
        "|---|" + "---|" * (2 * len(NETWORKS) + 2),
    ]
    for name, found in sets.items():
        cells = [plus(found["table"][label]["nll"]) for label in (*NETWORKS, RBF)]
        gaps = [found["differences"][label] for label in NETWORKS]
        cells += [plus(gap) for gap in gaps]
        best = min(gaps, key=lambda gap: gap["mean"])
        word = "no difference"
        if abs(best["mean"]) > 2 * best["se"]:
            word = "network" if best["mean"] < 0 else "RBF"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {word} |")
    return "\n".join(lines)


def plus(value: dict[str, float]) -> str:
    """A mean and its standard error."""
    return f"{value['mean']:.3f} ± {value['se']:.3f}"
