"""Loss curves of optimizers on squared error, with the best of some step sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

import ntkuq as nq
from ntkuq.linearize import ExactFisher
from ntkuq.models import forward, parameters
from ntkuq.models.train.lazy import made
from ntkuq.optimization import kfac


#: Share of the first residual at which steps are counted.
GOAL = 1e-3
#: A curve is stored at so many steps, evenly in their logarithm.
STORED = 40


class Problem(NamedTuple):
    """Inputs, targets and extreme eigenvalues of the kernel where training begins."""

    x: Float[Array, "N ..."]
    y: Float[Array, "N C"]
    least: float
    most: float


class Curve(NamedTuple):
    """‖f - y‖² / ‖f₀ - y‖² after each step, the step size, where it ended."""

    squares: Float[np.ndarray, " K"]
    rate: float
    leaves: list[Array]

    @property
    def reached(self) -> float:
        """The first step with ‖f - y‖ ≤ 1e-3 ‖f₀ - y‖; infinite for none."""
        return reached(self.squares)

    def document(self) -> dict[str, Any]:
        """What is stored: some of the steps."""
        return thinned(self.squares) | {
            "rate": self.rate,
            "reached": self.reached,
        }


def reached(squares: Float[np.ndarray, " K"]) -> float:
    """The first step with ‖f - y‖ ≤ 1e-3 ‖f₀ - y‖; infinite for none.

    >>> reached(np.array([2.0, 1.0, 1e-6]))
    2.0
    """
    arrived = squares <= GOAL**2 * squares[0]
    return float(np.argmax(arrived)) if arrived.any() else math.inf


def thinned(squares: Float[np.ndarray, " K"]) -> dict[str, Sequence[float]]:
    """Some steps and ‖f - y‖² there, as a share of the first.

    >>> thinned(np.array([4.0, 2.0, 1.0]))
    {'steps': [0, 1, 2], 'squares': [1.0, 0.5, 0.25]}
    """
    last = len(squares) - 1
    grid = np.unique(np.rint(np.geomspace(1, max(last, 1), STORED)).astype(int))
    steps = [0, *(int(step) for step in grid if step <= last)]
    return {
        "steps": steps,
        "squares": [float(squares[step] / squares[0]) for step in steps],
    }


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A way to train, and the step sizes to choose from.

    Args:
        make: step size -> optax transformation.
        rates: problem -> step sizes of the sum of squares over 2.
        share: part of the examples in a batch; 1 for all, in order.
    """

    make: Callable[[Array], optax.GradientTransformation]
    rates: Callable[[Problem], tuple[float, ...]]
    share: float = 1.0

    def best(self, model: PyTree, problem: Problem, steps: int, *, key: Array) -> Curve:
        """The curve of the step size that arrives first, or else ends lowest."""
        size = len(problem.x)
        batch = max(int(size * self.share), 1)
        if batch == size:
            weights = jnp.ones((steps, size), problem.x.dtype)
        else:
            keys = jax.random.split(key, steps)
            ranks = jax.vmap(lambda k: jax.random.permutation(k, size))(keys)
            # batches as weights: one program with full batches
            share = jnp.asarray(size / batch, problem.x.dtype)
            weights = jnp.where(ranks < batch, share, 0)
        rates = jnp.asarray(self.rates(problem), problem.x.dtype)
        squares, ends = _descend(
            model, problem.x, problem.y, rates, weights, make=self.make
        )
        return chosen(np.asarray(squares), np.asarray(rates), ends)


def chosen(
    squares: Float[np.ndarray, "R K"], rates: np.ndarray, ends: list[Array]
) -> Curve:
    """The curve that arrives first, or else ends lowest."""
    squares = np.where(np.isfinite(squares), squares, np.inf)
    order = [(reached(row), float(row[-1])) for row in squares]
    at = min(range(len(order)), key=order.__getitem__)
    return Curve(squares[at], float(rates[at]), [leaf[at] for leaf in ends])


