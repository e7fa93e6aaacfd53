"""Bayesian optimization of benchmark functions: simple regret, beside BoTorch's."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

import ntkuq as nq
from experiments.record import save
from ntkuq.decisions import LogEI
from ntkuq.decisions.search import (
    BayesOpt,
    Benchmark,
    Minimize,
    Retrained,
    ackley,
    branin,
    hartmann6,
)


#: What is to be reached, in the units of the objective.
GOAL = 1e-3
FUNCTIONS = {"branin": branin, "hartmann6": hartmann6, "ackley10": ackley}
#: Evaluations of a search by size, the initial 2 D among them.
BUDGETS = {
    "smoke": {"branin": 7},
    "cpu": {"branin": 40, "hartmann6": 60},
    "gpu": {"branin": 40, "hartmann6": 120, "ackley10": 200},
}
PEER = Path(__file__).parent / "peers" / "botorch_search.py"


def surrogates() -> dict[str, Any]:
    """Methods that are compared; the plain GP first."""
    train = nq.Train(optax.adam(1e-2), steps=300)
    return {
        "GP": nq.GP(),
        "NTK-GP": nq.NTKGP(),
        "Laplace": Retrained(nq.MAP(train, rounds=2), nq.Laplace()),
        "ensemble": nq.DeepEnsemble(5, train=train),
    }


@dataclasses.dataclass(frozen=True)
class Search:
    """Simple regret of GP, NTK-GP, Laplace and ensemble; with BoTorch where given."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """Functions and evaluations."""
    methods: tuple[str, ...] = ("GP",)
    """Of GP, NTK-GP, Laplace, ensemble."""
    seeds: int = 20
    """Searches of each function and method."""
    botorch_python: Path | None = None
    """A Python with botorch; without it only ours runs."""
    out: Path = Path("runs/experiments/search.json")
    """The document."""

    def execute(self) -> None:
        """Run, print the medians, write the document."""
        found: dict[str, dict[str, Any]] = {}
        for name, budget in BUDGETS[self.size].items():
            function, rows = FUNCTIONS[name](), {}
            for label in self.methods:
                runs = [one(label, function, s, budget) for s in range(self.seeds)]
                rows[label] = summary(runs)
            if self.botorch_python is not None:
                initial = 2 * function.box.size
                rows["BoTorch"] = summary(self.peer(name, initial, budget))
            found[name] = rows
            print(f"\n{name}, {self.seeds} seeds\n\n{markdown(rows)}", flush=True)
        content = {"size": self.size, "seeds": self.seeds, "functions": found}
        print(f"\nwritten {save(self.out, 'search', content)}")

    def peer(self, name: str, initial: int, budget: int) -> list[dict[str, Any]]:
        """What BoTorch finds from its own Sobol points."""
        options = {
            "function": name,
            "seeds": self.seeds,
            "initial": initial,
            "budget": budget,
        }
        command = [str(self.botorch_python), str(PEER)]
        command += [f"--{key}={value}" for key, value in options.items()]
        done = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603 - the user's own Python
        return [json.loads(line) for line in done.stdout.splitlines()]


def one(label: str, function: Benchmark, seed: int, budget: int) -> dict[str, Any]:
    """One search: regret after each evaluation, seconds, calibration."""
    build = nq.models.mlp(function.box.size, 1, width=32, depth=2)
    bnn = nq.BNN(nq.Network(build), nq.Gaussian(0.01), scaling=nq.Standardize())
    search = BayesOpt(surrogates()[label], LogEI(), function.box, direction=Minimize())
    state = search.init(bnn, key=jax.random.key(seed))
    start = time.perf_counter()
    while len(state.y) < budget:
        x, state = search.ask(state)
        state = search.tell(state, x, function(x))
    seconds = (time.perf_counter() - start) / budget
    regret = np.maximum(state.trace - function.minimum, 0.0)
    return {
        "seed": seed,
        "regret": regret.tolist(),
        "seconds_per_round": seconds,
        "calibration": state.calibration.to_dict(),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and quartiles of the regret over seeds, and when the goal is reached."""
    regret = np.array([run["regret"] for run in runs])
    lower, median, upper = np.quantile(regret, [0.25, 0.5, 0.75], axis=0)
    reached = np.flatnonzero(median <= GOAL)
    return {
        "median": median.tolist(),
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "evaluations to the goal": int(reached[0]) + 1 if reached.size else None,
        "seconds_per_round": float(np.median([r["seconds_per_round"] for r in runs])),
        "runs": runs,
    }


def markdown(rows: dict[str, Any]) -> str:
    """One row a method."""
    lines = [
        f"| | median regret | quartiles | evaluations to {GOAL:g} | s a round |",
        "|---|---|---|---|---|",
    ]
    for label, row in rows.items():
        ends = f"{row['lower'][-1]:.2g} to {row['upper'][-1]:.2g}"
        lines.append(
            f"| {label} | {row['median'][-1]:.2g} | {ends} | "
            f"{row['evaluations to the goal']} | {row['seconds_per_round']:.3f} |"
        )
    return "\n".join(lines)
