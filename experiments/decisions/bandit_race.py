"""`python -m experiments bandit-race`: NeuralUCB by ntkuq and by plain PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.race.run import environment, machine
from experiments.record import save
from ntkuq.decisions import bandits as nb


class Task(NamedTuple):
    """A run of NeuralUCB on mushroom, and how many times faster it is to be."""

    what: str
    width: int
    covariance: nb.AbstractCovariance
    peer: str
    reach: float

    @property
    def model(self) -> nb.NeuralRewards:
        """The network with schedule and training."""
        return nb.NeuralRewards(
            nb.Perceptron(self.width),
            self.covariance,
            nb.Constant(GAMMA, RATIO),
            nb.Every(INTERVAL),
            nb.Adam(RATE, STEPS, BATCH, decay=0.0),
        )


TASKS = {
    "diagonal": Task(
        "width 100, diagonal covariance",
        100,
        nb.Diagonal(relinearize=False),
        "diagonal",
        3.0,
    ),
    "full": Task(
        "width 10, covariance of all weights", 10, nb.FunctionSpace(), "full", 8.0
    ),
}
#: The same in both: rounds between trainings, and each training.
INTERVAL, STEPS, BATCH, RATE = 100, 50, 64, 3e-3
GAMMA, RATIO = 0.1, 1.0


@dataclasses.dataclass(frozen=True)
class BanditRace:
    """NeuralUCB on mushroom by ntkuq, one seed and ten, beside a PyTorch loop."""

    torch_python: Path | None = None
    """A Python with PyTorch; without it only ntkuq runs."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Which of diagonal, full."""
    rounds: int = 2000
    """Rounds of each seed."""
    seeds: int = 10
    """Seeds that run together, timed beside one."""
    repeat: int = 3
    """Runs of each; the fastest counts. Ours are compiled before."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document."""

    def execute(self) -> None:
        """Run everything, print the table, write the document."""
        self.out.mkdir(parents=True, exist_ok=True)
        rows = [self.row(name) for name in self.tasks]
        print(f"\n{markdown(rows)}")
        content = {
            "machine": machine(),
            "load": os.getloadavg()[0],
            "rounds": self.rounds,
            "rows": rows,
        }
        path = save(self.out / "bandit-race.json", "bandit-race", content)
        print(f"\nwritten {path}")

    def row(self, name: str) -> dict[str, Any]:
        """Seconds and regret of both, in turn."""
        task, world = TASKS[name], nb.table("mushroom")
        # processor time of one core: what else runs here does not count
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=to_one_core) as pool:
            ours = pool.submit(alone, name, self.rounds, self.repeat).result()
        peer = self.peer(task, world)
        # several seeds use all cores, so here the time on the wall counts
        policy, clock = nb.UCB(task.model), time.perf_counter
        one = timed(policy, world, self.rounds, self.repeat, 1, clock)
        many = timed(policy, world, self.rounds, self.repeat, self.seeds, clock)
        best = {
            "ntkuq": min(ours["seconds"]),
            "one": min(one["seconds"]),
            "seeds": min(many["seconds"]),
        }
        row = {
            "task": name,
            "what": task.what,
            "ntkuq": ours,
            "ntkuq on all cores": one,
            "ntkuq seeds": many | {"count": self.seeds},
            "torch": peer,
            "seeds over one": best["seeds"] / best["one"],
            "reach": task.reach,
            "ratio": None if peer is None else min(peer["seconds"]) / best["ntkuq"],
        }
        print(f"{task.what}: {best}, torch {peer and peer['seconds']}", flush=True)
        return row

    def peer(self, task: Task, world: Any) -> dict[str, Any] | None:
        """The same of a PyTorch loop."""
        if self.torch_python is None:
            return None
        inputs = self.out / "bandit-race.npz"
        np.savez(
            inputs,
            contexts=np.asarray(world.contexts),
            rewards=np.asarray(world.rewards),
        )
        out = self.out / f"bandit-race-{task.peer}.json"
        script = Path(__file__).parent / "peers" / "torch_bandit.py"
        flags = {
            "covariance": task.peer,
            "width": task.width,
            "rounds": self.rounds,
            "interval": INTERVAL,
            "steps": STEPS,
            "batch": BATCH,
            "rate": RATE,
            "gamma": GAMMA,
            "ratio": RATIO,
            "repeat": self.repeat if task.peer == "diagonal" else 1,
            "inputs": inputs,
            "out": out,
        }
        words = [f"--{key}={value}" for key, value in flags.items()]
        command = [str(self.torch_python), str(script), *words]
        with one_core():
            subprocess.run(command, check=True, env=environment())  # noqa: S603
        return json.loads(out.read_text())


def timed(
    policy: Any,
    world: Any,
    rounds: int,
    repeat: int,
    seeds: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Seconds of `run_bandit`: the first with compilation apart."""
    seconds, regret = [], []
    for number in range(repeat + 1):
        keys = jax.random.split(jax.random.key(number), seeds)
        start = clock()
        result = nb.run_bandit(policy, world, rounds=rounds, keys=keys)
        seconds.append(clock() - start)
        regret.append(result.regret.mean)
    return {"first": seconds[0], "seconds": seconds[1:], "regret": regret}


def to_one_core() -> None:
    """This process on one core, before its device starts threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])


def alone(name: str, rounds: int, repeat: int) -> dict[str, Any]:
    """Processor time of one seed of a task."""
    policy, world = nb.UCB(TASKS[name].model), nb.table("mushroom")
    return timed(policy, world, rounds, repeat, 1, time.process_time)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This thread, and the processes it starts, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a task."""
    heads = ("NeuralUCB on mushroom", "PyTorch, s", "ntkuq, s", "with compilation, s")
    heads += ("PyTorch ÷ ntkuq", "reach", "ten seeds ÷ one", "regret: PyTorch, ntkuq")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        torch = row["torch"]
        cells = [
            row["what"],
            "–" if torch is None else f"{min(torch['seconds']):.3g}",
            f"{min(row['ntkuq']['seconds']):.3g}",
            f"{row['ntkuq']['first']:.3g}",
            "–" if torch is None else f"{row['ratio']:.3g}×",
            f"{row['reach']:g}×",
            f"{row['seeds over one']:.3g}×",
            ("–" if torch is None else f"{np.mean(torch['regret']):.0f}")
            + f", {row['ntkuq seeds']['regret'][-1]:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
