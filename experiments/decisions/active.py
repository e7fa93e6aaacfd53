"""Active learning: scores against labels, paired with labels drawn at random."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

import ntkuq as nq
from experiments.record import save
from ntkuq.decisions import BALD
from ntkuq.decisions.active import (
    EPIG,
    AbstractQuery,
    ActiveLearning,
    BatchBALD,
    ChosenClasses,
    CoreSet,
    LabelCurve,
    MaxEntropy,
    Top,
    Uniform,
    VarianceReduction,
)
from ntkuq.decisions.search import Retrained


#: Probability of the intervals in the table, and of predictive intervals.
LEVEL, COVERED = 0.95, 0.9
UNIFORM = "Uniform"
HEADINGS = (
    "pool",
    "method",
    "query",
    "seeds",
    "at the end",
    "minus Uniform, at the end",
    "minus Uniform, mean of the curve",
    "at queried points",
    "at test points",
)
QUERIES: dict[str, AbstractQuery] = {
    UNIFORM: Uniform(),
    "MaxEntropy": MaxEntropy(),
    "BALD": Top(BALD()),
    "BatchBALD": BatchBALD(),
    "EPIG": EPIG(),
    "VarianceReduction": VarianceReduction(),
    "CoreSet": CoreSet(),
}


class Task(NamedTuple):
    """A pool, what is compared on it, and how often labels are asked for.

    score: of the table; `larger` says whether large values are good.
    calibration: score on test points that is compared with that at queried points.
    more: how many times the seeds of a size a method has that is cheap.
    queries: by method. With noise that is the same everywhere, MaxEntropy and BALD rank
        alike; an ensemble has no joint covariance, which the last three need.
    """

    data: str
    score: str
    larger: bool
    calibration: str
    more: dict[str, int]
    queries: dict[str, tuple[str, ...]]


CONCRETE = Task(
    "concrete",
    "rmse",
    larger=False,
    calibration="coverage_90",
    more={"GP": 4},
    queries={
        "GP": (
            UNIFORM,
            "MaxEntropy",
            "BatchBALD",
            "EPIG",
            "VarianceReduction",
            "CoreSet",
        ),
        "ensemble": (UNIFORM, "BALD", "CoreSet"),
    },
)
DIGITS = Task(
    "digits",
    "accuracy",
    larger=True,
    calibration="overconfidence",
    more={},
    queries={
        "ensemble": (UNIFORM, "MaxEntropy", "BALD", "BatchBALD", "EPIG", "CoreSet"),
        "Laplace": (UNIFORM, "BALD"),
    },
)


class Size(NamedTuple):
    """First labels, labels a round, rounds, seeds, and the tasks."""

    first: int
    batch: int
    rounds: int
    seeds: int
    tasks: tuple[Task, ...]


SMOKE = CONCRETE._replace(more={}, queries={"GP": (UNIFORM, "VarianceReduction")})
SIZES = {
    "smoke": Size(20, 5, 1, 2, (SMOKE,)),
    "cpu": Size(20, 20, 4, 5, (CONCRETE, DIGITS)),
    "gpu": Size(20, 10, 18, 20, (CONCRETE, DIGITS)),
}


@dataclasses.dataclass(frozen=True)
class Active:
    """Label efficiency of queries and methods, and calibration where they chose."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """Tasks, rounds and seeds."""
    out: Path = Path("runs/experiments")
    """Directory of the documents, one a run; kept where present."""

    def execute(self) -> None:
        """Run all, print the table, write one document."""
        size = SIZES[self.size]
        found = {
            task.data: {
                method: {query: self.rows(task, method, query) for query in queries}
                for method, queries in task.queries.items()
            }
            for task in size.tasks
        }
        tasks = {task.data: summary(task, found[task.data]) for task in size.tasks}
        settings = size._replace(tasks=())._asdict() | {"size": self.size}
        content = {"settings": settings, "level": LEVEL, "tasks": tasks}
        print(f"\n{markdown(tasks)}")
        print(f"\nwritten {save(self.out / 'active.json', 'active', content)}")

    def rows(self, task: Task, method: str, query: str) -> list[dict[str, Any]]:
        """A run for each seed, from its file where there is one."""
        size, runs = SIZES[self.size], []
        seeds = size.seeds * task.more.get(method, 1)
        for seed in range(min(seeds, nq.data.info(task.data).splits)):
            name = f"{task.data}-{method}-{query}-{seed}.json"
            path = self.out / f"active-{self.size}" / name
            if not path.exists():
                save(path, "active", {"run": one(task, method, query, seed, size)})
            runs.append(json.loads(path.read_text())["run"])
        last = [run["scores"][task.score][-1] for run in runs]
        print(f"{task.data:9} {method:9} {query:18} {np.mean(last):.3f}", flush=True)
        return runs


@functools.cache
def methods() -> dict[str, Any]:
    """What is fitted to the labels; one object each, so that programs are kept."""
    train = nq.Train(optax.adam(1e-2), steps=300)
    last = nq.Laplace(subset=nq.LastLayer())
    return {
        "GP": nq.GP(kernel=nq.RBF(ard=True)),
        "ensemble": nq.DeepEnsemble(5, train=train),
        "Laplace": Retrained(nq.MAP(train, rounds=2), last),
    }


@functools.cache
def problem(features: int, classes: int) -> nq.BNN:
    """Two hidden layers of 50 units; regression where there are no classes."""
    build = nq.models.mlp(features, classes or 1, width=50)
    likelihood = nq.Categorical() if classes else nq.Gaussian()
    return nq.BNN(nq.Network(build), likelihood, scaling=nq.Standardize())


def one(task: Task, method: str, query: str, seed: int, size: Size) -> dict[str, Any]:
    """One run; pool, test set and first labels are the same for all with its seed."""
    data = nq.data.load(task.data, split=seed)
    x, y = data.train.x, data.train.y
    classes = np.issubdtype(y.dtype, np.integer)
    bnn = problem(x.shape[1], int(y.max()) + 1 if classes else 0)
    first = np.random.default_rng(seed).permutation(len(y))[: size.first]
    learning = ActiveLearning(methods()[method], QUERIES[query], batch=size.batch)
    state = learning.init(bnn, x, first, y[first], key=jax.random.key(seed))
    result = learning.run(state, lambda rows: y[rows], data.test, rounds=size.rounds)
    chosen = result.state.calibration
    if isinstance(chosen, ChosenClasses):
        gap = (chosen.confidence - chosen.accuracy) @ chosen.count
        at_chosen = float(gap / chosen.count.sum())
    else:
        at_chosen = chosen.coverage(COVERED)
    names = (task.score, "nll", task.calibration)
    return {
        "seed": seed,
        "labels": result.labels.tolist(),
        "scores": {name: result.scores[name].tolist() for name in names},
        "at_chosen": at_chosen,
        # of the fits that chose: all but the last
        "at_test": float(np.mean(result.scores[task.calibration][:-1])),
    }


def summary(task: Task, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Curves, paired differences from uniform labels, and calibration."""
    rows = []
    for method, runs in found.items():
        base = curve(runs[UNIFORM], task.score)
        for query, some in runs.items():
            own = curve(some, task.score)
            row = {"method": method, "query": query, "curve": own.to_dict(LEVEL)}
            row["values"] = np.round(own.values, 5).tolist()
            if query != UNIFORM:
                row["last"] = ending(own).difference(ending(base), LEVEL)
                row["whole"] = own.difference(base, LEVEL)
            for where in ("at_chosen", "at_test"):
                row[where] = float(np.mean([run[where] for run in some]))
            rows.append(row)
    names = {"score": task.score, "larger": task.larger}
    return {**names, "calibration": task.calibration, "rows": rows}


