"""How far the Jacobian moves, without cancellation."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize import Dense, Factors, Jacobian, Outer, Readout, Rows, gram
from ntkuq.linearize.jacobian import Factor


def change_gram(new: Factors, old: Factors) -> Float[Array, "N C N C"]:
    r"""(J₁ - J₀)(J₁ - J₀)ᵀ, of one network at the same inputs.

    $g_1 a_1^T - g_0 a_0^T = (g_1 - g_0) a_1^T + g_0 (a_1 - a_0)^T$, so that what is
    equal cancels exactly, where $K_{11} - K_{10} - K_{01} + K_{00}$ would leave
    $\epsilon\,\|K\|$.

    >>> line = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> x = jnp.array([[1.0], [2.0]])
    >>> one = Jacobian.at(line, x[0]).factors(x)
    >>> change_gram(one, one)[:, 0, :, 0]
    Array([[0., 0.],
           [0., 0.]], dtype=float32)
    """
    pairs = [
        _subtract(one, two) for one, two in zip(new.leaves, old.leaves, strict=True)
    ]
    first = [one for one, _ in pairs]
    total = _gram(new, first, first)
    # only an outer product has a second part
    both = [(one, two) for one, two in pairs if two is not None]
    if not both:
        return total
    left, right = map(list, zip(*both, strict=True))
    cross = _gram(new, left, right)
    return total + cross + cross.transpose(2, 3, 0, 1) + _gram(new, right, right)


def _gram(like: Factors, left: list[Factor], right: list[Factor]) -> Array:
    one = Factors(like.outputs, tuple(left), like.weighed)
    two = one
    if right is not left:
        two = Factors(like.outputs, tuple(right), like.weighed)
    return gram(one, two, [jnp.ones((), like.outputs.dtype) for _ in left])


def _subtract(new: Factor, old: Factor) -> tuple[Factor, Outer | None]:
    """The difference as one or two factors."""
    if isinstance(new, Outer) and isinstance(old, Outer):
        return (
            Outer(new.a, new.g - old.g, new.output_first),
            Outer(new.a - old.a, old.g, new.output_first),
        )
    if isinstance(new, Readout) and isinstance(old, Readout):
        return Readout(new.a - old.a, new.outputs, new.output_first), None
    if isinstance(new, Rows) and isinstance(old, Rows):
        # the rows met are data, which are the same
        return Rows(new.ids, new.g - old.g, new.size), None
    return Dense(new.dense() - old.dense()), None


@eqx.filter_jit
def jacobian_changes(
    jacobian: Jacobian, x: PyTree, leaves: list[Float[Array, "M ..."]]
) -> Float[Array, " M"]:
    """‖J(θ) - J(θ₀)‖₂ of each of M points in parameter space.

    Args:
        jacobian: at θ₀.
        x: inputs (N, …).
        leaves: the parameters θ, stacked.
    """
    old = jacobian.factors(x)
    side = old.outputs.size

    def one(now: list[Array]) -> Array:
        model = jacobian.replace(now)
        new = Jacobian(model, jacobian.plan, jacobian.subset).factors(x)
        values = jnp.linalg.eigvalsh(change_gram(new, old).reshape(side, side))
        return jnp.sqrt(jnp.maximum(values[-1], 0.0))

    return jax.lax.map(one, leaves)


@eqx.filter_jit
def kernel_of(jacobian: Jacobian, x: PyTree) -> tuple[Array, Array]:
    """Outputs (N, C) and the tangent kernel J Jᵀ, (N·C, N·C)."""
    factors = jacobian.factors(x)
    ones = [jnp.ones((), leaf.dtype) for leaf in jacobian.leaves]
    side = factors.outputs.size
    return factors.outputs, gram(factors, factors, ones).reshape(side, side)
