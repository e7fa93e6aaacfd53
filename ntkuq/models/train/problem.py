"""What training minimizes, and one update of the parameters."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.models.likelihoods import AbstractLikelihood
from ntkuq.models.network import cast, forward, parameters
from ntkuq.models.priors import AbstractPrior
from ntkuq.models.train.banded import with_products


class TrainingError(FloatingPointError):
    """Training diverged: the loss or a parameter is not finite."""


#: Outputs of one example, (C,): call(model, x, key).
Call = Callable[[PyTree, PyTree, Array], Array]


def without_noise(model: PyTree, x: PyTree, key: Array) -> Float[Array, " C"]:
    """The outputs of a network without randomness."""
    del key
    return forward(model, x)


def with_dropout(model: PyTree, x: PyTree, key: Array) -> Float[Array, " C"]:
    """The outputs of a network whose dropout is on: model(x, key=key)."""
    return jnp.ravel(model(x, key=key))


class Examples(NamedTuple):
    """Scaled inputs (N, …) and targets; `counts` (N,) says how often each counts."""

    x: PyTree
    y: PyTree
    counts: Float[Array, " N"] | None = None


class Given(NamedTuple):
    """What optimizers that look further than the gradient get: `problem=` of `update`.

    Args:
        x, y: scaled inputs and targets of the batch, (B, …) each.
        weight: how often each counts, (B,); `None` for once.
        size: N, how many examples there are in all.
        model: the network without its parameters.
        parameters: all of them, also where `optax.masked` shows some.
        likelihood, prior: in the network's units.
        center: the mean of the prior, like the parameters; `None` for zero.
        noisy: is the loss another function of the network than its likelihood, by
            dropout, adversarial examples or a penalty?
    """

    x: PyTree
    y: PyTree
    weight: Float[Array, " B"] | None
    size: Float[Array, ""]
    model: PyTree
    parameters: PyTree
    likelihood: AbstractLikelihood
    prior: AbstractPrior
    center: PyTree | None
    noisy: bool


class Carry(NamedTuple):
    """What changes from step to step."""

    parameters: PyTree
    optimizer: PyTree


class AbstractPenalty(eqx.Module):
    """More that a training minimizes, beside minus the log posterior.

    Its numbers are arrays, so that other values do not compile anew.
    """

    @abc.abstractmethod
    def __call__(self, model: PyTree, at: At) -> Float[Array, ""]:
        """What is added to the loss, in nats an example.

        Args:
            model: the network with the parameters of this step.
            at: what else there is to look at.
        """


class AbstractWrapper(eqx.Module):
    """An optimizer around that of the training: it changes gradients, or watches."""

    @abc.abstractmethod
    def __call__(
        self, optimizer: optax.GradientTransformationExtraArgs
    ) -> optax.GradientTransformation:
        """The optimizer that is used; it gets `problem=Given(...)` at each step."""


class At(NamedTuple):
    """A step of a training, for a penalty.

    Args:
        x, y: scaled inputs and targets of the batch, (B, …) each.
        size: N, how many examples there are in all.
        likelihood: in the network's units.
        key: a random key, new at each step.
    """

    x: PyTree
    y: PyTree
    size: Float[Array, ""]
    likelihood: AbstractLikelihood
    key: Array


class Problem(eqx.Module):
    """The loss -1/N [sum_n log p(y_n | f_n) + log p(theta - center)], and its descent.

    All numbers are arrays, so that other values do not compile anew.

    Args:
        size: N, how many examples there are in all.
        center: the mean of the prior; `None` for zero.
        rate, steps: of Adam with cosine decay; `None` with an `optimizer`.
        optimizer: an optax transformation. One made of the methods of an `eqx.Module`
            may hold numbers as arrays too.
        penalty: what is added to the loss.
        wrapper: an optimizer around this one.
        reach: the range of each input over the examples, times the size of an
            adversarial step; `None` without such steps.
        call: the forward pass of one example.
        products: whether convolutions become matrix products (see `banded`).
    """

    likelihood: AbstractLikelihood
    prior: AbstractPrior
    size: Float[Array, ""]
    center: PyTree | None
    rate: Float[Array, ""] | None
    steps: Float[Array, ""]
    clip: Float[Array, ""] | None
    reach: PyTree | None
    optimizer: optax.GradientTransformation | None
    penalty: AbstractPenalty | None = None
    wrapper: AbstractWrapper | None = None
    call: Call = eqx.field(static=True, default=without_noise)
    products: bool = eqx.field(static=True, default=False)

    def transformation(self) -> optax.GradientTransformation:
        """The optax transformation."""
        if self.optimizer is None:
            rate, steps = self.rate, self.steps
            assert rate is not None  # noqa: S101

            def cosine(count) -> Array:
                share = jnp.minimum(jnp.asarray(count, steps.dtype) / steps, 1.0)
                return 0.5 * rate * (1.0 + jnp.cos(jnp.pi * share))

            found = optax.adam(cosine)
        else:
            found = self.optimizer
        if self.clip is not None:
            # optax takes a float by its type only
            clip = optax.clip_by_global_norm(self.clip)  # pyright: ignore[reportArgumentType]
            found = optax.chain(clip, found)
        if self.wrapper is None:
            return found
        return self.wrapper(optax.with_extra_args_support(found))

    def loss(self, params: PyTree, static: PyTree, examples: Examples, key: Array):
        """The loss on these examples, which stand for all."""
        loss = -self.log_likelihood(params, static, examples, key)
        if self.penalty is not None:
            now = jax.random.fold_in(key, 0)
            at = At(examples.x, examples.y, self.size, self.likelihood, now)
            loss = loss + self.penalty(eqx.combine(params, static), at)
        if self.center is not None:
            params = jax.tree.map(jnp.subtract, params, self.center)
        return loss - self.prior.log_prob(params) / self.size

    def log_likelihood(
        self, params: PyTree, static: PyTree, examples: Examples, key: Array
    ) -> Float[Array, ""]:
        """The mean log-likelihood, over adversarial examples too where they are on."""

        def mean(x: PyTree) -> Array:
            model = eqx.combine(params, static)
            keys = jax.random.split(key, jax.tree.leaves(x)[0].shape[0])

            def one(a: PyTree, b: PyTree, now: Array) -> Array:
                return self.likelihood.log_prob(self.call(model, a, now), b)

            mapped = jax.vmap(one)
            if self.products:
                mapped = with_products(mapped)
            values = mapped(x, examples.y, keys)
            if examples.counts is None:
                return jnp.mean(values)
            # a row that counts nothing may be padding: its value is no number
            values = jnp.where(examples.counts > 0, values, 0.0)
            return jnp.dot(values, examples.counts) / jnp.sum(examples.counts)

        if self.reach is None:
            return mean(examples.x)
        # fast gradient sign (Goodfellow et al. 2015), towards a lower likelihood
        value, slope = jax.value_and_grad(mean)(examples.x)
        moved = jax.tree.map(
            lambda a, g, r: a - r * jnp.sign(g), examples.x, slope, self.reach
        )
        return 0.5 * (value + mean(jax.lax.stop_gradient(moved)))

    def update(
        self, carry: Carry, static: PyTree, examples: Examples, key: Array
    ) -> tuple[Carry, Float[Array, ""]]:
        """One update of the parameters, and the loss before it."""
        params, state = carry

        def value(params: PyTree, problem: Given | None = None) -> Float[Array, ""]:
            del problem  # optax gives every extra argument to it
            return self.loss(params, static, examples, key)

        loss, grad = jax.value_and_grad(value)(params)
        given = Given(
            *examples,
            size=self.size,
            model=static,
            parameters=params,
            likelihood=self.likelihood,
            prior=self.prior,
            center=self.center,
            noisy=self.reach is not None
            or self.penalty is not None
            or self.call is not without_noise,
        )
        optimizer = optax.with_extra_args_support(self.transformation())
        # optax's schedules rely on the standard rules of promotion
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(
                grad,
                state,
                params,
                value=loss,
                grad=grad,
                value_fn=value,
                problem=given,
            )
        return Carry(optax.apply_updates(params, updates), state), loss


def problem_dtype(model: PyTree) -> np.dtype:
    """The floating-point type in which a network is trained."""
    return jax.tree.leaves(parameters(model))[0].dtype


def reach(x: PyTree, share: float) -> PyTree:
    """`share` of the range of each input over the examples."""
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                "Train(adversarial=…): expected floating-point inputs, which can be "
                f"moved a little, got {leaf.dtype}: leave adversarial out"
            )
    return jax.tree.map(
        lambda a: jnp.asarray(share, a.dtype) * (jnp.max(a, 0) - jnp.min(a, 0)), x
    )


def as_arrays[Tree](module: Tree, dtype: DTypeLike | None = None) -> Tree:
    """The module with its numbers as arrays: a new value does not compile anew.

    Args:
        module: a likelihood or prior.
        dtype: floating-point type of the arrays; `None` for the default.

    >>> from ntkuq.models import NormalPrior
    >>> as_arrays(NormalPrior(2.0)).precision.shape
    ()
    """
    dtype = np.dtype(dtype or jnp.zeros(()).dtype)
    real = jax.tree.map(lambda a: np.float64(a) if isinstance(a, float) else a, module)
    return cast(real, dtype)


def log_likelihoods(
    likelihood: AbstractLikelihood, model: PyTree, x: PyTree, y: PyTree
) -> Float[Array, " N"]:
    """log p(y_n | f(x_n)) of each example."""
    return jax.vmap(lambda a, b: likelihood.log_prob(forward(model, a), b))(x, y)


def pick(examples: Examples, rows: Int[Array, " B"] | None) -> Examples:
    """The rows of one step; all of them for `None`."""
    if rows is None:
        return examples
    return Examples(*jax.tree.map(lambda a: a[rows], (examples.x, examples.y)))


def as_center(center: PyTree, model: PyTree) -> PyTree:
    """The mean of a prior, its arrays in the places of the parameters."""
    want, structure = jax.tree.flatten(parameters(model))
    leaves = jax.tree.leaves(center)
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in want]:
        raise ValueError(
            "expected a prior mean with the shapes of the parameters, "
            f"{[leaf.shape for leaf in want]}, got {[leaf.shape for leaf in leaves]}"
        )
    return jax.tree.unflatten(structure, leaves)
