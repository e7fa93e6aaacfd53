"""The conditions of fast natural gradient against width, beside what happened."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.optimization.figures import FIGURES, written
from experiments.optimization.probes import Effort, measure
from experiments.optimization.problems import (
    DATA,
    FAMILIES,
    PARAMETRIZATIONS,
    limit,
    task,
)
from experiments.optimization.summary import claims, groups, markdown
from experiments.record import save


#: Changes where a unit would be computed in another way.
VERSION = 2


#: Of C′ as the width grows. Where features learn in the limit the Jacobian keeps
#: moving, and none is known.
LIMIT_OF_CONSTANT = {"standard": 0.0, "ntk": 0.0, "mup": None}


class Size(NamedTuple):
    """How large the study is.

    widths: by network. data: by name. points: N of all kernels. pool: side of the
    squares that pixels are means of. dense, images: the effort for networks of vectors
    and of images. seeds: initializations.
    """

    widths: dict[str, tuple[int, ...]]
    data: tuple[str, ...]
    points: int
    pool: int
    dense: Effort
    images: Effort
    seeds: int


SIZES = {
    "smoke": Size(
        {"shallow": (8,)},
        ("toy",),
        8,
        4,
        Effort(2, 12, 5, 20),
        Effort(2, 12, 5, 20),
        2,
    ),
    "cpu": Size(
        {
            "shallow": (16, 64, 256, 1024),
            "deep": (16, 64, 256),
            "cnn": (4, 16),
            "resnet": (4, 8),
        },
        DATA,
        32,
        4,
        Effort(5, 12, 50, 1000),
        Effort(5, 12, 30, 60),
        3,
    ),
    "gpu": Size(
        {
            "shallow": (16, 64, 256, 1024, 4096),
            "deep": (16, 64, 256, 1024),
            "cnn": (8, 32, 128),
            "resnet": (8, 32, 128),
        },
        DATA,
        64,
        2,
        Effort(5, 12, 200, 5000),
        Effort(5, 12, 200, 2000),
        3,
    ),
}


class Unit(NamedTuple):
    """A network of the study, or with `seed` None its limit."""

    network: str
    data: str
    parametrization: str
    width: int
    seed: int | None


@dataclasses.dataclass(frozen=True)
class ConditionsStudy:
    """λ_min and C′ against width, beside measured loss curves: tables and figures."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """How much: a minute, a quarter of an hour on two cores, or for a GPU."""
    out: Path = Path("runs/experiments/conditions")
    """Directory of the document, the figures, and what is finished already."""
    workers: int = 2
    """Processes; most of the time programs are compiled, on one core each."""

    def execute(self) -> None:
        """Measure what is not stored yet, print the tables, draw the figures."""
        size, begin = SIZES[self.size], time.perf_counter()
        if self.workers > 1:
            self.spread(size)
        rows, limits = [], []
        for unit in units(size):
            row = self.stored(unit, size)
            (limits if unit.seed is None else rows).append(row)
        seconds = time.perf_counter() - begin
        found = {
            "size": self.size,
            "settings": size._asdict(),
            "seconds": seconds,
            "limits": limits,
            "limit of C′": LIMIT_OF_CONSTANT,
            "rows": rows,
            "claims": claims(rows),
        }
        print(markdown(rows, limits))
        path = save(self.out / "conditions.json", "conditions", found)
        for name, draw in FIGURES.items():
            written(draw(groups(rows), limits), self.out, name)
        print(f"\n{seconds:.0f} s, written {path} and {len(FIGURES)} figures beside it")

    def spread(self, size: Size) -> None:
        """Finish all units in several processes; those of one program stay together."""
        parts: dict[tuple[str, int, str], list[Unit]] = {}
        for unit in units(size):
            shape = "grey" if unit.data in ("mnist", "fashion_mnist") else unit.data
            parts.setdefault((unit.network, unit.width, shape), []).append(unit)
        # the long ones first, so that no process waits for the other at the end
        order = sorted(parts.values(), key=lambda some: _images(some[0].network))[::-1]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, spawn) as pool:
            for _ in pool.map(functools.partial(self.finish, size=size), order):
                pass

    def finish(self, some: list[Unit], size: Size) -> None:
        """Store units."""
        for unit in some:
            self.stored(unit, size)

    def stored(self, unit: Unit, size: Size) -> dict[str, Any]:
        """What was found for a unit, from its file where there is one."""
        settings = [VERSION, unit, size.points, size.pool, _effort(unit, size)]
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        seed = "limit" if unit.seed is None else unit.seed
        name = "-".join(map(str, (*unit[:4], seed, digest)))
        path = self.out / "units" / f"{name}.json"
        if not path.exists():
            start = time.perf_counter()
            row = one(unit, size)
            seconds = time.perf_counter() - start
            print(f"{name}: {seconds:.1f} s", flush=True)
            row = unit._asdict() | row | {"seconds": seconds}
            save(path, "conditions", {"row": row})
        return json.loads(path.read_text(encoding="utf-8"))["row"]


def units(size: Size) -> Iterator[Unit]:
    """All networks, those of one program one after the other."""
    for network, widths in size.widths.items():
        names = [name for name in size.data if name != "toy" or not _images(network)]
        for width, name in itertools.product(widths, names):
            for parametrization in PARAMETRIZATIONS:
                for seed in (None, *range(size.seeds)):
                    yield Unit(network, name, parametrization, width, seed)


def one(unit: Unit, size: Size) -> dict[str, Any]:
    """Measure one network, or the smallest eigenvalue of its limit."""
    images = _images(unit.network)
    data = task(unit.data, size.points, size.pool, images=images)
    if unit.seed is None:
        with jax.enable_x64(True):
            kernel = limit(
                unit.network, jnp.asarray(data.x), unit.width, unit.parametrization
            )
        values = np.linalg.eigvalsh(kernel)
        return {"least": float(values[0]), "most": float(values[-1])}
    return measure(
        unit.network,
        data,
        unit.width,
        unit.parametrization,
        unit.seed,
        _effort(unit, size),
    )


def _images(network: str) -> bool:
    return FAMILIES[network].images


def _effort(unit: Unit, size: Size) -> Effort:
    return size.images if _images(unit.network) else size.dense
