"""Several seeds of a loop on one machine."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.decisions.bandits.environments import AbstractEnvironment
from ntkuq.decisions.bandits.loop import LoopState, advance, begin_all
from ntkuq.decisions.bandits.model import NeuralRewards
from ntkuq.models.train.plans import AbstractPlan, Threads, Vectorized, in_threads


class Seeds:
    """States of the seeds, a group for each program, leading axis the group's seeds.

    Args:
        plan: `Threads` or `Vectorized`.
        count: seeds.
    """

    def __init__(self, plan: AbstractPlan, count: int):
        chunk = plan.chunk if isinstance(plan, Vectorized) else 1
        self.size = min(chunk or count, count)
        self.workers = plan.workers if isinstance(plan, Threads) else 1
        self.compiled: set[tuple[bool, int]] = set()

    def begin(
        self,
        model: NeuralRewards,
        environment: AbstractEnvironment,
        rounds: int,
        keys: Array,
    ) -> list[LoopState]:
        """All states before the first round."""
        return [
            begin_all(model, environment, rounds, keys[first : first + self.size])
            for first in range(0, keys.shape[0], self.size)
        ]

    def advance(
        self, fixed: Any, states: list[LoopState], done: int, stop: int
    ) -> list[LoopState]:
        """Every state in round `stop`; `fixed` is that of `loop.advance`."""
        what = (fixed[2], self.size)

        def task(number, gate):
            if what in self.compiled:
                gate.ready.set()
            # arrays of this call alone, as it donates them
            start, end = jnp.asarray(done), jnp.asarray(stop)
            return jax.block_until_ready(advance(fixed, states[number], start, end))

        found = in_threads(task, len(states), self.workers)
        self.compiled.add(what)
        return found


def gathered(states: list[LoopState], name: str) -> np.ndarray:
    """One buffer of all seeds, (S, …)."""
    return np.concatenate([np.asarray(getattr(state, name)) for state in states])
