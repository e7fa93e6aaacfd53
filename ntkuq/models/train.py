"""The training loop: minimize minus log posterior by an optax optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ntkuq.models.bnn import BNN
from ntkuq.models.network import forward, parameters


class TrainingError(FloatingPointError):
    """Training diverged: the loss or a parameter is not finite."""


class Trained(NamedTuple):
    """A trained module and the mean loss after each tenth of the steps."""

    model: PyTree
    losses: np.ndarray


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
        if self.steps < 1 or (self.batch is not None and self.batch < 1):
            raise ValueError(
                f"Train: expected steps >= 1 and batch >= 1, got steps={self.steps}, "
                f"batch={self.batch}"
            )

    def transformation(self) -> optax.GradientTransformation:
        """The optax transformation."""
        if isinstance(self.optimizer, float):
            return optax.adam(optax.cosine_decay_schedule(self.optimizer, self.steps))
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

        `callback(steps, loss)` is called on the host after each tenth of the steps.
        Raises `TrainingError` when the loss is not finite.
        """
        state = self.transformation().init(parameters(model))
        size = jax.tree.leaves(x)[0].shape[0]
        batch = None if self.batch is None or self.batch >= size else self.batch
        chunk, losses, done = max(self.steps // 10, 1), [], 0
        problem = (as_arrays(bnn.likelihood), as_arrays(bnn.prior))
        while done < self.steps:
            # the last chunk takes what is left, so that at most two lengths compile
            length = chunk if self.steps - done >= 2 * chunk else self.steps - done
            key, now = jax.random.split(key)
            model, state, loss = _chunk(
                self, length, batch, problem, model, state, x, y, now
            )
            done += length
            losses.append(float(loss))
            if not np.isfinite(losses[-1]):
                raise TrainingError(
                    f"training diverged: the loss is {losses[-1]} after {done} of "
                    f"{self.steps} steps; lower the learning rate, or check the "
                    "scaling of inputs and targets"
                )
            if callback is not None:
                callback(done, losses[-1])
        return Trained(model, np.asarray(losses))


def as_arrays(module: eqx.Module) -> eqx.Module:
    """The module with its numbers as arrays: a new value does not compile anew."""
    return jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, float) else a, module)


def log_likelihoods(
    likelihood, model: PyTree, x: PyTree, y: Array
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
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), loss

    (params, state), losses = jax.lax.scan(
        step, (params, state), jax.random.split(key, length)
    )
    return eqx.combine(params, static), state, losses[-1]
