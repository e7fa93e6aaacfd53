"""Iterative and approximate solvers of GP regression beside the exact one.

All but the subset of data have the same prior: its hyper-parameters are fitted exactly,
on the same rows drawn at random. The subset is its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ntkuq as nq
from experiments.record import save


KERNELS = {
    "NTK-GP": nq.NTKGP(kernel=nq.Analytic()),
    "GP": nq.GP(kernel=nq.RBF(ard=True)),
}
COLUMNS = (
    "| solver | fit, s | predict, s | GB | max mean error / sd | variance / exact, min "
    "| median | evidence - exact | its se | NLL |"
)


def solvers(size: int) -> dict[str, nq.kernels.AbstractSolver]:
    """What is compared, sized for so many rows."""
    few = max(10, size // 10)
    return {
        "Cholesky": nq.Cholesky(),
        "CG, pivoted Cholesky": nq.ConjugateGradients(),
        "CG, Nystrom": nq.ConjugateGradients(preconditioner=nq.Nystrom()),
        "computation-aware": nq.ComputationAware(),
        "computation-aware, rank 500": nq.ComputationAware(
            preconditioner=nq.PivotedCholesky(500)
        ),
        "inducing points": nq.Inducing(few),
        "subset of data": nq.SubsetOfData(few),
    }


@dataclasses.dataclass(frozen=True)
class Solvers:
    """Means, variances, evidence, time and memory of each solver against the exact."""

    data: str = "power"
    """A regression set by name; all but concrete come from $NTKUQ_DATA."""
    kernel: str = "NTK-GP"
    """NTK-GP or GP."""
    rows: int = 5_000
    """Training rows."""
    points: int = 500
    """Test points."""
    tune_points: int = 2_000
    """Rows on which the hyper-parameters are fitted."""
    only: tuple[str, ...] = ()
    """Names of the solvers to run beside Cholesky; all unless given."""
    seed: int = 0
    """Seed of everything random."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document."""

    def execute(self) -> None:
        """Run each solver in a process of its own, print the table, write it."""
        names = [
            name
            for name in solvers(self.rows)
            if name == "Cholesky" or not self.only or name in self.only
        ]
        found = {name: self.apart(name) for name in names}
        rows = [compared(name, found[name], found["Cholesky"]) for name in found]
        print()
        print(markdown(rows))
        content = {"settings": json.loads(self.settings()), "rows": rows}
        path = save(self.out / "solvers.json", "solvers", content)
        print(f"\nwritten {path}")

    def settings(self) -> str:
        """The fields as JSON."""
        return json.dumps(dataclasses.asdict(self), default=str)

    def apart(self, name: str) -> dict[str, Any]:
        """What `one` finds in a process of its own, whose peak memory is its own."""
        code = (
            "import json, sys; from pathlib import Path; "
            "from experiments.solvers import Solvers; "
            "given = json.loads(sys.argv[1]); given['out'] = Path(given['out']); "
            "print(json.dumps(Solvers(**given).one(sys.argv[2])))"
        )
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", code, self.settings(), name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=dict(os.environ),
        )
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: fit {found['fit']:.1f} s, {found['gigabytes']:.2f} GB")
        return found

    def one(self, name: str) -> dict[str, Any]:
        """Fit and predict with one solver."""
        split = nq.data.load(self.data, split=0)
        size = min(self.rows, len(split.train))
        order = np.random.default_rng(self.seed).permutation(len(split.train))
        train = split.train.take(order[:size])
        few = min(self.points, len(split.test))
        test = split.test.take(np.arange(few))
        build = nq.models.mlp(train.x.shape[1], 1, width=50, activation=jax.nn.relu)
        bnn = nq.BNN(nq.Network(build), nq.Gaussian(), scaling=nq.Standardize())
        solver = solvers(size)[name]
        if not isinstance(solver, nq.SubsetOfData):
            solver = dataclasses.replace(solver, tune_points=self.tune_points)
        method = dataclasses.replace(KERNELS[self.kernel], solver=solver)
        start = time.perf_counter()
        posterior = method.fit(bnn, train, key=jax.random.key(self.seed))
        middle = time.perf_counter()
        p = posterior.predict(test.x)
        nll = -float(np.mean(p.log_prob(test.y)))
        end = time.perf_counter()
        with jax.enable_x64(True):
            joint = posterior.joint(test.x)
            mean, variance = (
                np.asarray(a) for a in (joint.mean[:, 0], np.diagonal(joint.covariance))
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "fit": middle - start,
            "predict": end - middle,
            "gigabytes": peak / 1e9,
            "mean": mean.tolist(),
            "variance": variance.tolist(),
            "evidence": posterior.log_marginal_likelihood,
            "nll": nll,
            "diagnostics": {
                k: v
                for k, v in posterior.diagnostics.items()
                if isinstance(v, bool | int | float | str)
            },
        }


def compared(name: str, found: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    variance, reference = np.array(found["variance"]), np.array(exact["variance"])
    error = np.abs(np.array(found["mean"]) - np.array(exact["mean"]))
    ratio = variance / reference
    return {
        "solver": name,
        "fit": found["fit"],
        "predict": found["predict"],
        "gigabytes": found["gigabytes"],
        "mean error": float(np.max(error / np.sqrt(reference))),
        "smallest ratio": float(ratio.min()),
        "median ratio": float(np.median(ratio)),
        "evidence error": found["evidence"] - exact["evidence"],
        "evidence se": found["diagnostics"].get("evidence standard error"),
        "nll": found["nll"],
        "diagnostics": found["diagnostics"],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [COLUMNS, "|---" * COLUMNS.count(" | ") + "|---|"]
    for row in rows:
        se = row["evidence se"]
        cells = (
            row["solver"],
            f"{row['fit']:.1f}",
            f"{row['predict']:.1f}",
            f"{row['gigabytes']:.2f}",
            f"{row['mean error']:.1e}",
            f"{row['smallest ratio']:.9f}",
            f"{row['median ratio']:.4f}",
            f"{row['evidence error']:.3g}",
            "" if se is None else f"{se:.2g}",
            f"{row['nll']:.4f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
