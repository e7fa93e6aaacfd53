"""An optimizer that remembers the parameters after so many updates."""

from __future__ import annotations

import dataclasses
import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ntkuq.models import Train
from ntkuq.models.train.jobs import AbstractRecord, record_of


class Early(AbstractRecord):
    """The state of an optimizer, updates so far, and the parameters early on."""

    optimizer: PyTree
    seen: Int[Array, ""]
    parameters: PyTree

    def note(self) -> str | None:
        inner = record_of(self.optimizer)
        return None if inner is None else inner.note()


class Remembering(eqx.Module):
    """An optimizer, unchanged, beside a copy of the parameters after update `at`."""

    optimizer: Any
    at: int = eqx.field(static=True)

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """As an optax transformation, whose state is an `Early`."""
        made: Any = self
        return optax.GradientTransformationExtraArgs(made.init, made.update)

    def init(self, parameters: PyTree) -> Early:
        """The first state."""
        return Early(
            self.optimizer.init(parameters), jnp.zeros((), jnp.int32), parameters
        )

    def update(
        self, gradient: PyTree, state: Early, params: PyTree, /, **extra: Any
    ) -> tuple[PyTree, Early]:
        """What the optimizer adds to the parameters, and the next state."""
        optimizer = optax.with_extra_args_support(self.optimizer)
        steps, inner = optimizer.update(gradient, state.optimizer, params, **extra)
        seen = state.seen + 1
        now = optax.apply_updates(params, steps)
        # after the update asked for the copy stays as it is
        kept = jax.tree.map(
            lambda new, old: jnp.where(seen <= self.at, new, old), now, state.parameters
        )
        return steps, Early(inner, seen, kept)


def remembering(train: Train, size: int, share: float) -> Train:
    """The same training, whose `Trained.record` has the parameters early on.

    Args:
        train: any training.
        size: the number of examples.
        share: of the planned updates after which the parameters are kept.
    """
    steps = train.updates(size)
    optimizer = train.optimizer
    if isinstance(optimizer, float | int):
        optimizer = _adam(float(optimizer), steps)
    kept = Remembering(optimizer, max(round(share * steps), 1))
    return dataclasses.replace(train, optimizer=kept.transformation())


@ft.lru_cache(maxsize=32)
def _adam(rate: float, steps: int) -> optax.GradientTransformation:
    """As `Train` makes it from a number; the same object, so that programs are kept."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))
