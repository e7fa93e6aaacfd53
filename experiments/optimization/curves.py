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
from ntkuq.optimization import kfac


#: Share of the first residual at which steps are counted.
GOAL = 1e-3
#: Share of the first residual at which training ends: nothing is read off beyond.
END = 0.1 * GOAL
#: A curve is stored at so many steps, evenly in their logarithm.
STORED = 40


class Problem(NamedTuple):
    """Inputs, targets and extreme eigenvalues of the kernel where training begins."""

    x: Float[Array, "N ..."]
    y: Float[Array, "N C"]
    least: float
    most: float


class Curve(NamedTuple):
    """‖f - y‖² after each step until it ended, the step size, where it ended.

    tried: how many steps there would have been at most.
    """

    squares: Float[np.ndarray, " K"]
    rate: float
    leaves: list[Array]
    tried: int

    @property
    def reached(self) -> float:
        """The first step with ‖f - y‖ ≤ 1e-3 ‖f₀ - y‖; infinite for none."""
        return reached(self.squares)

    def document(self) -> dict[str, Any]:
        """What is stored: some of the steps."""
        return thinned(self.squares) | {
            "rate": self.rate,
            "reached": self.reached,
            "tried": self.tried,
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
    rows = [taken(row) for row in squares]
    order = [(reached(row), float(row[-1])) for row in rows]
    at = min(range(len(order)), key=order.__getitem__)
    tried = squares.shape[1] - 1
    return Curve(rows[at], float(rates[at]), [leaf[at] for leaf in ends], tried)


def taken(squares: Float[np.ndarray, " K"]) -> Float[np.ndarray, " S"]:
    """Without the steps that were not taken (-1); what is not finite as infinite.

    >>> taken(np.array([2.0, np.nan, -1.0, -1.0]))
    array([ 2., inf])
    """
    squares = squares[squares != -1]
    return np.where(np.isfinite(squares), squares, np.inf)


def trained(
    step: Callable[[PyTree, Array], tuple[PyTree, Array]],
    begin: PyTree,
    first: Float[Array, ""],
    steps: int,
) -> tuple[PyTree, Float[Array, " S1"]]:
    """Step until `END` is reached, the squares are not finite, or for `steps` steps.

    step: (carry, number of the step) -> carry, ‖f - y‖² after it.
    first: ‖f - y‖² before.

    Returns:
        The last carry; the squares, -1 for steps that were not taken.
    """
    squares = jnp.full(steps + 1, -1, first.dtype).at[0].set(first)

    def on(state: tuple[Array, PyTree, Array]) -> Array:
        count, _, squares = state
        now = squares[count]
        return (count < steps) & jnp.isfinite(now) & (now > END**2 * first)

    def body(state: tuple[Array, PyTree, Array]) -> tuple[Array, PyTree, Array]:
        count, carry, squares = state
        carry, square = step(carry, count)
        return count + 1, carry, squares.at[count + 1].set(square)

    _, carry, squares = jax.lax.while_loop(on, body, (jnp.int32(0), begin, squares))
    return carry, squares


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
    # of the step after each
    after = jnp.concatenate([weights[1:], weights[-1:]])

    def residuals(params: PyTree) -> Array:
        whole = eqx.combine(params, model)
        return jax.vmap(lambda a: forward(whole, a))(x) - y

    def backward(params: PyTree) -> tuple[Array, Callable]:
        """‖f - y‖², and weights of the examples -> gradient of half of it."""
        left, pull = jax.vjp(residuals, params)
        return jnp.sum(left**2), lambda weight: pull(weight[:, None] * left)[0]

    def one(rate: Array) -> tuple[Array, list[Array]]:
        optimizer = make(rate)

        def step(carry: tuple[PyTree, Any, PyTree], count: Array):
            params, state, gradient = carry
            # optax mixes a count with numbers, which strict promotion forbids
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(gradient, state, params)
            params = eqx.apply_updates(params, updates)
            square, weighed = backward(params)
            return (params, state, weighed(after[count])), square

        square, weighed = backward(start)
        begin = (start, optimizer.init(start), weighed(weights[0]))
        (params, _, _), squares = trained(step, begin, square, len(weights))
        return squares, jax.tree.leaves(params)

    # one after the other: filters that differ would be one grouped convolution
    return jax.lax.map(one, rates)


def kfac_curve(model: PyTree, problem: Problem, steps: int) -> Curve:
    """KFAC, full batch, with its own rule for damping, step size and momentum.

    As it is by default: inverted every fifth step.
    """
    squares, leaves = _kfac(model, problem.x, problem.y, steps)
    return Curve(taken(np.asarray(squares)), math.nan, list(leaves), steps)


@eqx.filter_jit
def _kfac(
    model: PyTree, x: Array, y: Array, steps: int
) -> tuple[Float[Array, " S1"], list[Array]]:
    optimizer = kfac(model, nq.Gaussian(1.0), fisher=ExactFisher(), example=(x, y))
    params = parameters(model)

    def square(params: PyTree) -> Array:
        whole = eqx.combine(params, model)
        return jnp.sum((jax.vmap(lambda a: forward(whole, a))(x) - y) ** 2)

    def step(carry: tuple[PyTree, Any], _: Array):
        params, state = carry
        gradient = jax.grad(lambda p: square(p) / (2 * len(y)))(params)
        updates, state = optimizer.update(gradient, state, params, x=x, y=y)
        params = eqx.apply_updates(params, updates)
        return (params, state), square(params)

    start = params, optimizer.init(params)
    (end, _), squares = trained(step, start, square(params), steps)
    return squares, jax.tree.leaves(end)


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
