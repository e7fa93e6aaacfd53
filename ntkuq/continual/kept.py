"""Finished tasks of each seed in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from ntkuq.continual.learned import Learned
from ntkuq.continual.strategies.base import AbstractStrategy
from ntkuq.continual.streams import Stream
from ntkuq.data import Store, digest
from ntkuq.models import BNN, identity
from ntkuq.posteriors import load, save


class Kept(NamedTuple):
    """Finished tasks of each seed in a directory: numbers and states."""

    store: Store

    @staticmethod
    def open(
        out: str | Path | None,
        strategy: AbstractStrategy,
        bnn: BNN,
        tasks: Stream,
        *,
        key: Array,
    ) -> Kept | None:
        """The directory of this run; `None` without one."""
        if out is None:
            return None
        described = {
            "strategy": identity(strategy),
            "problem": identity(bnn),
            "tasks": list(tasks.names),
            "setting": tasks.setting,
            "key": np.ravel(jax.random.key_data(key)).tolist(),
        }
        store = Store.open(out, digest(described), described)
        (store.directory / "states").mkdir(exist_ok=True)
        return Kept(store)

    def read(self, seed: int, task: int, chain: str) -> dict[str, Any] | None:
        """The numbers of a finished task, on the same data; `None` without."""
        found = self.store.read(f"seed-{seed}-task-{task}")
        if (
            found is None
            or found["data"] != chain
            or not self._file(seed, task).exists()
        ):
            return None
        return found

    def state(self, seed: int, task: int, bnn: BNN) -> Learned:
        """The state after a finished task."""
        found = load(self._file(seed, task), bnn)
        if not isinstance(found, Learned):
            raise TypeError(f"expected the state of a run, got {type(found).__name__}")
        return found

    def write(
        self, seed: int, task: int, chain: str, state: Learned, record: dict
    ) -> None:
        """The state, then the numbers: a unit counts once both are there.

        Of the states only the last is needed, and the one before it until then.
        """
        save(self._file(seed, task), state)
        self.store.write(f"seed-{seed}-task-{task}", {**record, "data": chain})
        if task > 0:
            # an empty file says that it was here
            self._file(seed, task - 1).write_bytes(b"")

    def _file(self, seed: int, task: int) -> Path:
        return self.store.directory / "states" / f"seed-{seed}-task-{task}.ntkuq"