def curve(runs: list[dict[str, Any]], name: str) -> LabelCurve:
    """A score against labels, one row a seed."""
    values = np.array([run["scores"][name] for run in runs])
    return LabelCurve(name, np.array(runs[0]["labels"]), values)


def ending(one: LabelCurve) -> LabelCurve:
    """The last point of a curve."""
    return LabelCurve(one.name, one.labels[-1:], one.values[:, -1:])


def markdown(tasks: dict[str, Any]) -> str:
    """One row a task, method and query."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for name, task in tasks.items():
        count = task["rows"][0]["curve"]["labels"][-1]
        title = f"{name}, {count} labels: {task['score']}; {task['calibration']}"
        for row in task["rows"]:
            cells = [title, row["method"], row["query"], str(row["curve"]["seeds"])]
            cells.append(f"{row['curve']['mean'][-1]:.3f}")
            for part in ("last", "whole"):
                gap = row.get(part)
                text = "—"
                if gap is not None:
                    ends = f"{gap['lower']:+.3f} to {gap['upper']:+.3f}"
                    text = f"{gap['mean']:+.3f} ({ends})"
                cells.append(text)
            cells += [f"{row[where]:.2f}" for where in ("at_chosen", "at_test")]
            lines.append("| " + " | ".join(cells) + " |")
            title = ""
    return "\n".join(lines)
