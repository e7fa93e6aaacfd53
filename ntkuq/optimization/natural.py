"""Natural-gradient and Gauss-Newton steps, in weight or function space."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ntkuq.linearize import Factors
from ntkuq.models import AbstractLikelihood, AbstractPrior
from ntkuq.optimization.steps.damping import (
    AbstractDamping,
    LevenbergMarquardt,
    as_damping,
)
from ntkuq.optimization.steps.objective import Whitened
from ntkuq.optimization.steps.rates import AbstractRate, as_rate
from ntkuq.optimization.steps.solve import (
    AbstractSolve,
    ConjugateGradients,
    Pull,
    Smaller,
    in_function_space,
    in_weight_space,
)
from ntkuq.optimization.steps.transform import (
    AbstractDirection,
    NaturalGradientState as NaturalGradientState,
    SecondOrder,
    Solved,
)


#: How the linear system is solved where nothing else is said.
SMALLER, ITERATIVE = Smaller(), ConjugateGradients()


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
    damping = jnp.asarray(damping, residual.dtype)
    lengths = leaf_sizes(factors)
    toward = Pull(
        [damping for _ in lengths], [jnp.zeros(n, residual.dtype) for n in lengths]
    )
    solve = in_weight_space if sum(lengths) < residual.size else in_function_space
    found = solve(Whitened(factors, residual), toward)
    return NaturalStep(found.step, found.jitter)


def natural_gradient(
    model: PyTree = None,
    likelihood: AbstractLikelihood | None = None,
    *,
    damping: AbstractDamping | ArrayLike | None = None,
    learning_rate: AbstractRate | optax.ScalarOrSchedule = 1.0,
    solve: AbstractSolve = SMALLER,
    momentum: float = 0.0,
    prior: AbstractPrior | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Natural gradient of the log posterior as an optax transformation.

    The step s minimizes the quadratic model $\tfrac12 s^\top (J^\top H J + T) s +
    g^\top s$ plus $\tfrac\lambda2 \|s - \beta s_{-1}\|^2$, with H the output-space
    Hessian of the likelihood (so that JᵀHJ is the Fisher matrix), T the precision of
    the prior, g the gradient of minus the log posterior, and $s_{-1}$ the last step.
    For squared error with noise scale 1, without prior and momentum it is
    $J^T (J J^T + \lambda I)^{-1} (y - f)$: for a linear network one step with λ = 0
    solves the least-squares problem.

    It is an optimizer of `Train(natural_gradient(damping=…))`, which gives it
    network, likelihood, prior and examples. In a loop of one's own `update` takes the
    examples as extra arguments, `update(gradient, state, params, x=x, y=y)`, with x
    (B, …) network inputs and y targets as `BNN.inputs` and `BNN.targets` give them,
    and where they are no full batch `size=N`, and `weight=` (B,), how often each
    counts. The incoming gradient is replaced, not preconditioned: the step follows
    from x and y, to full precision at small damping. So put it first in an
    `optax.chain`. Under `optax.partition` its own leaves move, the others as they are
    told (`optax.set_to_zero()` keeps them).

    Args:
        model: the network; its structure is used, its weights come with `params`
            (`ntkuq.models.parameters(model)`). `None` inside `Train`.
        likelihood: of the targets, in the network's units. `None` inside `Train`.
        damping: λ, a number or a rule, `LevenbergMarquardt()` unless given; in the
            units of a prior precision: added to JᵀHJ summed (not averaged) over all N
            examples.
        learning_rate: a number, an optax schedule, or a rule (`KLClip`,
            `QuadraticModel`). A line search of optax comes behind in a chain.
        solve: `Smaller()`, `FunctionSpace()`, `WeightSpace()` or
            `ConjugateGradients()`.
        momentum: β in [0, 1), momentum in function space (SPRING): the damping pulls
            to the last step instead of to zero.
        prior: of the parameters; inside `Train` that of the problem. `None` for none.

    Returns:
        The transformation; the first entry of its state is a `NaturalGradientState`.

    Raises:
        ValueError: for a negative damping or a momentum outside [0, 1); by `update`
            when parameters, x, y, network or likelihood are missing.
        NotEnoughMemory: by `update`, for more equations than memory allows.

    References: Amari 1998; Martens 2020 (arXiv 1412.1193); Goldshlager, Abrahamsen and
        Lin 2024 (arXiv 2401.10190) for SPRING.

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
    return second_order(
        "natural_gradient",
        model,
        likelihood,
        Solved(solve),
        damping=damping,
        learning_rate=learning_rate,
        momentum=momentum,
        prior=prior,
    )


def gauss_newton(
    model: PyTree = None,
    likelihood: AbstractLikelihood | None = None,
    *,
    damping: AbstractDamping | ArrayLike | None = None,
    learning_rate: AbstractRate | optax.ScalarOrSchedule = 1.0,
    solve: AbstractSolve = ITERATIVE,
    momentum: float = 0.0,
    prior: AbstractPrior | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gauss-Newton steps from matrix-vector products: for large networks and batches.

    As `natural_gradient`, whose arguments it has, with conjugate gradients for a
    solver: no matrix is formed, an iteration costs about two gradients, and each step
    starts from the last ("Hessian-free" optimization).

    References: Martens 2010; Schraudolph 2002.

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.models import Gaussian, parameters
    >>> line = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> x = jnp.array([[0.0], [1.0], [2.0]])
    >>> step = gauss_newton(line, Gaussian(), damping=1e-6)
    >>> params = parameters(line)
    >>> updates, _ = step.update(params, step.init(params), params, x=x, y=3 * x + 1)
    >>> round(eqx.apply_updates(line, updates).weight.item(), 3)
    3.0
    """
    return second_order(
        "gauss_newton",
        model,
        likelihood,
        Solved(solve),
        damping=damping,
        learning_rate=learning_rate,
        momentum=momentum,
        prior=prior,
    )


def second_order(
    name: str,
    model: PyTree,
    likelihood: AbstractLikelihood | None,
    direction: AbstractDirection,
    *,
    damping: AbstractDamping | ArrayLike | None,
    learning_rate: AbstractRate | optax.ScalarOrSchedule,
    momentum: float,
    prior: AbstractPrior | None,
    example: tuple[PyTree, PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The transformation of `natural_gradient`, `gauss_newton` and `kfac`."""
    if isinstance(damping, float | int) and not damping >= 0:
        raise ValueError(f"{name}: expected damping >= 0, got {damping}")
    if not 0 <= momentum < 1:
        raise ValueError(f"{name}: expected momentum in [0, 1), got {momentum}")
    made = SecondOrder(
        name,
        model,
        likelihood,
        prior,
        direction,
        LevenbergMarquardt() if damping is None else as_damping(damping),
        as_rate(learning_rate),
        momentum,
        None if example is None else jax.tree.map(_outline, example),
    )
    return optax.chain(made.transformation())


def _outline(leaf: ArrayLike | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jax.eval_shape(lambda: jnp.asarray(leaf))


def leaf_sizes(factors: Factors) -> list[int]:
    """The number of parameters of each leaf; nothing is computed."""
    return [
        jax.eval_shape(lambda f=leaf: f.dense()).shape[-1] for leaf in factors.leaves
    ]
