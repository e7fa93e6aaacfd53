"""`python -m experiments race`: all tasks, each contestant in its own process."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ntkuq as nq
from experiments.race import inputs
from experiments.race.table import errors, markdown
from experiments.race.tasks import NAMES, TASKS


PEERS = Path(__file__).parent / "peers"
#: Words in the output of a contestant that end up in its record.
TAIL = 400


@dataclasses.dataclass(frozen=True)
class Race:
    """ntkuq against its peers on the same weights and data: time, memory, errors.

    Results are merged into the document that `out` names, so that contestants can run
    at different times; each keeps its own date, load and versions.
    """

    tasks: tuple[str, ...] = ()
    """Tasks to run, by name; all where none is named."""
    only: tuple[str, ...] = ()
    """Contestants to run (ntkuq, laplace_torch, …); all where none is named."""
    torch_python: Path | None = None
    """A Python with laplace-torch and curvlinops; without it they do not run."""
    nt_python: Path | None = None
    """A Python with neural-tangents; without it that one does not run."""
    repeat: int = 3
    """Warm runs; a first run of more than 45 s is not repeated."""
    limit: float = 900.0
    """Seconds after which a contestant is stopped."""
    quick: bool = False
    """Small sizes and data of the package, to see that everything runs."""
    work: Path = Path("runs/race")
    """Folder of the shared arrays and of what each process wrote."""
    out: Path = Path("runs/race.json")
    """The document."""

    def __post_init__(self) -> None:
        for given, known in ((self.tasks, TASKS), (self.only, NAMES)):
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise ValueError(
                    f"expected names among {', '.join(known)}; got {', '.join(unknown)}"
                )

    def execute(self) -> None:
        """Run, merge, print the table."""
        folder = self.work / ("quick" if self.quick else "full")
        chosen = [name for name in self.tasks or TASKS if TASKS[name].run is None]
        problems = {TASKS[name].problem for name in chosen}
        inputs.write(folder, problems, quick=self.quick)
        for problem in sorted(problems):
            self.reference(folder, problem)
        for name in chosen:
            for script, variant in self.entries(name):
                record = self.one(folder, name, script, variant)
                self.merge(name, script, variant, record)
                print(shown(name, script, variant, record), flush=True)
        document = json.loads(self.out.read_text())
        print()
        print(markdown(document["results"]))
        print(f"\nwritten {self.out}")

    def entries(self, name: str) -> Iterator[tuple[str, str]]:
        """Who runs a task, ntkuq first."""
        for script, variant in (("ntkuq", ""), *TASKS[name].peers):
            if not self.only or script in self.only:
                yield script, variant

    def reference(self, folder: Path, problem: str) -> None:
        """The truth of a problem, computed once."""
        out = folder / f"reference-{problem}.npz"
        if out.exists():
            return
        print(f"reference of {problem} …", flush=True)
        command = [sys.executable, "-m", "experiments.race.reference"]
        command += ["--problem", problem, "--inputs", f"{folder / problem}.npz"]
        subprocess.run([*command, "--out", str(out)], check=True, env=environment())  # noqa: S603

    def one(self, folder: Path, name: str, script: str, variant: str) -> dict[str, Any]:
        """Run one contestant on one task; its record, or why there is none."""
        problem = TASKS[name].problem
        command = self.command(script)
        if command is None:
            return {"skipped": "its Python was not given"}
        out = folder / f"{name}-{script}-{variant or 'only'}"
        for suffix in (".npz", ".json"):
            out.with_name(out.name + suffix).unlink(missing_ok=True)
        command += ["--task", name, "--variant", variant, "--out", f"{out}.npz"]
        command += ["--inputs", f"{folder / problem}.npz"]
        command += ["--repeat", str(self.repeat)]
        context = {
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "load_average": os.getloadavg()[0],
            "machine": machine(),
            "quick": self.quick,
        }
        try:
            done = subprocess.run(  # noqa: S603
                command,
                capture_output=True,
                text=True,
                timeout=self.limit,
                env=environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {**context, "failed": f"stopped after {self.limit:.0f} s"}
        if done.returncode:
            # a negative code is a signal: out of memory, most often
            said = done.stderr.strip()[-TAIL:]
            return {**context, "failed": f"exit code {done.returncode}: {said}"}
        record = json.loads(Path(f"{out}.json").read_text())
        with np.load(f"{out}.npz", allow_pickle=False) as archive:
            arrays = dict(archive)
        truth = folder / f"reference-{problem}.npz"
        return {**context, **record, "errors": errors(arrays, name, truth)}

    def command(self, script: str) -> list[str] | None:
        """How a contestant is started; `None` where its Python is not known."""
        if script == "ntkuq":
            return [sys.executable, "-m", "experiments.race.ntkuq_tasks"]
        tangents = script == "neural_tangents_ntk"
        python = self.nt_python if tangents else self.torch_python
        return None if python is None else [str(python), str(PEERS / f"{script}.py")]

    def merge(
        self, name: str, script: str, variant: str, record: dict[str, Any]
    ) -> None:
        """Put a record into the document; one that was skipped replaces nothing."""
        document: dict[str, Any] = {"experiment": "race", "results": {}}
        if self.out.exists():
            document = json.loads(self.out.read_text())
        who = f"{script}/{variant}" if variant else script
        records = document["results"].setdefault(name, {})
        if "skipped" not in record or who not in records:
            records[who] = record
        self.out.parent.mkdir(parents=True, exist_ok=True)
        nq.data.write_json(self.out, document)


def environment() -> dict[str, str]:
    """The same for all: the CPU, and no variable of another Python."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}


def machine() -> dict[str, Any]:
    """The processor and how many cores this process may use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"processor": model, "cores": len(os.sched_getaffinity(0))}


def shown(name: str, script: str, variant: str, record: dict[str, Any]) -> str:
    """One line a run."""
    who = f"{NAMES[script]} {variant}".strip()
    for word in ("skipped", "failed"):
        if word in record:
            return f"{name:14} {who:38} {word}: {record[word]}"
    best = min(run["total"] for run in record["runs"])
    peak = record["peak_bytes"] / 1e9
    worst = max(record["errors"].values(), default=float("nan"))
    return f"{name:14} {who:38} {best:9.4f} s {peak:6.2f} GB  error {worst:.1e}"
