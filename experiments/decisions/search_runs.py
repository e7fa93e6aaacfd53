"""One search of a benchmark, ours or a peer's, from the same starting points."""

from __future__ import annotations

import functools
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float

import ntkuq as nq
from experiments.record import save
from ntkuq.decisions import LogEI
from ntkuq.decisions.search import BayesOpt, Benchmark, Minimize, Retrained


PEER = Path(__file__).parent / "peers" / "botorch_search.py"
#: What BoTorch is told of the noise, by the name of the row.
BOTORCH = {"BoTorch": "inferred", "BoTorch, exact": "exact"}
#: Points without a model: the control.
SOBOL = "Sobol points"


@functools.cache
def surrogates() -> dict[str, Any]:
    """Our methods, the plain GP first; one object each, so that programs are kept."""
    train = nq.Train(optax.adam(1e-2), steps=300)
    return {
        "GP": nq.GP(),
        "NTK-GP": nq.NTKGP(),
        "Laplace": Retrained(nq.MAP(train, rounds=2), nq.Laplace()),
        "ensemble": nq.DeepEnsemble(5, train=train),
    }


def starts(function: Benchmark, seed: int) -> Float[np.ndarray, "n D"]:
    """2 D positions in the unit cube that all searches of a seed begin with."""
    return function.box.spread(2 * function.box.size, key=jax.random.key(seed))


def stored(
    label: str,
    function: Benchmark,
    seeds: Sequence[int],
    budget: int,
    *,
    python: Path | None,
    out: Path,
) -> list[dict[str, Any]]:
    """A search for each seed, read from its file where it is there and long enough.

    A search does not know its budget: a longer one begins as a shorter one does.

    Args:
        label: one of `surrogates()`, `BOTORCH`, or `SOBOL`.
        function: what is minimized.
        seeds: of the starting points and all else.
        budget: evaluations, the first 2 D among them.
        python: one that has BoTorch.
        out: where the files are.

    Returns:
        Records: values `y` in order, what was predicted of each (`mean`, `std`; NaN
        for the first), seconds a round.
    """
    name = f"{function.name}-{label}".replace(", ", "-")
    paths = {seed: out / f"{name}-{seed}.json" for seed in seeds}
    missing = [seed for seed in seeds if len(_read(paths[seed])["y"]) < budget]
    if label in BOTORCH:
        made = _peers(label, function, missing, budget, python)
    else:
        made = (ours(label, function, seed, budget) for seed in missing)
    for run in made if missing else ():
        save(paths[run["seed"]], "search", {"run": run})
    cut = slice(budget)
    return [
        run | {key: run[key][cut] for key in ("y", "mean", "std")}
        for run in (_read(paths[seed]) for seed in seeds)
    ]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["run"] if path.exists() else {"y": []}


def ours(label: str, function: Benchmark, seed: int, budget: int) -> dict[str, Any]:
    """One search with a method of this library, or Sobol points."""
    size = function.box.size
    if label == SOBOL:
        x = function.box.scaled(function.box.spread(budget, key=jax.random.key(seed)))
        none = [float("nan")] * budget
        return _record(seed, function(x).tolist(), none, none, 0.0)
    build = nq.models.mlp(size, 1, width=32, depth=2)
    bnn = nq.BNN(nq.Network(build), nq.Gaussian(0.01), scaling=nq.Standardize())
    search = BayesOpt(surrogates()[label], LogEI(), function.box, direction=Minimize())
    first = function.box.scaled(starts(function, seed))
    state = search.init(
        bnn, nq.Dataset(first, function(first)), key=jax.random.key(seed)
    )
    start = time.perf_counter()
    while len(state.y) < budget:
        x, state = search.ask(state)
        state = search.tell(state, x, function(x))
    seconds = (time.perf_counter() - start) / max(budget - len(first), 1)
    predicted = state.mean.tolist(), state.std.tolist()
    return _record(seed, state.y.tolist(), *predicted, seconds)


def _peers(
    label: str,
    function: Benchmark,
    seeds: Sequence[int],
    budget: int,
    python: Path | None,
) -> Iterator[dict[str, Any]]:
    """Searches of BoTorch, which maximizes; each as soon as it is there."""
    given = {
        "function": function.name,
        "noise": BOTORCH[label],
        "budget": budget,
        "seeds": list(seeds),
        "starts": [starts(function, seed).tolist() for seed in seeds],
    }
    command = [str(python), "-W", "ignore", str(PEER)]
    read, write = subprocess.PIPE, subprocess.PIPE
    with subprocess.Popen(command, stdin=read, stdout=write, text=True) as process:  # noqa: S603 - the user's own Python
        pipes: tuple[Any, Any] = process.stdin, process.stdout
        with pipes[0] as stdin:
            stdin.write(json.dumps(given))
        for line in pipes[1]:
            found = json.loads(line)
            yield _record(
                found["seed"],
                [-value for value in found["y"]],
                [-value for value in found["mean"]],
                found["std"],
                found["seconds_per_round"],
            ) | {"version": found["version"]}
    if process.returncode:
        raise RuntimeError(f"{python}: the searches of BoTorch ended in an error")


def _record(seed, y, mean, std, seconds) -> dict[str, Any]:
    return {
        "seed": seed,
        "y": y,
        "mean": mean,
        "std": std,
        "seconds_per_round": seconds,
    }
