"""Learning without forgetting: the old network's outputs on the new inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining
from ntkuq.continual.strategies.ewc import need_strength
from ntkuq.models import Train, forward
from ntkuq.models.train import AbstractPenalty, Job


class Distillation(AbstractPenalty):
    r"""$\alpha T^2 \mathrm{KL}(p_{\rm old} \,\|\, p)$ at temperature T on the batch.

    Without classes $\alpha \|f - f_{\rm old}\|^2 / 2$.

    Args:
        old: the network that the last task left.
        strength: α, 0 before there is one.
        temperature: T.
    """

    old: PyTree
    strength: Float[Array, ""]
    temperature: Float[Array, ""]

    def __call__(self, model, at):
        found = jax.vmap(lambda a: forward(model, a))(at.x)
        before = jax.vmap(lambda a: forward(self.old, a))(at.x)
        before = jax.lax.stop_gradient(before)
        if not at.likelihood.classes or found.shape[-1] == 1:
            return 0.5 * self.strength * jnp.mean(jnp.sum((found - before) ** 2, -1))
        t = self.temperature
        log_p = jax.nn.log_softmax(found / t)
        log_old = jax.nn.log_softmax(before / t)
        each = jnp.sum(jnp.exp(log_old) * (log_old - log_p), axis=-1)
        return self.strength * t**2 * jnp.mean(each)


class LwF(AbstractTraining):
    r"""Learning without forgetting: the outputs of the last network are kept.

    $\alpha T^2 \mathrm{KL}(p_{\rm old}(x) \,\|\, p(x))$ at temperature T, on the inputs
    of the new task, is added to the loss; for regression half the squared difference.
    Nothing of earlier tasks is stored but the network.

    Args:
        strength: α.
        temperature: T.
        train: how to train on one task.

    Raises:
        ValueError: for a negative α, or T ≤ 0.

    References: Li and Hoiem 2016 (arXiv 1606.09282).

    >>> LwF().temperature
    2.0
    """

    strength: float = 1.0
    temperature: float = 2.0
    train: Train = Train()

    def __check_init__(self):
        need_strength("LwF", self.strength)
        if not self.temperature > 0:
            raise ValueError(f"LwF: expected temperature > 0, got {self.temperature}")

    def job(self, state, seen, *, key):
        dtype = seen.bnn.dtype
        strength = self.strength if state.tasks else 0.0
        penalty = Distillation(
            seen.bnn.model,
            jnp.asarray(strength, dtype),
            jnp.asarray(self.temperature, dtype),
        )
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, penalty=penalty)

    def learned(self, state, seen, trained, *, key):
        return Learned.of(point(seen.bnn, trained.losses), None, state.tasks + 1)
