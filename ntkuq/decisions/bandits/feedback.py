"""When a reward becomes known."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int


class AbstractFeedback(eqx.Module):
    """How many rounds are known, in the order in which they were played."""

    @abc.abstractmethod
    def known(self, played: Int[Array, ""]) -> Int[Array, ""]:
        """The number of rounds whose reward is known after so many were played."""


class Immediate(AbstractFeedback):
    """Each reward at once."""

    def known(self, played):
        return played


class Delayed(AbstractFeedback):
    """Each reward some rounds later.

    >>> Delayed(3).known(jnp.asarray(5)).item()
    2
    """

    rounds: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if self.rounds < 0:
            raise ValueError(f"rounds: expected 0 or more, got {self.rounds}")

    def known(self, played):
        return jnp.maximum(played - self.rounds, 0)


class Batched(AbstractFeedback):
    """All rewards of a batch when its last round was played.

    >>> Batched(4).known(jnp.asarray(7)).item()
    4
    """

    rounds: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        if self.rounds < 1:
            raise ValueError(f"rounds: expected 1 or more, got {self.rounds}")

    def known(self, played):
        return played // self.rounds * self.rounds
