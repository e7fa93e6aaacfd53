"""How each contestant is timed and reports: one file for all, NumPy only.

A contestant is a program with the arguments of `arguments`. It builds its own network
and data from the shared arrays (not timed), does the work once to warm up and then
`--repeat` times, and writes the arrays it found and a record of seconds and memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np


#: A first run that takes longer than this, in seconds, is not repeated; it then counts.
PATIENCE = 45.0


class Laps:
    """Seconds of the named parts of one run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str):
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", required=True)
    parser.add_argument("--variant", default="")
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays; a file that is there is whole."""
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)  # pyright: ignore[reportArgumentType]
    part.replace(path)


def run(
    given: argparse.Namespace,
    work: Callable[[Laps], dict[str, np.ndarray]],
    versions: dict[str, str],
    threads: int,
) -> None:
    """Time `work` and write what it found.

    `work` does everything that is timed, waits until it is done, and gives arrays.
    """
    runs: list[dict[str, float]] = []
    for number in range(given.repeat + 1):
        laps = Laps()
        with laps("total"):
            arrays = work(laps)
        runs.append(laps.seconds)
        if number == 0 and laps.seconds["total"] > PATIENCE:
            break
    first, *rest = runs
    record = {
        "first": first,
        "runs": rest or [first],
        "warm": bool(rest),
        "peak_bytes": peak_bytes(),
        "threads": threads,
        "versions": {"python": platform.python_version(), **versions},
    }
    store(given.out.with_suffix(".npz"), arrays)
    given.out.with_suffix(".json").write_text(json.dumps(record))


def repeated[T](times: int, work: Callable[[], T]) -> T:
    """The last of several results: `times` products are timed together."""
    found = work()
    for _ in range(times - 1):
        found = work()
    return found


def peak_bytes() -> int:
    """Largest resident memory of this process.

    Linux keeps it with the address space: `ru_maxrss` survives exec and would count
    the memory of the parent.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if platform.system() == "Darwin" else 1024 * size
