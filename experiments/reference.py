"""How near are the methods to the posterior? Distances to NUTS on a small network.

`concrete`: 8-50-1 tanh on 400 rows, noise 0.3 and unit prior variance in scaled units.

`energy-gap`: the network, prior and data of the regression track of the NeurIPS 2021
competition on approximate inference: 8 inputs, 50 ReLU units, a mean and a scale,
prior variance 1/30 of all weights, the energy set with the middle third of an input
held out. The competition's scale is a softplus, ours an exponential; the input that is
cut and the scaling were not published and are frozen here.

Chains that have not mixed are no reference. The table is printed all the same, and says
so: its floor is then how far the chains are from each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import ntkuq as nq
from experiments.record import save


#: Test points and draws of the published samples.
POINTS, DRAWS = 256, 1_000
#: The input whose middle third is held out.
CUT = 0
#: Step sizes of SWAG and SGHMC. Their defaults diverge on the energy set, where the
#: scale that the network predicts is small and the loss steep.
RATES = {"concrete": (1e-2, 1e-3), "energy-gap": (1e-4, 1e-4)}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Distances of every method's predictions to NUTS, beside the floor."""

    problem: Literal["concrete", "energy-gap"] = "concrete"
    """Which network and data."""
    warmup: int = 500
    """Transitions of each chain before those that count."""
    samples: int = 500
    """Transitions of each chain that count."""
    chains: int = 4
    """Chains."""
    depth: int = 8
    """Largest depth of a tree."""
    accept: float = 0.8
    """Acceptance probability that the step size is adapted to."""
    thin: int = 1
    """One draw is kept of so many transitions."""
    double: bool = False
    """Everything in float64."""
    seed: int = 0
    """Seed of everything random."""
    out: Path = Path("runs/experiments")
    """Directory of the document and the samples."""

    def execute(self) -> None:
        """Sample, fit every method, print the table, write it and the samples."""
        with jax.enable_x64(True) if self.double else contextlib.nullcontext():
            self.run()

    def run(self) -> None:
        """In the precision that is on."""
        bnn, train, test = PROBLEMS[self.problem]()
        key = jax.random.key(self.seed)
        self.out.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        method = nq.NUTS(
            self.chains,
            self.warmup,
            self.samples,
            self.depth,
            self.accept,
            thin=self.thin,
        )
        reference = method.fit(
            bnn,
            train,
            checkpoint=self.out / f"reference-{self.problem}-chains.npz",
            callback=lambda done, u: print(f"{done} transitions, {u:.1f}", flush=True),
            key=key,
        )
        seconds = time.perf_counter() - start
        print(f"NUTS {seconds:.0f} s: {reference.diagnostics}", flush=True)
        verdict = str(reference.diagnostics["verdict"])
        chains = reference.predict_chains(test.x)
        rows = []
        trained = nq.MAP(TRAIN, tune=nq.Fixed()).fit(bnn, train, key=key).bnn
        for label, each in methods(*RATES[self.problem]).items():
            start = time.perf_counter()
            posterior = each.fit(trained, train, key=key)
            took = time.perf_counter() - start
            p = posterior.predict(test.x)
            found = nq.distance(p, chains)
            rows.append(row(label, found, nq.score(p, test.y), took))
            print(rows[-1], flush=True)
        scores = nq.score(reference.predict(test.x), test.y)
        rows.append(
            {
                "label": "NUTS",
                "nll": scores.values["nll"].value,
                "seconds": seconds,
            }
        )
        print()
        print(markdown(rows))
        print(f"\n{verdict}")
        document = {
            "problem": self.problem,
            "chains": self.chains,
            "warmup": self.warmup,
            "samples": self.samples,
            "depth": self.depth,
            "accept": self.accept,
            "thin": self.thin,
            "double": self.double,
            "seed": self.seed,
            "diagnostics": {
                name: value
                for name, value in reference.diagnostics.items()
                if isinstance(value, bool | int | float | str)
            },
            "rows": rows,
        }
        name = f"reference-{self.problem}"
        path = save(self.out / f"{name}.json", "reference", document)
        arrays = samples(reference, test, self.seed)
        np.savez_compressed(self.out / f"{name}-draws.npz", **arrays)
        print(f"\nwritten {path} and {name}-draws.npz")


#: Full batches: 512 rows.
TRAIN = nq.Train(1e-2, steps=4_000)


