"""How several trainings share the machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax


class AbstractPlan(eqx.Module):
    """How several trainings share the machine."""


class Threads(AbstractPlan):
    """One training after the other, in a few threads that share one compiled program.

    On a CPU, the matrices of a small network are too small for several cores, and
    mapping over networks makes the products slower, not faster. A training gives the
    same result alone and beside others, bit for bit.

    Args:
        workers: trainings at a time; `None` for the number of cores.
    """

    workers: int | None = None

    def __check_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"Threads: expected workers >= 1, got {self.workers}")


class Vectorized(AbstractPlan):
    """All trainings in one program, mapped over the networks.

    For accelerators. Where there are several devices, the networks are divided among
    them. Results differ from those of single trainings by rounding.

    Args:
        chunk: trainings at a time; `None` for as many as fit into the memory.
    """

    chunk: int | None = None

    def __check_init__(self):
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"Vectorized: expected chunk >= 1, got {self.chunk}")


def default_plan() -> AbstractPlan:
    """`Threads` on one CPU device, `Vectorized` elsewhere."""
    one_cpu = jax.default_backend() == "cpu" and len(jax.devices()) == 1
    return Threads() if one_cpu else Vectorized()


class Stopped(Exception):
    """Another thread failed; this one ends between two programs."""


class Gate:
    """Lets threads begin once the first has compiled what they share."""

    def __init__(self):
        self.ready, self.failed = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    def check(self) -> None:
        """Raise `Stopped` where another thread has failed."""
        if self.failed.is_set():
            raise Stopped


def in_threads[T](
    task: Callable[[int, Gate], T], count: int, workers: int | None
) -> list[T]:
    """`task(number, gate)` of each number, in threads; the first error is raised.

    The first task opens `gate.ready` once the programs are compiled.
    """
    gate = Gate()
    size = min(count, workers or cores())
    if size == 1:
        gate.ready.set()
        return [task(number, gate) for number in range(count)]
    settings = _settings()

    def run(number: int) -> T:
        with settings():
            try:
                if number:
                    gate.ready.wait()
                gate.check()
                return task(number, gate)
            except BaseException:
                gate.failed.set()
                raise
            finally:
                gate.ready.set()

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, number) for number in range(count)]
        try:
            errors = [future.exception() for future in futures]
        except BaseException:
            # an interruption of the thread that waits
            gate.failed.set()
            raise
    for error in errors:
        if error is not None and not isinstance(error, Stopped):
            raise error
    return [future.result() for future in futures]


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _settings() -> Callable[[], Any]:
    """JAX's settings of this thread, for another thread."""
    import contextlib

    x64 = bool(jax.config.jax_enable_x64)
    promotion = jax.config.jax_numpy_dtype_promotion
    device = jax.config.jax_default_device

    @contextlib.contextmanager
    def settings() -> Iterator[None]:
        with (
            jax.enable_x64(x64),
            jax.numpy_dtype_promotion(promotion),
            jax.default_device(device),
        ):
            yield

    return settings
