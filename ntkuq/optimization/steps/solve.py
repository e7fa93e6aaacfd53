"""How the linear system of a step is solved: in outputs, in weights, or iteratively.

The step minimizes |A s - u|^2 / 2 + sum_l d_l |s_l - c_l|^2 / 2, with A the whitened
Jacobian (N K, P), d the damping plus the prior precision of each leaf, and c where the
damping and the prior pull to. Its solution, with V = diag(b / d) for any number b > 0:

    s = c + V A^T (A V A^T + b I)^-1 (u - A c)         function space, N K equations
    (A^T A + diag(d)) (s - c) = A^T (u - A c)          weight space, P equations
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.kernels import cholesky
from ntkuq.kernels.solvers import need_memory
from ntkuq.linearize import dense, gram, pull, push
from ntkuq.linearize.chunks import predicted_numbers
from ntkuq.optimization.steps.objective import Objective, Whitened, sizes


class Pull(NamedTuple):
    """The part of the objective that is quadratic in the step itself.

    Args:
        strength: d, () for each leaf: damping plus prior precision.
        center: c, raveled leaves.
    """

    strength: list[Array]
    center: list[Array]


class Solution(NamedTuple):
    """A step.

    Args:
        step: raveled leaves.
        jitter: what was added to the diagonal beyond the damping; infinite where the
            system could not be solved (then the step is NaN).
        iterations: of an iterative solver, 0 for others.
    """

    step: list[Array]
    jitter: Float[Array, ""]
    iterations: Array


class AbstractSolve(eqx.Module):
    """How the linear system of a step is solved."""

    @abc.abstractmethod
    def __call__(
        self, objective: Objective, toward: Pull, previous: list[Array]
    ) -> Solution:
        """The step.

        Args:
            objective: what is minimized, where it stands.
            toward: damping and prior.
            previous: the last step, to begin with.
        """


class FunctionSpace(AbstractSolve):
    """N K equations, no matrix of the size of the parameters.

    References: Zhang, Martens, Grosse 2019 (arXiv 1905.10961); Cai et al. 2019 (arXiv
        1905.11675).

    >>> FunctionSpace()
    FunctionSpace()
    """

    def __call__(self, objective, toward, previous):
        del previous
        _need_room(objective, function_space=True)
        return in_function_space(objective.whitened(), toward)


class WeightSpace(AbstractSolve):
    """P equations, for networks with fewer parameters than the batch has outputs.

    >>> WeightSpace()
    WeightSpace()
    """

    def __call__(self, objective, toward, previous):
        del previous
        _need_room(objective, function_space=False)
        return in_weight_space(objective.whitened(), toward)


class Smaller(AbstractSolve):
    """`FunctionSpace` or `WeightSpace`, whichever has fewer equations.

    >>> Smaller()
    Smaller()
    """

    def __call__(self, objective, toward, previous):
        rows, parameters = sizes(objective)
        solve = WeightSpace() if parameters < rows else FunctionSpace()
        return solve(objective, toward, previous)


class ConjugateGradients(AbstractSolve):
    """Products with the Gauss-Newton matrix only: memory of a few gradients.

    Each iteration costs about two gradients. It starts at the last step times `keep`.

    Args:
        tolerance: of the residual, relative to the right-hand side.
        most: iterations.
        keep: share of the last step to start from.

    References: Martens 2010; Hestenes and Stiefel 1952.

    >>> ConjugateGradients(most=20).tolerance
    1e-05
    """

    tolerance: float = 1e-5
    most: int = 50
    keep: float = 0.95

    def __check_init__(self):
        if self.most < 1 or not self.tolerance >= 0:
            raise ValueError(
                "ConjugateGradients: expected most >= 1 and tolerance >= 0, got "
                f"most={self.most} and tolerance={self.tolerance}"
            )

    def __call__(self, objective, toward, previous):
        jacobian, x, y = objective.jacobian, objective.x, objective.y
        shapes = [leaf.shape for leaf in jacobian.leaves]

        def outputs(leaves: list[Array]) -> Array:
            shaped = [a.reshape(s) for a, s in zip(leaves, shapes, strict=True)]
            model = jacobian.replace(shaped)
            return jax.vmap(lambda a: _forward(model, a))(x)

        f, linear = jax.linearize(outputs, objective.leaves)
        transposed = jax.linear_transpose(linear, objective.leaves)
        residual = jax.vmap(objective.likelihood.residual)(f, y)
        residual = jnp.where(objective.weight[:, None] > 0, residual, 0.0)

        def product(step: list[Array]) -> list[Array]:
            seen = jax.vmap(objective.hessian_times)(f, y, linear(step))
            (found,) = transposed(objective.weight[:, None] * seen)
            return [a + d * s for a, d, s in zip(found, toward.strength, step)]

        (gradient,) = transposed(residual * objective.weight[:, None])
        right = [
            g + d * c
            for g, d, c in zip(gradient, toward.strength, toward.center, strict=True)
        ]
        start = [self.keep * leaf for leaf in previous]
        step, used = conjugate_gradients(
            product, right, start, tolerance=self.tolerance, most=self.most
        )
        return Solution(step, jnp.zeros((), f.dtype), used)


def _forward(model, x):
    return jnp.ravel(model(x))


def in_function_space(whitened: Whitened, toward: Pull) -> Solution:
    """The step from N K equations."""
    factors, target = whitened
    base, variances = _relative(toward.strength)
    kernel = gram(factors, factors, variances).reshape(target.size, target.size)
    at = jnp.arange(target.size)
    lower, jitter = cholesky(kernel.at[at, at].add(base))
    rest = target - push(factors, toward.center)
    dual = jax.scipy.linalg.cho_solve((lower, True), rest.reshape(-1))
    moved = pull(factors, dual.reshape(target.shape))
    step = [c + v * m for c, v, m in zip(toward.center, variances, moved, strict=True)]
    return Solution(step, jitter, jnp.zeros((), jnp.int32))


def in_weight_space(whitened: Whitened, toward: Pull) -> Solution:
    """The step from P equations."""
    factors, target = whitened
    ones = [jnp.ones((), target.dtype) for _ in factors.leaves]
    j = dense(factors, ones).reshape(target.size, -1)
    lengths = [leaf.size for leaf in toward.center]
    diagonal = jnp.concatenate(
        [jnp.full(n, d) for n, d in zip(lengths, toward.strength, strict=True)]
    )
    at = jnp.arange(j.shape[1])
    lower, jitter = cholesky((j.T @ j).at[at, at].add(diagonal))
    rest = target - push(factors, toward.center)
    right = jnp.concatenate(pull(factors, rest))
    flat = jax.scipy.linalg.cho_solve((lower, True), right)
    splits = [sum(lengths[: n + 1]) for n in range(len(lengths) - 1)]
    parts = jnp.split(flat, splits)
    step = [c + part for c, part in zip(toward.center, parts, strict=True)]
    return Solution(step, jitter, jnp.zeros((), jnp.int32))


def _relative(strength: list[Array]) -> tuple[Array, list[Array]]:
    """b, the least of d, and b / d; ones where there is no damping at all."""
    base = jnp.min(jnp.stack(strength))
    return base, [
        jnp.where(base > 0, base / jnp.maximum(d, base), 1.0) for d in strength
    ]


def _need_room(objective: Objective, *, function_space: bool) -> None:
    """Refuse a system that does not fit, while it is traced."""
    rows, parameters = sizes(objective)
    number = jnp.result_type(*objective.leaves).itemsize
    examples = jax.tree.leaves(objective.x)[0].shape[0]
    columns = max(rows // max(examples, 1), 1)
    factors = examples * predicted_numbers(objective.jacobian, columns)
    side = rows if function_space else parameters
    held = factors if function_space else factors + rows * parameters
    way_out = (
        "solve by ConjugateGradients(), or take a batch: a step of B of the N examples "
        "fits the others only through the damping, and its noise falls as 1 / sqrt(B)"
    )
    need_memory(
        number * (2.0 * side**2 + held),
        f"a step with {side} equations ({examples} examples, {columns} rows each, "
        f"{parameters} parameters)",
        way_out,
    )


class _Iterate(NamedTuple):
    step: list[Array]
    residual: list[Array]
    direction: list[Array]
    square: Array
    used: Array


def conjugate_gradients(
    product, right: list[Array], start: list[Array], *, tolerance: float, most: int
) -> tuple[list[Array], Array]:
    """Solve product(s) = right from `start`; also the iterations used."""

    def dot(a: list[Array], b: list[Array]) -> Array:
        return sum((jnp.vdot(p, q) for p, q in zip(a, b, strict=True)), start=zero)

    zero = jnp.zeros((), right[0].dtype)
    residual = [r - p for r, p in zip(right, product(start), strict=True)]
    enough = tolerance**2 * dot(right, right)
    begin = _Iterate(
        start, residual, residual, dot(residual, residual), jnp.zeros((), jnp.int32)
    )

    def unfinished(now: _Iterate) -> Array:
        return (now.square > enough) & (now.used < most)

    def advance(now: _Iterate) -> _Iterate:
        seen = product(now.direction)
        size = now.square / dot(now.direction, seen)
        step = [s + size * d for s, d in zip(now.step, now.direction, strict=True)]
        residual = [r - size * p for r, p in zip(now.residual, seen, strict=True)]
        square = dot(residual, residual)
        share = square / now.square
        direction = [
            r + share * d for r, d in zip(residual, now.direction, strict=True)
        ]
        return _Iterate(step, residual, direction, square, now.used + 1)

    found = jax.lax.while_loop(unfinished, advance, begin)
    return found.step, found.used
