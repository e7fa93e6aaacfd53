"""The training loop: minimize minus log posterior by an optax optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from ntkuq.models.bnn import BNN
from ntkuq.models.likelihoods import AbstractLikelihood
from ntkuq.models.network import cast, forward, parameters


class TrainingError(FloatingPointError):
    """Training diverged: the loss or a parameter is not finite."""


class Trained(NamedTuple):
    """A trained module and the mean loss after each tenth of the steps."""

    model: PyTree
    losses: np.ndarray


def _cosine(peak: float, steps: int) -> Callable[[Any], Array]:
    """The learning rate after a number of steps: from `peak` to zero."""

    def rate(count: Any) -> Array:
        share = jnp.minimum(jnp.asarray(count, jnp.float32) / steps, 1.0)
        return 0.5 * peak * (1.0 + jnp.cos(jnp.pi * share))

    return rate


class Train(eqx.Module):
    """Minimize -1/N [sum_n log p(y_n | f(x_n)) + log p(theta)].

    Args:
        optimizer: an optax transformation, or a number: the peak learning rate of Adam
            with cosine decay to zero over the steps.
        steps: number of updates.
        batch: examples an update; `None` for all of them.

    >>> Train(1e-2, steps=100).steps
    100
    """

    optimizer: optax.GradientTransformation | float = 1e-2
    steps: int = 3_000
    batch: int | None = None

    def __check_init__(self):
        if isinstance(self.optimizer, float | int) and not self.optimizer > 0:
            raise ValueError(
                f"Train: expected a learning rate > 0, got {self.optimizer}"
            )
        if self.steps < 1 or (self.batch is not None and self.batch < 1):
            raise ValueError(
                f"Train: expected steps >= 1 and batch >= 1, got steps={self.steps}, "
                f"batch={self.batch}"
            )

    def transformation(self) -> optax.GradientTransformation:
        """The optax transformation."""
        if isinstance(self.optimizer, float | int):
            return optax.adam(_cosine(self.optimizer, self.steps))
        return self.optimizer

    def run(
        self,
        bnn: BNN,
        model: PyTree,
        x: PyTree,
        y: Array,
        *,
        callback: Callable[[int, float], None] | None = None,
        key: Array,
    ) -> Trained:
        """Train `model` on scaled inputs x (N, …) and targets y.

        Args:
            bnn: gives likelihood and prior.
            model: where to start; the network is called as `model(x)` and without a
                key, so that layers that need one (dropout) must be off.
            x, y: `bnn.inputs` and `bnn.targets`.
            callback: called as `callback(steps, loss)` on the host after each tenth
                of the steps.
            key: chooses the batches.

        Raises:
            TrainingError: when the loss or a parameter is not finite.
        """
        state = self.transformation().init(parameters(model))
        size = jax.tree.leaves(x)[0].shape[0]
        batch = None if self.batch is None or self.batch >= size else self.batch
        chunk, losses, done = max(self.steps // 10, 1), [], 0
        dtype = jax.tree.leaves(parameters(model))[0].dtype
        problem = (as_arrays(bnn.likelihood, dtype), as_arrays(bnn.prior, dtype))
        while done < self.steps:
            # the last chunk takes what is left, so that at most two lengths compile
            length = chunk if self.steps - done >= 2 * chunk else self.steps - done
            key, now = jax.random.split(key)
            model, state, loss, finite = _chunk(
                self, length, batch, problem, model, state, x, y, now
            )
            finite = np.asarray(finite)
            if not finite.all():
                step = done + int(np.argmin(finite)) + 1
                raise TrainingError(
                    "training diverged: the loss or a parameter is not finite after "
                    f"step {step} of {self.steps}; lower the learning rate, or check "
                    "the scaling of inputs and targets"
                )
            done += length
            losses.append(float(loss))
            if callback is not None:
                callback(done, losses[-1])
        return Trained(model, np.asarray(losses))


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
    likelihood: AbstractLikelihood, model: PyTree, x: PyTree, y: Array
) -> Float[Array, " N"]:
    """log p(y_n | f(x_n)) of each example."""
    return jax.vmap(lambda a, b: likelihood.log_prob(forward(model, a), b))(x, y)


@eqx.filter_jit
def _chunk(train, length, batch, problem, model, state, x, y, key):
    likelihood, prior = problem
    optimizer = train.transformation()
    size = jax.tree.leaves(x)[0].shape[0]

    def loss_fn(params, static, x_batch, y_batch):
        fit = log_likelihoods(likelihood, eqx.combine(params, static), x_batch, y_batch)
        return -jnp.mean(fit) - prior.log_prob(params) / size

    params, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry, key):
        params, state = carry
        x_batch, y_batch = x, y
        if batch is not None:
            rows = jax.random.randint(key, (batch,), 0, size)
            x_batch, y_batch = jax.tree.map(lambda a: a[rows], (x, y))
        loss, grad = jax.value_and_grad(loss_fn)(params, static, x_batch, y_batch)
        # optax's schedules rely on the standard rules of promotion
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        size_now = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params))
        finite = jnp.isfinite(loss) & jnp.isfinite(size_now)
        return (params, state), (loss, finite)

    (params, state), (losses, finite) = jax.lax.scan(
        step, (params, state), jax.random.split(key, length)
    )
    return eqx.combine(params, static), state, losses[-1], finite
