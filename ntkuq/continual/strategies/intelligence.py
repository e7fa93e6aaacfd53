"""Synaptic intelligence: importance along the path of the training."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining
from ntkuq.continual.strategies.ewc import DiagonalPenalty, need_strength
from ntkuq.continual.strategies.quadratic import raveled
from ntkuq.models import Train, TrainingError
from ntkuq.models.train import AbstractRecord, AbstractWrapper, Job


class PathIntegral(AbstractRecord):
    r"""$\omega_i = -\sum_k g_{k,i}\, \Delta\theta_{k,i}$ so far, one array a leaf."""

    values: list[Float[Array, " _"]]

    def note(self):
        return None


class _Watched(NamedTuple):
    inner: PyTree
    path: PathIntegral


class Watch(AbstractWrapper):
    r"""Sums $-g \cdot \Delta\theta$ with g the gradient of the task's loss alone.

    Args:
        penalty: whose gradient is taken out again.
    """

    penalty: DiagonalPenalty

    def __call__(self, optimizer):
        begin: Any = eqx.Partial(_begin, optimizer)
        step: Any = eqx.Partial(_watch, self, optimizer)
        return optax.GradientTransformationExtraArgs(begin, step)


def _begin(optimizer: Any, params: PyTree) -> _Watched:
    zeros = [jnp.zeros(leaf.size, leaf.dtype) for leaf in jax.tree.leaves(params)]
    return _Watched(optimizer.init(params), PathIntegral(zeros))


def _watch(
    watch: Watch, optimizer: Any, updates, state: _Watched, params=None, **extra
):
    grad = updates
    updates, inner = optimizer.update(grad, state.inner, params, **extra)
    penalty = watch.penalty
    sums = []
    every = zip(
        state.path.values,
        jax.tree.leaves(grad),
        jax.tree.leaves(updates),
        jax.tree.leaves(params),
        penalty.weights,
        penalty.shifted,
        strict=True,
    )
    for total, g, step, theta, weight, shifted in every:
        pull = penalty.strength * (weight * theta.reshape(-1) - shifted)
        sums.append(total - (g.reshape(-1) - pull) * step.reshape(-1))
    return updates, _Watched(inner, PathIntegral(sums))


class SynapticIntelligence(AbstractTraining):
    r"""A quadratic penalty weighted by how much each weight lowered the loss.

    $\lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2$ with $\Omega_i \leftarrow
    \Omega_i + \max(\omega_i, 0) / (\Delta_i^2 + \xi)$, ω the path integral of the loss
    over the task and Δ how far the weight moved in it.

    Args:
        strength: λ (c in the paper).
        damping: ξ.
        train: how to train on one task.

    Raises:
        ValueError: for a negative λ, or ξ ≤ 0.

    References: Zenke, Poole, Ganguli 2017 (arXiv 1703.04200).

    >>> SynapticIntelligence(strength=0.5).damping
    0.1
    """

    strength: float = 0.1
    damping: float = 0.1
    train: Train = Train()

    def __check_init__(self):
        need_strength("SynapticIntelligence", self.strength)
        if not self.damping > 0:
            raise ValueError(
                f"SynapticIntelligence: expected damping > 0, got {self.damping}"
            )

    def job(self, state, seen, *, key):
        leaves = raveled(seen.model)
        weights = state.memory
        if weights is None:
            weights = [jnp.zeros_like(leaf) for leaf in leaves]
        shifted = [w * leaf for w, leaf in zip(weights, leaves, strict=True)]
        parts = [jnp.vdot(a, b) for a, b in zip(shifted, leaves, strict=True)]
        strength = jnp.asarray(2.0 * self.strength, leaves[0].dtype)
        square = jax.tree.reduce(jnp.add, parts)
        penalty = DiagonalPenalty(weights, shifted, square, strength)
        return Job(
            *(seen.bnn, seen.model, seen.x, seen.y, key),
            penalty=penalty,
            wrapper=Watch(penalty),
        )

    def learned(self, state, seen, trained, *, key):
        path = trained.record
        if not isinstance(path, PathIntegral):
            raise TrainingError("SynapticIntelligence: the path integral was lost")
        before = raveled(state.bnn.network.trained)
        damping = jnp.asarray(self.damping, before[0].dtype)
        gained = [
            jnp.maximum(w, 0.0) / ((new - old) ** 2 + damping)
            for w, new, old in zip(
                path.values, raveled(seen.model), before, strict=True
            )
        ]
        if state.memory is not None:
            gained = [a + b for a, b in zip(state.memory, gained, strict=True)]
        return Learned.of(point(seen.bnn, trained.losses), gained, state.tasks + 1)
