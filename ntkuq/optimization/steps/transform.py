"""Second-order steps as an optax transformation."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ntkuq.linearize import Jacobian
from ntkuq.models import AbstractLikelihood, AbstractPrior, parameters, trainable
from ntkuq.models.train.jobs import AbstractRecord
from ntkuq.models.train.lazy import made
from ntkuq.optimization.steps.damping import AbstractDamping
from ntkuq.optimization.steps.objective import Objective
from ntkuq.optimization.steps.rates import AbstractRate, QuadraticModel
from ntkuq.optimization.steps.solve import AbstractSolve, ConjugateGradients, Pull


#: So many rejected steps in a row are told, or in all where they are the most.
MANY = 10


class NaturalGradientState(AbstractRecord):
    """What the last step needed, and how the steps went so far.

    Args:
        count: steps taken or rejected.
        damping: of the next step, in the units of a prior precision.
        jitter: what the last linear system needed on its diagonal beyond the damping;
            infinite where it could not be solved.
        ratio: realized over predicted decrease of the last step; NaN where the damping
            did not ask for it.
        rate: the share of the direction that was taken.
        rejected: steps rejected so far; the parameters were kept.
        in_a_row: steps rejected since the last that was taken.
        previous: the last step, raveled leaves; empty where it is not used.
        direction: the state of what finds the directions.
    """

    count: Int[Array, ""]
    damping: Float[Array, ""]
    jitter: Float[Array, ""]
    ratio: Float[Array, ""]
    rate: Float[Array, ""]
    rejected: Int[Array, ""]
    in_a_row: Int[Array, ""]
    previous: list[Array]
    direction: PyTree

    def note(self) -> str | None:
        """What a user has to know about the steps; `None` for nothing."""
        count, rejected = int(self.count), int(self.rejected)
        stuck = int(self.in_a_row) >= MANY
        # so much damping that a step is below rounding is accepted, and ends a row
        if stuck or (rejected >= MANY and 2 * rejected > count):
            what = f"the last {int(self.in_a_row)}" if stuck else f"{rejected}"
            return (
                f"second-order steps: {what} of {count} were rejected, since none made "
                f"the loss smaller (damping {float(self.damping):.3g} at the end); the "
                "parameters stayed as they were then. Look for a loss that is not "
                "finite or not smooth, train in float64, or stop earlier"
            )
        if np.isfinite(self.jitter) and self.jitter > 0:
            return (
                "second-order steps: the last linear system was singular to rounding "
                f"and needed {float(self.jitter):.3g} on its diagonal beyond the "
                "damping; repeated inputs do that, and little damping in float32"
            )
        if not np.isfinite(self.jitter):
            return (
                "second-order steps: the last linear system had no Cholesky factor "
                "even with jitter; the parameters were kept. More damping helps, and "
                "so does float64"
            )
        return None


class Found(NamedTuple):
    """A direction.

    Args:
        step: raveled leaves.
        jitter: see `NaturalGradientState`.
        state: of the next step.
    """

    step: list[Array]
    jitter: Float[Array, ""]
    state: PyTree


class AbstractDirection(eqx.Module):
    """What finds the directions."""

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """State before the first step."""

    @abc.abstractmethod
    def __call__(
        self,
        objective: Objective,
        gradient: list[Array],
        toward: Pull,
        previous: list[Array],
        state: PyTree,
        count: Int[Array, ""],
    ) -> Found:
        """The direction.

        Args:
            objective: what is minimized, where it stands.
            gradient: of the objective as a mean over the examples, as it came in.
            toward: damping and prior.
            previous: the last step.
            state: own state.
            count: steps before.
        """

    @property
    @abc.abstractmethod
    def exact(self) -> bool:
        """Is the direction made from the examples instead of the gradient?"""


class Solved(AbstractDirection):
    """The minimizer of the damped Gauss-Newton model."""

    solve: AbstractSolve

    def init(self, params):
        del params
        return ()

    def __call__(self, objective, gradient, toward, previous, state, count):
        del gradient, count
        found = self.solve(objective, toward, previous)
        return Found(found.step, found.jitter, state)

    @property
    def exact(self):
        return True


class SecondOrder(eqx.Module):
    """Direction, damping, momentum and rate, put together."""

    name: str = eqx.field(static=True)
    model: PyTree
    likelihood: AbstractLikelihood | None
    prior: AbstractPrior | None
    direction: AbstractDirection
    damping: AbstractDamping
    rate: AbstractRate
    momentum: float
    #: (x, y) by shape, from which `init` makes a state of its final structure.
    example: tuple[PyTree, PyTree] | None = None

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """As optax has it."""
        parts: Any = self
        return optax.GradientTransformationExtraArgs(parts.init, parts.update)

    def init(self, params: PyTree) -> NaturalGradientState:
        """The state before the first step."""
        dtype = jnp.result_type(*jax.tree.leaves(params))

        def number(value) -> Array:
            return jnp.asarray(value, dtype)

        def none() -> Array:
            # an array for each: a state may be donated
            return jnp.zeros((), jnp.int32)

        previous = []
        if self._remembers:
            previous = [jnp.zeros(a.size, a.dtype) for a in jax.tree.leaves(params)]
        state = NaturalGradientState(
            count=none(),
            damping=number(self.damping.start()),
            jitter=number(0.0),
            ratio=number(jnp.nan),
            rate=number(0.0),
            rejected=none(),
            in_a_row=none(),
            previous=previous,
            direction=self.direction.init(params),
        )
        if self.example is None:
            return state

        def after(state: NaturalGradientState) -> NaturalGradientState:
            x, y = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), self.example)
            with jax.numpy_dtype_promotion("standard"):
                return self.update(params, state, params, x=x, y=y)[1]

        return made(state, after)

    def update(
        self,
        updates: PyTree,
        state: NaturalGradientState,
        params: PyTree | None = None,
        **extra,
    ) -> tuple[PyTree, NaturalGradientState]:
        """One step; see `natural_gradient` for the arguments."""
        given = extra.pop("problem", None)
        if given is not None:
            extra = given._asdict() | extra
        objective, size = self._objective(params, extra)
        gradient = [leaf.reshape(-1) for leaf in jax.tree.leaves(updates)]
        leaves = objective.leaves
        previous = state.previous or [jnp.zeros_like(leaf) for leaf in leaves]
        found = self.direction(
            objective,
            gradient,
            self._toward(objective, state.damping, previous),
            previous,
            state.direction,
            state.count,
        )
        taken = self.rate(objective, found.step, previous, state.damping, state.count)
        accepted = _finite(taken.step)
        ratio = jnp.full_like(state.ratio, jnp.nan)
        told = jnp.asarray(True)
        if self.damping.checks:
            interval = self.damping.interval
            # the first step is the least known, and after a bad one so is the next
            told = (state.count + 1) % interval == 0
            told = told | (state.count == 0) | (state.in_a_row > 0)
            ratio = _ratio(objective, taken, size, None if interval == 1 else told)
            accepted = accepted & ((ratio > 0) | ~told)
        step = [jnp.where(accepted, leaf, 0.0) for leaf in taken.step]
        last = step if isinstance(self.rate, QuadraticModel) else found.step
        after = self.damping.after(state.damping, jnp.where(accepted, ratio, -1.0))
        # nothing is known of a step between checks
        after = jnp.where(told | ~accepted, after, state.damping)
        state = NaturalGradientState(
            count=state.count + 1,
            damping=after,
            jitter=found.jitter,
            ratio=ratio,
            rate=jnp.where(accepted, taken.rate, 0.0),
            rejected=state.rejected + (~accepted).astype(jnp.int32),
            in_a_row=jnp.where(accepted, 0, state.in_a_row + 1),
            # what did not lead down is no momentum
            previous=[jnp.where(accepted, leaf, 0.0) for leaf in last]
            if self._remembers
            else [],
            direction=found.state,
        )
        shapes = jax.tree.leaves(params)
        shaped = [leaf.reshape(a.shape) for leaf, a in zip(step, shapes, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(params), shaped), state

    @property
    def _remembers(self) -> bool:
        solved = self.direction
        iterative = isinstance(solved, Solved) and isinstance(
            solved.solve, ConjugateGradients
        )
        return self.momentum != 0 or iterative or isinstance(self.rate, QuadraticModel)

    def _toward(
        self, objective: Objective, damping: Array, previous: list[Array]
    ) -> Pull:
        """Damping towards the last step times the momentum, prior towards its mean."""
        strength, center = [], []
        for leaf, mean, precision, last in zip(
            objective.leaves,
            objective.center,
            objective.precision,
            previous,
            strict=True,
        ):
            total = damping + precision
            wanted = self.momentum * damping * last - precision * (leaf - mean)
            strength.append(total)
            center.append(wanted / jnp.where(total > 0, total, 1.0))
        return Pull(strength, center)

    def _objective(self, params: PyTree | None, extra: dict) -> tuple[Objective, Array]:
        model = extra.get("model") if self.model is None else self.model
        likelihood = self.likelihood
        likelihood = extra.get("likelihood") if likelihood is None else likelihood
        self._check(params, extra, model, likelihood)
        x, y = extra["x"], extra["y"]
        every = extra.get("parameters", params)
        static = eqx.filter(model, trainable(model), inverse=True)
        # leaves left out by optax.partition are found in the network itself
        filled = eqx.combine(_present(every), parameters(model))
        now = eqx.combine(filled, static)
        subset = _positions(params)
        example = jax.tree.map(lambda a: a[0], x)
        at = Jacobian.at(now, example)
        at = Jacobian(at.model, at.plan, subset)
        dtype = jnp.result_type(*at.leaves)
        rows = jax.tree.leaves(x)[0].shape[0]
        weight = extra.get("weight")
        weight = jnp.ones(rows, dtype) if weight is None else weight.astype(dtype)
        size = jnp.asarray(extra.get("size", jnp.sum(weight)), dtype)
        prior = extra.get("prior") if self.prior is None else self.prior
        zeros = [jnp.zeros(leaf.size, leaf.dtype) for leaf in at.leaves]
        precision = [jnp.zeros((), dtype) for _ in at.leaves]
        if prior is not None:
            known = jax.tree.leaves(prior.precisions(parameters(now)))
            precision = [known[n] for n in subset]
        center = zeros
        if extra.get("center") is not None:
            means = jax.tree.leaves(extra["center"])
            center = [means[n].reshape(-1) for n in subset]
        objective = Objective(
            at,
            likelihood,  # pyright: ignore[reportArgumentType]
            x,
            y,
            weight * (size / jnp.sum(weight)),
            precision,
            center,
        )
        return objective, size

    def _check(self, params, extra: dict, model, likelihood) -> None:
        if params is None or not {"x", "y"} <= extra.keys():
            raise ValueError(
                f"{self.name}: expected the parameters and the examples, "
                "update(gradient, state, params, x=x, y=y)"
            )
        if model is None or likelihood is None:
            raise ValueError(
                f"{self.name}: expected a network and a likelihood: "
                f"{self.name}(model, likelihood, …), or as an optimizer of `Train`, "
                "which knows both"
            )
        if self.direction.exact and extra.get("noisy"):
            raise ValueError(
                f"{self.name}: expected a loss without randomness, got a training with "
                "dropout or adversarial examples: use kfac(), which takes any gradient"
            )


def _ratio(objective: Objective, taken, size: Array, wanted: Array | None) -> Array:
    """Realized over predicted decrease of the objective; NaN where not wanted."""
    # the same numbers as those of the direction: no pass of its own
    before = objective.value(objective.leaves)

    def ratio() -> Array:
        along = taken.along
        if along is None:
            along = objective.along([taken.step])
        predicted = -(along.slopes[0] + 0.5 * along.curvature[0, 0])
        moved = [a + s for a, s in zip(objective.leaves, taken.step, strict=True)]
        after = objective.value(moved)
        # below rounding both decreases are noise, and the step is as good as any
        noise = 4 * jnp.finfo(before.dtype).eps * jnp.maximum(jnp.abs(before), size)
        found = (before - after + noise) / (jnp.abs(predicted) + noise)
        return jnp.where(jnp.isfinite(after), found, -1.0)

    if wanted is None:
        return ratio()
    return jax.lax.cond(wanted, ratio, lambda: jnp.full_like(before, jnp.nan))


def _finite(step: list[Array]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in step]))


def _is_masked(node: PyTree) -> bool:
    return isinstance(node, optax.MaskedNode)


def _present(params: PyTree) -> PyTree:
    """The tree with `None` in the place of what `optax.partition` took out."""
    return jax.tree.map(
        lambda leaf: None if _is_masked(leaf) else leaf, params, is_leaf=_is_masked
    )


def _positions(params: PyTree) -> tuple[int, ...]:
    """Which leaves are there."""
    every = jax.tree.leaves(params, is_leaf=_is_masked)
    return tuple(n for n, leaf in enumerate(every) if not _is_masked(leaf))
