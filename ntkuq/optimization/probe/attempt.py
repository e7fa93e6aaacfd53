"""One step on one batch: its direction, its length, and what it gained."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.models import forward
from ntkuq.optimization.steps.objective import Objective
from ntkuq.optimization.steps.solve import Pull
from ntkuq.optimization.steps.transform import AbstractDirection


#: Halvings of a step that does not lead down, and the share of the linear decrease
#: that it has to reach (Armijo 1966).
HALVINGS, ENOUGH = 30, 1e-4


class Attempt(NamedTuple):
    """A step and what it gained on its batch, in nats an example.

    Args:
        step: raveled leaves; zeros where no multiple of the direction leads down.
        predicted: the decrease by the undamped quadratic model at the length that the
            damped one asks for.
        realized: the decrease of the objective.
        halvings: how often that length was halved before the objective fell.
        finite: was the direction finite?
        state: of what finds the directions.
    """

    step: list[Array]
    predicted: Float[Array, ""]
    realized: Float[Array, ""]
    halvings: Int[Array, ""]
    finite: Array
    state: PyTree


def attempt(
    finder: AbstractDirection,
    objective: Objective,
    damping: Float[Array, ""],
    state: PyTree,
    count: Int[Array, ""],
) -> Attempt:
    r"""Take $-g^\top d / d^\top (G + \lambda I) d$ of a direction d, or less.

    That is the minimizer along d of the damped quadratic model with the exact
    Gauss-Newton matrix G of the batch, the prior in it; it is halved until the
    objective falls by 1e-4 of what the slope promises. The damping $\lambda$ does for
    the length of any direction what it does for that of a Gauss-Newton step.
    """
    leaves, total = objective.leaves, jnp.sum(objective.weight)
    gradient = [g / total for g in jax.grad(objective.value)(leaves)]
    zeros = [jnp.zeros_like(leaf) for leaf in leaves]
    found = finder(objective, gradient, toward(objective, damping), zeros, state, count)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in found.step]))
    # its length is chosen anew; of length 1 it neither overflows nor vanishes
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in found.step))
    size = jnp.where(finite & (size > 0), size, 1.0)
    unit = [jnp.where(finite, leaf / size, 0.0) for leaf in found.step]
    along = objective.along([unit])
    slope, curvature = along.slopes[0] / total, along.curvature[0, 0] / total
    damped = curvature + damping / total
    usable = jnp.isfinite(slope) & jnp.isfinite(curvature) & (damped > 0)
    best = jnp.where(usable, -slope / jnp.where(usable, damped, 1.0), 0.0)
    predicted = jnp.where(usable, -best * (slope + 0.5 * best * curvature), 0.0)
    before = fit(objective, leaves)
    noise = rounding(objective, before)

    def gained(rate: Array) -> Array:
        step = [rate * leaf for leaf in unit]
        return decrease(objective, before, step)

    def unfinished(now: tuple[Array, Array, Array]) -> Array:
        rate, gain, halvings = now
        enough = gain >= -ENOUGH * rate * slope - noise
        return ~enough & (halvings < HALVINGS)

    def halve(now: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rate, _, halvings = now
        return 0.5 * rate, gained(0.5 * rate), halvings + 1

    # the first halving makes the length that the model asks for
    first = 2.0 * best, jnp.full_like(best, -jnp.inf), jnp.full((), -1, jnp.int32)
    rate, gain, halvings = jax.lax.while_loop(unfinished, halve, first)
    # `~` since a gain that is no number is none
    failed = ~(gain >= -noise)
    rate, gain = jnp.where(failed, 0.0, rate), jnp.where(failed, 0.0, gain)
    step = [rate * leaf for leaf in unit]
    return Attempt(step, predicted, gain, halvings, finite, found.state)


def toward(objective: Objective, damping: Float[Array, ""]) -> Pull:
    """Damping towards where it stands, the prior towards its mean."""
    strength, center = [], []
    for leaf, mean, precision in zip(
        objective.leaves, objective.center, objective.precision, strict=True
    ):
        total = damping + precision
        strength.append(total)
        center.append(-precision * (leaf - mean) / jnp.where(total > 0, total, 1.0))
    return Pull(strength, center)


def fit(objective: Objective, leaves: list[Array]) -> Float[Array, " B"]:
    """The log-likelihood of each example at these raveled leaves."""
    shapes = [leaf.shape for leaf in objective.jacobian.leaves]
    shaped = [leaf.reshape(s) for leaf, s in zip(leaves, shapes, strict=True)]
    model = objective.jacobian.replace(shaped)
    f = jax.vmap(lambda a: forward(model, a))(objective.x)
    return jax.vmap(objective.likelihood.log_prob)(f, objective.y)


def decrease(
    objective: Objective, before: Float[Array, " B"], step: list[Array]
) -> Float[Array, ""]:
    """By how much the objective falls by this step, in nats an example.

    The difference is taken example by example, which rounds less than two sums do.

    before: `fit` without the step.
    """
    moved = [leaf + s for leaf, s in zip(objective.leaves, step, strict=True)]
    gain = jnp.dot(fit(objective, moved) - before, objective.weight)
    for leaf, s, center, precision in zip(
        objective.leaves, step, objective.center, objective.precision, strict=True
    ):
        gain = gain - precision * jnp.sum(s * (leaf - center + 0.5 * s))
    return gain / jnp.sum(objective.weight)


def rounding(objective: Objective, before: Float[Array, " B"]) -> Float[Array, ""]:
    """A decrease below this, in nats an example, is rounding."""
    size = jnp.dot(jnp.abs(before), objective.weight) / jnp.sum(objective.weight)
    # the log-likelihood of an example of the outputs' rounding is of order 1 too
    return 4.0 * jnp.finfo(size.dtype).eps * jnp.maximum(size, 1.0)
