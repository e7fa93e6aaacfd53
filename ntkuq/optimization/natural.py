"""Natural-gradient steps: Gauss-Newton, in weight or function space."""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ntkuq.kernels import Lower, cholesky
from ntkuq.linearize import Factors, Jacobian, dense, gram, pull
from ntkuq.models import AbstractLikelihood, parameters, trainable


class NaturalStep(NamedTuple):
    """A step of the parameters, and the jitter its linear system needed.

    Args:
        step: raveled leaves, in the order of the factors.
        jitter: what was added to the damped diagonal beyond the damping; infinite
            where the system could not be solved (then the step is NaN).
    """

    step: list[Array]
    jitter: Float[Array, ""]


def natural_step(
    factors: Factors, residual: Float[Array, "N C"], damping: ArrayLike
) -> NaturalStep:
    r"""$\delta = J^T (J J^T + \lambda I)^{-1} r = (J^T J + \lambda I)^{-1} J^T r$.

    The minimizer of $\|J\delta - r\|^2 + \lambda\|\delta\|^2$. The first form solves
    an NC × NC system and forms no P-sized matrix, the second a P × P one; the smaller
    is taken. Pure; may be called inside `jit`.

    Args:
        factors: the Jacobian J of N examples with C outputs (`Jacobian.factors`).
        residual: r, (N, C), in the units of the outputs.
        damping: λ ≥ 0, in the units of the entries of J Jᵀ.

    Returns:
        δ and the jitter.

    References: Amari 1998; Zhang, Martens, Grosse 2019 (arXiv 1905.10961).

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.linearize import Jacobian
    >>> line = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    >>> x = jnp.array([[1.0], [2.0]])
    >>> factors = Jacobian.at(line, x[0]).factors(x)
    >>> natural_step(factors, 3.0 * x, damping=0.0).step
    [Array([3.], dtype=float32)]
    """
    dtype = residual.dtype
    damping = jnp.asarray(damping, dtype)
    ones = [jnp.ones((), dtype) for _ in factors.leaves]
    sizes = [math.prod(leaf.shape[2:]) for leaf in _shapes(factors)]
    if sum(sizes) < residual.size:
        j = dense(factors, ones).reshape(residual.size, -1)
        right = jnp.concatenate(pull(factors, residual))
        lower, jitter = _factor(j.T @ j, damping)
        flat = jax.scipy.linalg.cho_solve((lower, True), right)
        splits = [sum(sizes[: n + 1]) for n in range(len(sizes) - 1)]
        return NaturalStep(jnp.split(flat, splits), jitter)
    kernel = gram(factors, factors, ones).reshape(residual.size, residual.size)
    lower, jitter = _factor(kernel, damping)
    dual = jax.scipy.linalg.cho_solve((lower, True), residual.reshape(-1))
    return NaturalStep(pull(factors, dual.reshape(residual.shape)), jitter)


def _factor(matrix: Float[Array, "n n"], damping: Float[Array, ""]) -> Lower:
    return cholesky(matrix + damping * jnp.eye(matrix.shape[0], dtype=matrix.dtype))


def _shapes(factors: Factors) -> list[jax.ShapeDtypeStruct]:
    """Shapes (N, C, P_leaf) of the dense leaves; nothing is computed."""
    return [jax.eval_shape(lambda f=leaf: f.dense()) for leaf in factors.leaves]


class NaturalGradientState(NamedTuple):
    """What the last step needed: `jitter`, beyond the damping (see `NaturalStep`)."""

    jitter: Float[Array, ""]


def natural_gradient(
    model: PyTree,
    likelihood: AbstractLikelihood,
    *,
    damping: ArrayLike,
    learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Natural gradient of the log-likelihood as an optax transformation.

    $\theta \leftarrow \theta + \eta\,(J^T H J + \lambda I)^{-1} \sum_n J_n^T
    \nabla_f \log p(y_n \mid f_n)$ with H the output-space Hessian of the likelihood,
    so that JᵀHJ is the Fisher matrix. For squared error with noise scale 1 this is
    $J^T (J J^T + \lambda I)^{-1} (y - f)$, and for a linear network one step with
    η = 1, λ = 0 solves the least-squares problem.

    Its `update` takes the examples as extra arguments,
    `update(gradient, state, params, x=x, y=y)`, with x (N, …) network inputs and y
    targets as `BNN.inputs` and `BNN.targets` give them. The incoming gradient is
    replaced, not preconditioned: the step follows from x and y, to full precision at
    small damping. So put it first in an `optax.chain`; the prior is not part of it.

    Args:
        model: the network; its structure is used, its weights come with `params`
            (`ntkuq.models.parameters(model)`).
        likelihood: of the targets, in the network's units.
        damping: λ ≥ 0, added to JᵀHJ summed (not averaged) over the examples.
        learning_rate: η, a number or an optax schedule.

    Returns:
        The transformation; the first entry of its state is a `NaturalGradientState`.

    Raises:
        ValueError: for a negative damping; by `update` when `params`, x or y
            is missing.

    References: Amari 1998; Martens 2020 (arXiv 1412.1193).

    >>> import equinox as eqx, jax, jax.numpy as jnp, optax
    >>> from ntkuq.models import Gaussian, parameters
    >>> line = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> x = jnp.array([[0.0], [1.0], [2.0]])
    >>> step = natural_gradient(line, Gaussian(), damping=1e-6)
    >>> params = parameters(line)
    >>> updates, _ = step.update(params, step.init(params), params, x=x, y=3 * x + 1)
    >>> line = eqx.apply_updates(line, updates)
    >>> line.weight.round(3).item(), line.bias.round(3).item()
    (3.0, 1.0)
    """
    if isinstance(damping, float | int) and not damping >= 0:
        raise ValueError(f"natural_gradient: expected damping >= 0, got {damping}")
    static = eqx.filter(model, trainable(model), inverse=True)

    def init(params: PyTree) -> NaturalGradientState:
        return NaturalGradientState(jnp.zeros((), jax.tree.leaves(params)[0].dtype))

    def update(updates, state, params=None, **extra):
        del updates, state
        if params is None or not {"x", "y"} <= extra.keys():
            raise ValueError(
                "natural_gradient: expected the parameters and the examples, "
                "update(gradient, state, params, x=x, y=y)"
            )
        x, y = extra["x"], extra["y"]
        now = eqx.combine(params, static)
        at = Jacobian.at(now, jax.tree.map(lambda a: a[0], x))
        factors = at.factors(x, likelihood.hessian_sqrt, y)
        step, jitter = natural_step(factors, _whitened(likelihood, factors, y), damping)
        leaves = jax.tree.leaves(parameters(now))
        # optax's convention: what comes in is descended, so minus the ascent step
        shaped = [-d.reshape(a.shape) for d, a in zip(step, leaves, strict=True)]
        tree = jax.tree.unflatten(jax.tree.structure(parameters(now)), shaped)
        return tree, NaturalGradientState(jitter)

    return optax.chain(
        optax.GradientTransformationExtraArgs(init, update),
        optax.scale_by_learning_rate(learning_rate),
    )


def _whitened(
    likelihood: AbstractLikelihood, factors: Factors, y: Array
) -> Float[Array, "N C"]:
    """u with S u = d log p / df and H = S S^T (the gradient lies in the range of S)."""
    gradient = jax.vmap(likelihood.residual)(factors.outputs, y)
    root = jax.vmap(likelihood.hessian_sqrt)(factors.outputs, y)
    return jnp.einsum("ncd,nd->nc", jnp.linalg.pinv(root), gradient)
