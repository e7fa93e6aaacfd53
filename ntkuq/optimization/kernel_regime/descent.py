"""Natural gradient and gradient descent of squared error, full batch, no noise."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize import Jacobian
from ntkuq.models import forward
from ntkuq.optimization.natural import natural_step


#: Squared residuals above so many times the first count as divergence.
LARGEST = 1e6
#: Squared residuals below this share of the first are zero in float64.
ZERO = 1e-20


@eqx.filter_jit
def natural_path(
    jacobian: Jacobian, x: PyTree, y: Float[Array, "N C"], rate: Array, steps: int
) -> tuple[Float[Array, " K"], list[Array]]:
    r"""θ ← θ - η Jᵀ(J Jᵀ)⁻¹(f - y), exactly.

    Where the residual is not finite or has grown a thousandfold, or is zero in float64,
    the iterates stay as they are.

    Args:
        jacobian: where it starts, in float64.
        x, y: inputs and targets.
        rate: η, ().
        steps: K - 1.

    Returns:
        ‖f - y‖² at θ₀, …, and the parameters there, stacked by leaf.
    """

    def one(carry: tuple[list[Array], Array], _: None):
        leaves, start = carry
        now = Jacobian(jacobian.replace(leaves), jacobian.plan, jacobian.subset)
        factors = now.factors(x)
        residual = y - factors.outputs
        square = jnp.sum(residual**2)
        start = jnp.where(start < 0, square, start)
        step = natural_step(factors, residual, 0.0).step
        goes = (square <= LARGEST * start) & (square > ZERO * start)
        moved = [
            # without a product, which would turn NaN and 0 into NaN
            jnp.where(goes, leaf + rate * delta.reshape(leaf.shape), leaf)
            for leaf, delta in zip(leaves, step, strict=True)
        ]
        return (moved, start), (square, leaves)

    start = (jacobian.leaves, -jnp.ones((), y.dtype))
    _, (squares, path) = jax.lax.scan(one, start, None, length=steps + 1)
    return squares, path


def contraction(squares: Float[np.ndarray, " K"]) -> float:
    """(‖r_k‖² / ‖r_0‖²)^(1/k) at the last k that means something.

    That is the first where the residual is zero in float64 or has diverged, else the
    last; `LARGEST` where it is not finite.

    >>> contraction(np.array([1.0, 0.25, 0.0625]))
    0.25
    """
    if squares[0] == 0:
        raise ValueError(
            "the network fits these targets exactly where training begins: there is no "
            "residual to reduce"
        )
    relative = squares / squares[0]
    ended = ~((relative > ZERO) & (relative <= LARGEST))
    k = int(np.argmax(ended)) if ended.any() else len(squares) - 1
    rate = relative[k] ** (1 / k)
    return float(rate) if rate < LARGEST else LARGEST


@eqx.filter_jit
def descent_steps(
    jacobian: Jacobian,
    x: PyTree,
    y: Float[Array, "N C"],
    rate: Array,
    tolerance: Array,
    cap: int,
) -> Float[Array, ""]:
    """Updates θ ← θ - η Jᵀ(f - y) until ‖f - y‖ ≤ tolerance ‖f₀ - y‖.

    Infinite where that takes more than `cap`.
    """
    square = _square(jacobian, x, y)

    def advance(leaves: list[Array]) -> list[Array]:
        slopes = jax.grad(square)(leaves)
        return [a - 0.5 * rate * s for a, s in zip(leaves, slopes, strict=True)]

    return _count(jacobian.leaves, square, advance, tolerance, cap)


@eqx.filter_jit
def natural_steps(
    jacobian: Jacobian,
    x: PyTree,
    y: Float[Array, "N C"],
    rate: Array,
    tolerance: Array,
    cap: int,
) -> Float[Array, ""]:
    """The same count for steps of natural gradient, as `natural_path` takes them."""

    def advance(leaves: list[Array]) -> list[Array]:
        now = Jacobian(jacobian.replace(leaves), jacobian.plan, jacobian.subset)
        factors = now.factors(x)
        step = natural_step(factors, y - factors.outputs, 0.0).step
        return [
            a + rate * delta.reshape(a.shape)
            for a, delta in zip(leaves, step, strict=True)
        ]

    return _count(jacobian.leaves, _square(jacobian, x, y), advance, tolerance, cap)


def _square(
    jacobian: Jacobian, x: PyTree, y: Float[Array, "N C"]
) -> Callable[[list[Array]], Array]:
    """‖f - y‖² as a function of the parameters."""

    def square(leaves: list[Array]) -> Array:
        model = jacobian.replace(leaves)
        return jnp.sum((jax.vmap(lambda a: forward(model, a))(x) - y) ** 2)

    return square


def _count(
    leaves: list[Array],
    square: Callable[[list[Array]], Array],
    advance: Callable[[list[Array]], list[Array]],
    tolerance: Array,
    cap: int,
) -> Float[Array, ""]:
    """Updates until the residual is small enough; infinite beyond `cap`."""
    first = square(leaves)
    goal = tolerance**2 * first

    def goes(state: tuple[list[Array], Array, Array]) -> Array:
        _, now, count = state
        return (now > goal) & (now <= LARGEST * first) & (count < cap)

    def one(state: tuple[list[Array], Array, Array]):
        leaves, _, count = state
        leaves = advance(leaves)
        return leaves, square(leaves), count + 1

    start = (leaves, first, jnp.zeros((), jnp.int64))
    _, last, count = jax.lax.while_loop(goes, one, start)
    return jnp.where(last <= goal, count.astype(first.dtype), jnp.inf)


def lazy_steps(
    values: Float[np.ndarray, " M"],
    weights: Float[np.ndarray, " M"],
    rate: float,
    tolerance: float,
) -> float:
    r"""The least k with $\sum_i (1 - \eta\lambda_i)^{2k} w_i \le t^2 \sum_i w_i$.

    What gradient descent takes where the kernel stays: λ are its eigenvalues, w the
    squared coefficients of the first residual.

    >>> lazy_steps(np.array([1.0, 0.5]), np.ones(2), 1.0, 0.5)
    1.0
    """
    factor = np.abs(1.0 - rate * values)

    def reached(k: float) -> bool:
        return bool(factor ** (2 * k) @ weights <= tolerance**2 * weights.sum())

    high = 1.0
    while not reached(high):
        high *= 2
        if high > 1e18:
            return float("inf")
    low = high / 2 if high > 1 else 0.0
    while high - low > max(1.0, 1e-12 * high):
        middle = np.floor((low + high) / 2)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return float(high)
