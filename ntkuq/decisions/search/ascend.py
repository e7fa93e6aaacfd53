"""Many L-BFGS searches side by side in one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


class Found(NamedTuple):
    """Where each search ended, and the value there."""

    position: Float[Array, "R P"]
    value: Float[Array, " R"]


def minimize(
    function: Callable[[Array], Array],
    starts: Float[Array, "R P"],
    *,
    steps: int,
    tolerance: float = 1e-6,
) -> Found:
    """L-BFGS from R starts; each keeps the best point that it saw.

    Args:
        function: of one position (P,); a value that is not finite counts as infinite.
        starts: where to begin.
        steps: most steps of each.
        tolerance: a search ends where no entry of the gradient is larger.

    >>> found = minimize(lambda p: jnp.sum((p - 2) ** 2), jnp.zeros((1, 3)), steps=9)
    >>> found.value.item()
    0.0
    """
    search = optax.scale_by_zoom_linesearch(
        max_linesearch_steps=10, initial_guess_strategy="one"
    )
    solver = optax.lbfgs(memory_size=8, linesearch=search)

    def safe(p: Array) -> Array:
        value = function(p)
        return jnp.where(jnp.isfinite(value), value, 1e30)

    value_and_grad = optax.value_and_grad_from_state(safe)

    def one(start: Array) -> tuple[Array, Array]:
        def more(carry):
            count, *_, slope, _, _ = carry
            return (count < steps) & (slope > tolerance)

        def step(carry):
            count, p, state, _, best, best_value = carry
            gradient: Any
            value, gradient = value_and_grad(p, state=state)
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            change: Any
            change, state = solver.update(
                gradient, state, p, value=value, grad=gradient, value_fn=safe
            )
            better = value < best_value
            best = jnp.where(better, p, best)
            best_value = jnp.where(better, value, best_value)
            moved = p + jnp.where(jnp.isfinite(change), change, 0.0)
            return count + 1, moved, state, jnp.abs(gradient).max(), best, best_value

        first = jnp.asarray(jnp.inf, start.dtype)
        carry = (0, start, solver.init(start), first, start, first)
        _, p, state, _, best, best_value = jax.lax.while_loop(more, step, carry)
        # the line search knows the value where it stopped: no further copy of the
        # function to compile
        last: Any = optax.tree.get(state, "value")
        better = last < best_value
        return jnp.where(better, p, best), jnp.where(better, last, best_value)

    # Optax counts in two widths of integers where float64 is on
    with jax.numpy_dtype_promotion("standard"):
        return Found(*jax.vmap(one)(starts))
