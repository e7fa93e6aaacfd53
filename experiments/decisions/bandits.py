"""`python -m experiments bandits`: tables, covariances, study of exploration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import ntkuq as nq
from experiments.decisions import bandit_tables as tables
from experiments.race.run import machine
from experiments.record import save
from ntkuq.decisions import bandits as nb
from ntkuq.decisions.bandits.run import FORMAT


class Size(NamedTuple):
    """Rounds and seeds of the parts; widths of the study, the first one everywhere."""

    table_rounds: int
    table_seeds: int
    covariance_rounds: int
    covariance_seeds: int
    study_rounds: int
    study_seeds: int
    widths: tuple[int, ...]


SIZES = {
    "smoke": Size(60, 2, 60, 2, 60, 2, (8,)),
    "cpu": Size(10_000, 10, 10_000, 10, 1_000, 10, (20, 100)),
    "gpu": Size(15_000, 20, 15_000, 20, 10_000, 20, (20, 100, 1024)),
}


def _seeds(environment: str, seeds: int) -> int:
    """Four times as many on wheels: some get stuck there, and regrets spread."""
    return 4 * seeds if environment.startswith("wheel") else seeds


class Run(NamedTuple):
    """A policy in an environment."""

    environment: str
    policy: str
    width: int
    make: Callable[[], tuple[Any, Any]]
    rounds: int
    seeds: int


@dataclasses.dataclass(frozen=True)
class Bandits:
    """Regret on tables, by covariance, and whether theory's exploration pays."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """Rounds, seeds and widths."""
    parts: tuple[str, ...] = ("tables", "covariances", "study")
    """Which parts."""
    environments: tuple[str, ...] = ()
    """Only these; all where none is named."""
    policies: tuple[str, ...] = ()
    """Only these; all where none is named."""
    out: Path = Path("runs/experiments")
    """Directory of the documents; a run that is there is not repeated."""

    def execute(self) -> None:
        """Run what is missing, print the tables, write the document."""
        folder = self.out / "bandits"
        folder.mkdir(parents=True, exist_ok=True)
        target = self.out / "bandits.json"
        # parts that were measured at another time stay
        known = ("tables", "covariances", "study", "claims")
        found: dict[str, Any] = {
            name: part for name, part in load(target).items() if name in known
        }
        for part in self.parts:
            runs = [
                run
                for run in PARTS[part](SIZES[self.size])
                if (not self.environments or run.environment in self.environments)
                and (not self.policies or run.policy in self.policies)
            ]
            done = [stored(folder / part, run) for run in runs]
            found[part] = [
                row(run, result) for run, result in zip(runs, done, strict=True)
            ]
            print(f"\n{tables.markdown(found[part])}", flush=True)
            if part == "study":
                found["claims"] = claims(runs, done)
                print(f"\n{tables.claims_markdown(found['claims'])}")
        content = {"size": self.size, "machine": machine(), **found}
        print(f"\nwritten {save(target, 'bandits', content)}")


