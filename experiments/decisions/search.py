"""Bayesian optimization of benchmark functions: simple regret, beside BoTorch's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.decisions.search_runs import BOTORCH, SOBOL, stored
from experiments.decisions.search_table import tuning
from experiments.record import save
from ntkuq.decisions.search import Benchmark, ackley, branin, hartmann6
from ntkuq.decisions.search.calibration import calibration


#: What is to be reached, in the units of the objective.
GOAL = 1e-3
HEADINGS = (
    "function",
    "method",
    "seeds",
    "median regret",
    "quartiles",
    f"evaluations to {GOAL:g}",
    "s a round",
    "RMS z",
    "0.8 interval holds",
)
FUNCTIONS = {
    "branin": branin,
    "hartmann6": hartmann6,
    "ackley10": ackley,
    "tuning": tuning,
}


class Task(NamedTuple):
    """Evaluations of a search, the first 2 D among them, and how many searches.

    peers: how many of BoTorch's, with its default noise and with none; the first ones.
    """

    budget: int
    seeds: int
    peers: tuple[int, int] = (0, 0)


SIZES = {
    "smoke": {"branin": Task(7, 2, (2, 2))},
    "cpu": {
        "branin": Task(40, 20, (20, 20)),
        "hartmann6": Task(60, 20, (12, 9)),
        "ackley10": Task(60, 5),
        "tuning": Task(40, 20),
    },
    "gpu": {
        "branin": Task(40, 50, (50, 50)),
        "hartmann6": Task(120, 50, (50, 50)),
        "ackley10": Task(200, 20, (20, 20)),
        "tuning": Task(60, 50),
    },
}


@dataclasses.dataclass(frozen=True)
class Search:
    """Simple regret of GP, NTK-GP, Laplace and ensemble; with BoTorch where given."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """Functions, evaluations and seeds."""
    methods: tuple[str, ...] = (SOBOL, "GP")
    """Of Sobol points, GP, NTK-GP, Laplace, ensemble."""
    functions: tuple[str, ...] = tuple(FUNCTIONS)
    """Of those of the size."""
    botorch_python: Path | None = None
    """A Python with botorch; without it only ours runs."""
    out: Path = Path("runs/experiments")
    """Directory of the documents, one a search; kept where present."""

    def execute(self) -> None:
        """Run, print the medians, write one document."""
        found: dict[str, Any] = {}
        for name, task in SIZES[self.size].items():
            if name not in self.functions:
                continue
            function = FUNCTIONS[name]()
            counts = dict.fromkeys(self.methods, task.seeds)
            if self.botorch_python is not None:
                peers = zip(BOTORCH, task.peers, strict=True)
                counts |= {label: count for label, count in peers if count}
            rows = {
                label: summary(
                    function,
                    stored(
                        label,
                        function,
                        range(count),
                        task.budget,
                        python=self.botorch_python,
                        out=self.out / "search",
                    ),
                )
                for label, count in counts.items()
            }
            found[name] = {"budget": task.budget, "rows": rows}
        print(f"\n{markdown(found)}")
        content = {"size": self.size, "goal": GOAL, "functions": found}
        print(f"\nwritten {save(self.out / 'search.json', 'search', content)}")


def summary(function: Benchmark, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Regret over seeds, when the median reaches the goal, and calibration."""
    y = np.array([run["y"] for run in runs])
    regret = np.maximum(np.minimum.accumulate(y, axis=1) - function.minimum, 0.0)
    lower, median, upper = np.quantile(regret, [0.25, 0.5, 0.75], axis=0)
    reached = np.flatnonzero(median <= GOAL)
    # what was not predicted is null in the files
    mean, std = (
        np.array([run[name] for run in runs], np.float64) for name in ("mean", "std")
    )
    chosen = calibration(y.reshape(-1), mean.reshape(-1), std.reshape(-1))
    rounds = np.isfinite(mean).all(axis=0)
    z = (y - mean)[:, rounds] / std[:, rounds]
    parts = np.array_split(z, 6, axis=1) if z.size else []
    sixths = [float(np.sqrt(np.mean(part**2))) for part in parts if part.size]
    return {
        "rms_z_by_sixth": sixths,
        "seeds": len(runs),
        "median": median.tolist(),
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "final": regret[:, -1].tolist(),
        "evaluations to the goal": int(reached[0]) + 1 if reached.size else None,
        "seconds_per_round": float(np.median([r["seconds_per_round"] for r in runs])),
        "calibration": {k: v for k, v in chosen.to_dict().items() if k != "blocks"},
        "median_abs_z": float(np.median(np.abs(chosen.z))) if chosen.z.size else None,
    }


def markdown(functions: dict[str, Any]) -> str:
    """One row a function and method."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for name, found in functions.items():
        title = f"{name}, {found['budget']} evaluations"
        for label, row in found["rows"].items():
            chosen = row["calibration"]
            cells = [title, label, str(row["seeds"]), f"{row['median'][-1]:.2g}"]
            cells.append(f"{row['lower'][-1]:.2g} to {row['upper'][-1]:.2g}")
            cells.append(str(row["evaluations to the goal"] or "—"))
            if chosen["count"]:
                cells.append(f"{row['seconds_per_round']:.2f}")
                cells.append(f"{chosen['rms_z']:.2f}")
                cells.append(f"{chosen['coverage']['0.8']:.2f}")
            else:
                cells += ["—", "—", "—"]
            lines.append("| " + " | ".join(cells) + " |")
            title = ""
    return "\n".join(lines)