@eqx.filter_jit
def _descend(
    model: PyTree,
    x: Array,
    y: Array,
    rates: Float[Array, " R"],
    weights: Float[Array, "S N"],
    *,
    make: Callable[[Array], optax.GradientTransformation],
) -> tuple[Float[Array, "R S1"], list[Array]]:
    start = parameters(model)

    def residuals(params: PyTree) -> Array:
        whole = eqx.combine(params, model)
        return jax.vmap(lambda a: forward(whole, a))(x) - y

    def loss(params: PyTree, weight: Array) -> tuple[Array, Array]:
        squares = jnp.sum(residuals(params) ** 2, axis=1)
        return 0.5 * weight @ squares, jnp.sum(squares)

    def one(rate: Array) -> tuple[Array, list[Array]]:
        optimizer = make(rate)

        def step(carry: tuple[PyTree, Any], weight: Array):
            params, state = carry
            gradient, square = jax.grad(loss, has_aux=True)(params, weight)
            # optax mixes a count with numbers, which strict promotion forbids
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(gradient, state, params)
            return (eqx.apply_updates(params, updates), state), square

        begin = (start, optimizer.init(start))
        (params, _), squares = jax.lax.scan(step, begin, weights)
        last = jnp.sum(residuals(params) ** 2)
        return jnp.concatenate([squares, last[None]]), jax.tree.leaves(params)

    # one after the other: filters that differ would be one grouped convolution
    return jax.lax.map(one, rates)


def kfac_curve(model: PyTree, problem: Problem, steps: int) -> Curve:
    """KFAC, full batch, with its own rule for damping, step size and momentum."""
    squares, leaves = _kfac(model, problem.x, problem.y, steps)
    squares = np.asarray(squares)
    return Curve(
        np.where(np.isfinite(squares), squares, np.inf), math.nan, list(leaves)
    )


@eqx.filter_jit
def _kfac(
    model: PyTree, x: Array, y: Array, steps: int
) -> tuple[Float[Array, " S1"], list[Array]]:
    optimizer = kfac(model, nq.Gaussian(1.0), fisher=ExactFisher(), every=1)
    params = parameters(model)

    def square(params: PyTree) -> Array:
        whole = eqx.combine(params, model)
        return jnp.sum((jax.vmap(lambda a: forward(whole, a))(x) - y) ** 2)

    def step(carry: tuple[PyTree, Any], _: None):
        params, state = carry
        gradient = jax.grad(lambda p: square(p) / (2 * len(y)))(params)
        updates, state = optimizer.update(gradient, state, params, x=x, y=y)
        params = eqx.apply_updates(params, updates)
        return (params, state), square(params)

    # the first step makes the blocks: zeros of their shapes stand for them until then
    gradient = jax.tree.map(jnp.zeros_like, params)
    start = made(
        optimizer.init(params),
        lambda state: optimizer.update(gradient, state, params, x=x, y=y)[1],
    )
    (end, _), squares = jax.lax.scan(step, (params, start), None, length=steps)
    return jnp.concatenate([square(params)[None], squares]), jax.tree.leaves(end)


def _descent_rates(problem: Problem) -> tuple[float, ...]:
    """Those of claim 8, safe and the best of a constant kernel, and a careful one."""
    return 0.3 / problem.most, 1 / problem.most, 2 / (problem.most + problem.least)


def _noisy_rates(problem: Problem) -> tuple[float, ...]:
    return tuple(share / problem.most for share in (0.1, 0.3, 1.0))


def _adam_rates(problem: Problem) -> tuple[float, ...]:
    del problem
    return 1e-3, 3e-3, 1e-2, 3e-2


OPTIMIZERS = {
    "Adam": Optimizer(optax.adam, _adam_rates),
    "SGD": Optimizer(optax.sgd, _noisy_rates, share=0.25),
    "gradient descent": Optimizer(optax.sgd, _descent_rates),
}