def stored(folder: Path, run: Run) -> nb.BanditResult:
    """The run, from its file where it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    policy, environment = run.make()
    text = f"{FORMAT} {policy!r} {run.rounds} {run.seeds}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = f"{run.environment}-{run.policy}-{run.width}-{digest}".replace(" ", "_")
    path = folder / f"{name}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as archive:
            values: dict[str, Any] = {name: archive[name] for name in archive.files}
        values["seconds"] = float(values["seconds"])
        return nb.BanditResult(**values)
    keys = jax.random.split(jax.random.key(0), run.seeds)
    result = nb.run_bandit(policy, environment, rounds=run.rounds, keys=keys)
    kept = {
        name: value.astype(np.float32) if value.dtype.kind == "f" else value
        for name, value in vars(result).items()
        if isinstance(value, np.ndarray)
    }
    kept["seconds"] = np.asarray(result.seconds)
    np.savez_compressed(path, **kept)
    print(
        f"{run.environment}, {run.policy}, width {run.width}: regret "
        f"{result.regret.mean:.0f} in {result.seconds:.0f} s",
        flush=True,
    )
    return result


def row(run: Run, result: nb.BanditResult) -> dict[str, Any]:
    """What the document says of a run."""
    full = result.to_dict()
    late = full["calibration"][-1]
    return {
        "environment": run.environment,
        "policy": run.policy,
        "width": run.width,
        "rounds": full["rounds"],
        "seeds": full["seeds"],
        "seconds": full["seconds"],
        "regret": full["regret"],
        "largest": float(result.totals.max()),
        "exponent": full["exponent"],
        "largest exponent": _largest(result.exponents),
        "last_quarter": full["last_quarter"],
        "curve": full["curve"][:: max(len(full["curve"]) // 40, 1)],
        "coverage_90": late["coverage_90"],
        "square": late["square"],
        "calibration": full["calibration"],
    }


def _largest(values: np.ndarray) -> float | None:
    live = values[np.isfinite(values)]
    return float(live.max()) if live.size else None


def claims(runs: list[Run], done: list[nb.BanditResult]) -> list[dict[str, Any]]:
    """Claims 15 to 17 for each environment and width, for both coefficients."""
    by = {
        (run.environment, run.width, run.policy): result
        for run, result in zip(runs, done, strict=True)
    }
    found = []
    for environment, width in dict.fromkeys(key[:2] for key in by):
        for theory in ("theory", "theory's limit"):
            decided = nb.bandit_claims(
                by[environment, width, "evidence"],
                theory=by[environment, width, theory],
                greedy=by[environment, width, "greedy"],
                uniform=by[environment, width, "random"],
                note=f"{environment}, width {width}",
            )
            found += [
                {
                    "environment": environment,
                    "width": width,
                    "theory": theory,
                    **claim.to_dict(),
                }
                for claim in decided
                # claim 16 has no theory in it
                if claim.number != 16 or theory == "theory"
            ]
    return found


def _table_runs(size: Size) -> Iterator[Run]:
    neural = nb.NeuralRewards()
    linear = nb.NeuralRewards(nb.Perceptron(depth=0))
    # the published settings, (lambda, nu) with variance lambda nu sum g^2 / U
    published = nb.Diagonal(relinearize=False)
    ucb = nb.Constant((1e-5 * 1e-5) ** 0.5, 1e-5)
    ts = nb.Constant((1e-3 * 1.0) ** 0.5, 1e-3)
    policies = {
        "UCB, evidence": nb.UCB(neural),
        "greedy": nb.Greedy(neural),
        "Thompson, evidence": nb.Thompson(neural),
        "NeuralUCB, published": nb.UCB(
            nb.NeuralRewards(covariance=published, coefficient=ucb)
        ),
        "NeuralTS, published": nb.Thompson(
            nb.NeuralRewards(covariance=published, coefficient=ts)
        ),
        "linear UCB, evidence": nb.UCB(linear),
        "linear Thompson, evidence": nb.Thompson(linear),
        "random": nb.Uniform(),
    }
    others = ("UCB, evidence", "greedy", "NeuralUCB, published", "random")
    for policy, rule in policies.items():
        names = ("shuttle", "mushroom", "adult")
        if policy in others:
            names += ("covertype",)
        for name in names:
            rounds = min(size.table_rounds, 8124) if name == "mushroom" else None
            yield Run(
                name,
                policy,
                100,
                lambda name=name, rule=rule: (rule, nb.table(name)),
                rounds or size.table_rounds,
                size.table_seeds,
            )


def _covariance_runs(size: Size) -> Iterator[Run]:
    covariances = {
        "full": nb.Full(),
        "low rank 50": nb.LowRank(50),
        "Kronecker": nb.Kronecker(),
        "diagonal": nb.Diagonal(),
        "last layer": nb.LastLayer(),
    }
    for environment, make in {
        "shuttle": lambda: nb.table("shuttle"),
        "wheel 0.95": lambda: nb.Wheel(0.95),
    }.items():
        for name, covariance in covariances.items():
            rule = nb.UCB(nb.NeuralRewards(nb.Perceptron(10), covariance))
            yield Run(
                environment,
                name,
                10,
                lambda rule=rule, make=make: (rule, make()),
                size.covariance_rounds,
                _seeds(environment, size.covariance_seeds),
            )


#: lambda, and steps of each of the study's trainings.
RATIO, STEPS = 1.0, 300
#: Units up to which there are fewer weights than rounds.
FEW = 20


def study_policies(environment: str, width: int) -> dict[str, nb.AbstractPolicy]:
    """The policies of the study, over one model."""
    # all weights either way: the smaller matrix
    few = width <= FEW and environment != "sparse mushroom"
    covariance = nb.Full() if few else nb.FunctionSpace()

    def model(coefficient: nb.AbstractCoefficient) -> nb.NeuralRewards:
        network = nb.Perceptron(
            width, parametrization=nq.models.NTK(bias_std=1.0), disjoint=True
        )
        training = nb.Adam(1e-2, STEPS, 128, decay=RATIO)
        return nb.NeuralRewards(
            network, covariance, coefficient, nb.Every(50), training
        )

    plain = nb.Constant(0.0, RATIO)
    return {
        "random": nb.Uniform(),
        "greedy": nb.Greedy(model(plain)),
        "fixed 0.1": nb.UCB(model(nb.Constant(0.1, RATIO))),
        "fixed 1": nb.UCB(model(nb.Constant(1.0, RATIO))),
        "evidence": nb.UCB(model(nb.Evidence(RATIO))),
        "theory": nb.UCB(model(nb.Theoretical(ratio=RATIO))),
        "theory's limit": nb.UCB(model(nb.InfiniteWidth(ratio=RATIO))),
    }


#: Where all widths are compared.
WIDE = "square"
ENVIRONMENTS: dict[str, Callable[[], nb.AbstractEnvironment]] = {
    "square": lambda: nb.Synthetic(nb.Square()),
    "quadratic": lambda: nb.Synthetic(nb.Quadratic()),
    "cosine": lambda: nb.Synthetic(nb.Cosine()),
    "wheel 0.9": lambda: nb.Wheel(0.9),
    "sparse mushroom": lambda: sparse("mushroom"),
}


def sparse(name: str, share: float = 0.1) -> nb.Rows:
    """A table where the right arm of one row in ten pays."""
    world = nb.table(name)
    labels = np.asarray(world.rewards).argmax(axis=1)
    return nb.classification(np.asarray(world.contexts), labels, sparse=share)


def _study_runs(size: Size) -> Iterator[Run]:
    for environment, make in ENVIRONMENTS.items():
        # the others are as wide as the pilot was
        for width in size.widths if environment == WIDE else size.widths[:1]:
            for policy, rule in study_policies(environment, width).items():
                yield Run(
                    environment,
                    policy,
                    width,
                    lambda rule=rule, make=make: (rule, make()),
                    size.study_rounds,
                    _seeds(environment, size.study_seeds),
                )


PARTS = {
    "tables": _table_runs,
    "covariances": _covariance_runs,
    "study": _study_runs,
}


def load(path: Path) -> dict[str, Any]:
    """A document written before, empty where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}