def concrete() -> tuple[nq.BNN, nq.Dataset, nq.Dataset]:
    """8-50-1 tanh, 400 training rows, the test rows of the first standard split."""
    data = nq.data.load("concrete", split=0)
    build = nq.models.mlp(8, 1, width=50, depth=1, activation=jax.nn.tanh)
    bnn = nq.BNN(
        nq.Network(build),
        nq.Gaussian(0.3),
        nq.NormalPrior(1.0),
        scaling=nq.Standardize(),
    )
    rows = np.sort(np.random.default_rng(0).permutation(len(data.train))[:400])
    return bnn, data.train.take(rows), data.test


def gap() -> tuple[nq.BNN, nq.Dataset, nq.Dataset]:
    """8-50-2, the energy set without the middle third of an input, and that third."""
    split = nq.data.load("energy", split=0)
    parts = [part for part in (split.train, split.test) if part is not None]
    x = np.concatenate([part.x for part in parts])
    y = np.concatenate([part.y for part in parts])
    order = np.argsort(x[:, CUT], kind="stable")
    third = len(order) // 3
    middle = np.sort(order[third : 2 * third])
    outside = np.sort(np.concatenate([order[:third], order[2 * third :]]))
    rows = np.random.default_rng(0).permutation(middle)[:POINTS]
    build = nq.models.mlp(8, 2, width=50, depth=1, activation=jax.nn.relu)
    bnn = nq.BNN(
        nq.Network(build),
        nq.HeteroscedasticGaussian(),
        nq.NormalPrior(30.0),
        scaling=nq.Standardize(),
    )
    return bnn, nq.Dataset(x[outside], y[outside]), nq.Dataset(x[rows], y[rows])


PROBLEMS = {"concrete": concrete, "energy-gap": gap}


def methods(swag: float, sghmc: float) -> dict[str, Any]:
    """Every method on the same prior and likelihood: nothing is tuned.

    Args:
        swag, sghmc: their step sizes.
    """
    fixed = nq.Fixed()
    trainer = nq.MAP(TRAIN, tune=fixed)
    full = nq.Laplace(structure=nq.Full(), tune=fixed)
    return {
        "MAP": nq.MAP(None, tune=fixed),
        "Laplace (full)": full,
        "Laplace (KFAC)": nq.Laplace(structure=nq.KFAC(), tune=fixed),
        "Laplace (diagonal)": nq.Laplace(structure=nq.Diagonal(), tune=fixed),
        "Laplace (last layer)": nq.Laplace(subset=nq.LastLayer(), tune=fixed),
        "sampled Laplace (full)": nq.SampledLaplace(full),
        "ensemble of 10": nq.DeepEnsemble(10, TRAIN),
        "ensemble of 10, anchored": nq.DeepEnsemble(10, TRAIN, nq.Anchored()),
        "ensemble of 10, randomized prior": nq.DeepEnsemble(
            10, TRAIN, nq.RandomizedPrior()
        ),
        "mixture of 5 Laplace (full)": nq.Mixture(full, 5, trainer),
        "SWAG": nq.SWAG(rate=swag),
        "variational (diagonal)": nq.Variational(nq.Diagonal(), samples=200),
        "variational (low rank)": nq.Variational(nq.LowRank(10), samples=200),
        "SGHMC": nq.SGMCMC(nq.SGHMC(), sghmc, samples=50),
    }


def row(label: str, found: nq.calibration.Distance, scores, took: float) -> dict:
    """The distances of a method and what it scores."""
    distance = found.values["relative_wasserstein"]
    floor = found.floor["relative_wasserstein"]
    return {
        "label": label,
        "distance": distance.value,
        "se": distance.se,
        "floor": floor.value,
        "wasserstein": found.values["wasserstein"].value,
        "nll": scores.values["nll"].value,
        "seconds": took,
    }


def samples(reference: nq.posteriors.NUTSPosterior, test: nq.Dataset, seed: int):
    """Draws of the network's outputs in units of the data, and the points."""
    functions = reference.sample_functions(jax.random.key(seed), DRAWS)
    values = np.asarray(functions(test.x), np.float32)
    return {"outputs": values, "x": test.x, "y": test.y}


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a method, nearest first, NUTS last."""
    lines = [
        "| method | distance / sd of NUTS | floor | W₁ | NLL | fit, s |",
        "|---|---|---|---|---|---|",
    ]
    compared = [row for row in rows if "distance" in row]
    lines += [
        f"| {one['label']} | {one['distance']:.3f} ± {one['se']:.3f} | "
        f"{one['floor']:.3f} | {one['wasserstein']:.2f} | {one['nll']:.2f} | "
        f"{one['seconds']:.1f} |"
        for one in sorted(compared, key=lambda row: row["distance"])
    ]
    lines += [
        f"| {one['label']} | – | – | – | {one['nll']:.2f} | {one['seconds']:.0f} |"
        for one in rows
        if "distance" not in one
    ]
    return "\n".join(lines)
