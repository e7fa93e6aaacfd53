"""`python -m experiments continual-race`: EWC by ntkuq and by a plain PyTorch loop."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import ntkuq as nq
from experiments.continual.published import flat
from experiments.race.run import environment, machine
from experiments.record import save
from ntkuq.continual import EWC, Stream, permuted, run
from ntkuq.linearize import EmpiricalFisher
from ntkuq.models import BNN, Categorical, NormalPrior, Train, mlp
from ntkuq.report import formats


#: The same for both: units of a layer, rows of an update, examples of a Fisher matrix.
WIDTH, BATCH, EXAMPLES, STRENGTH = 256, 128, 2_000, 1_000.0
#: Seeds that are trained together, and how many times longer than one they may take.
SEEDS, OVER_ONE = 5, 4.0
#: How many times faster than the loop one seed has to be.
OVER_LOOP = 2.0


@dataclasses.dataclass(frozen=True)
class ContinualRace:
    """EWC on permuted MNIST, five tasks of one epoch, beside a PyTorch loop."""

    torch_python: Path | None = None
    """A Python with PyTorch; without it only ntkuq runs."""
    repeat: int = 3
    """How often loop, one seed and five seeds take turns; the fastest counts."""
    cores: int | None = None
    """So many cores for both; all unless given. On a busy machine threads that wait for
    each other cost what is not theirs: with one core processor time can be compared."""
    rows: int | None = None
    """Training rows; all unless given."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document."""

    def execute(self) -> None:
        """Take turns, print the table, write the document."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.cores is not None:
            # before JAX starts its threads; the loop inherits it
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.cores])
        data = flat(nq.data.load_images("mnist"), self.rows)
        stream = permuted(data, 5, key=jax.random.key(0))
        inputs = self.out / "continual-race.npz"
        write(inputs, data, stream)
        turns, settings = [], problem()
        first = ours(data, 1, settings)
        print("first, with compilation:", shown(first), flush=True)
        for _ in range(self.repeat):
            turn: dict[str, Any] = {"load": os.getloadavg()[0]}
            if self.torch_python is not None:
                turn["loop"] = self.loop(inputs)
            turn["one"] = ours(data, 1, settings)
            turn["five"] = ours(data, SEEDS, settings)
            turns.append(turn)
            print({name: shown(value) for name, value in turn.items()}, flush=True)
        document = {
            "machine": machine(),
            "rows": len(data.train),
            "first": first,
            "turns": turns,
        }
        path = save(self.out / "continual-race.json", "continual-race", document)
        inputs.unlink()
        print(markdown(document))
        print(f"\nwritten {path}")

    def loop(self, inputs: Path) -> dict[str, Any]:
        """The PyTorch loop in its own Python; its start is not counted."""
        out = self.out / "continual-race-torch.json"
        script = Path(__file__).parent / "peers" / "torch_ewc.py"
        flags = {
            "inputs": inputs,
            "out": out,
            "width": WIDTH,
            "batch": BATCH,
            "examples": EXAMPLES,
            "strength": STRENGTH,
        }
        words = [f"--{key}={value}" for key, value in flags.items()]
        command = [str(self.torch_python), str(script), *words]
        subprocess.run(command, check=True, env=environment())  # noqa: S603
        found = json.loads(out.read_text())
        out.unlink()
        return {**found, "accuracy": float(np.mean(found["accuracy"][-1]))}


def problem() -> tuple[EWC, BNN]:
    """The strategy and the network; the prior hardly pulls: the loop has none."""
    build = mlp(784, 10, width=WIDTH, depth=2, activation=jax.nn.relu)
    strategy = EWC(
        Train(optax.adam(1e-3), epochs=1, batch=BATCH),
        strength=STRENGTH,
        fisher=EmpiricalFisher(),
        examples=EXAMPLES,
    )
    return strategy, BNN(build, Categorical(), NormalPrior(1e-4))


def ours(data: nq.Split, seeds: int, settings: tuple[EWC, BNN]) -> dict[str, Any]:
    """Seconds of a whole run: permuting, training, Fisher matrices, 30 tests a seed."""
    strategy, bnn = settings
    stream = permuted(data, 5, key=jax.random.key(0))
    start, processors = time.perf_counter(), time.process_time()
    found = run(strategy, bnn, stream, seeds=seeds, key=jax.random.key(0))
    return {
        "seconds": time.perf_counter() - start,
        "processor": time.process_time() - processors,
        "accuracy": found.average_accuracy.value,
    }


def write(path: Path, data: nq.Split, stream: Stream) -> None:
    """The images, and where each task takes its pixels from."""
    places = nq.Dataset(np.arange(784, dtype=np.float32)[None], [0])
    split = nq.Split(places, None, places)
    orders = [
        np.asarray(task.train.x[0], np.int64)
        for task in permuted(split, len(stream), key=jax.random.key(0))
    ]
    np.savez(
        path,
        x=np.asarray(data.train.x, np.float32),
        y=np.asarray(data.train.y, np.int64),
        test_x=np.asarray(data.test.x, np.float32),
        test_y=np.asarray(data.test.y, np.int64),
        orders=np.stack(orders),
    )


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """The fastest of each, the first run with its compilation, and the ratios."""
    turns = document["turns"]
    names = [name for name in ("loop", "one", "five") if name in turns[0]]
    found: dict[str, Any] = {
        f"{name} {what}": min(turn[name][what] for turn in turns)
        for name in names
        for what in ("seconds", "processor")
    }
    found |= {f"{name} accuracy": turns[0][name]["accuracy"] for name in names}
    for what in ("seconds", "processor"):
        one = found[f"one {what}"]
        found[f"first {what}"] = document["first"][what]
        found[f"five over one, {what}"] = found[f"five {what}"] / one
        if "loop seconds" in found:
            found[f"loop over one, {what}"] = found[f"loop {what}"] / one
    return found


def markdown(document: dict[str, Any]) -> str:
    """The table of the documentation, from a stored run."""
    found = summary(document)
    heads = ("EWC, 5 tasks x 1 epoch", "wall, s", "processors, s", "accuracy, %")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows = {
        "loop": "PyTorch loop, one seed",
        "one": "ntkuq, one seed",
        "five": "ntkuq, five seeds",
    }
    for name, label in rows.items():
        if f"{name} seconds" in found:
            wall, cpu = (found[f"{name} {w}"] for w in ("seconds", "processor"))
            accuracy = 100 * found[f"{name} accuracy"]
            lines.append(f"| {label} | {wall:.1f} | {cpu:.1f} | {accuracy:.1f} |")
    loads = [turn["load"] for turn in document["turns"]]
    ratios = [
        f"in {words} {_ratios(found, what)}"
        for what, words in (("seconds", "wall time"), ("processor", "processor time"))
    ]
    first, cores = found["first processor"], document["machine"]["cores"]
    said = (
        f"The fastest of {formats.plural(len(loads), 'turn')}; load average "
        f"{min(loads):.1f} to {max(loads):.1f}, "
        f"{formats.plural(cores, 'core')}. The first run, which compiles, takes "
        f"{found['first seconds']:.1f} s ({first:.1f} of processors). "
        f"To be reached are a loop of {OVER_LOOP:g} times one seed and "
        f"five seeds of at most {OVER_ONE:g} times; found are {', '.join(ratios)}."
    )
    lines += ["", said]
    return "\n".join(lines)


def _ratios(found: dict[str, Any], what: str) -> str:
    loop = found.get(f"loop over one, {what}")
    first = "no loop" if loop is None else f"{loop:.2f}"
    return f"{first} and {found[f'five over one, {what}']:.2f}"


def shown(value: Any) -> Any:
    """A turn's numbers in short."""
    if not isinstance(value, dict):
        return round(value, 1)
    return [round(value[name], 3) for name in ("seconds", "processor", "accuracy")]
