"""Orthogonal gradient descent: no update along the tangent features of old tasks."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining, Seen
from ntkuq.continual.strategies.memory import AbstractSelection, RandomPoints
from ntkuq.models import Train, forward, parameters
from ntkuq.models.train import AbstractWrapper, Job


#: Eigenvalues of the directions' Gram matrix below this share of the largest are none.
SMALL = 1e-6


class Complement(AbstractWrapper):
    r"""Takes from each update its part in a subspace, $u \leftarrow u - B^T B u$.

    The update rather than the gradient, so that it holds for every optimizer; for plain
    gradient descent both are the same.

    Args:
        basis: orthonormal rows B, or zeros, over the raveled parameters.
    """

    basis: Float[Array, "K P"]

    def __call__(self, optimizer):
        return optax.GradientTransformationExtraArgs(
            optimizer.init, eqx.Partial(_projected, self, optimizer)
        )


def _projected(
    complement: Complement, optimizer: Any, updates, state, params=None, **extra
):
    updates, state = optimizer.update(updates, state, params, **extra)
    flat, unravel = ravel_pytree(updates)
    basis = complement.basis
    return unravel(flat - basis.T @ (basis @ flat)), state


class OGD(AbstractTraining):
    r"""Updates orthogonal to the gradients of the outputs on kept examples.

    To first order such an update leaves the outputs at those examples as they are. Of
    classes the directions are $\nabla_\theta f_y(x)$ of the label's output, of
    regression those of all outputs.

    Args:
        memory: on which examples of each task.
        components: the directions of a task are replaced by so many of their principal
            components (PCA-OGD); `None` for all of them.
        train: how to train on one task.

    Raises:
        ValueError: for fewer than one component.

    References: Farajtabar et al. 2020 (arXiv 1910.07104); Doan et al. 2021 (arXiv
    2010.04003) on PCA-OGD.

    >>> OGD(components=20).components
    20
    """

    memory: AbstractSelection = RandomPoints()
    components: int | None = None
    train: Train = Train()

    def __check_init__(self):
        if self.components is not None and self.components < 1:
            raise ValueError(f"OGD: expected components >= 1, got {self.components}")

    def job(self, state, seen, *, key):
        basis = state.memory
        if basis is None:
            size = sum(leaf.size for leaf in jax.tree.leaves(parameters(seen.model)))
            basis = jnp.zeros((1, size), seen.bnn.dtype)
        complement = Complement(basis)
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, wrapper=complement)

    def learned(self, state, seen, trained, *, key):
        rows = self.memory.rows(seen, key=jax.random.fold_in(key, 1))
        new = directions(seen, rows)
        basis = state.memory
        if basis is not None:
            new = new - (new @ basis.T) @ basis
        new = _orthonormal(new, self.components)
        basis = new if basis is None else jnp.concatenate([basis, new])
        return Learned.of(point(seen.bnn, trained.losses), basis, state.tasks + 1)


def directions(seen: Seen, rows: Any) -> Float[Array, "K P"]:
    """The gradients of the outputs at these rows, by the raveled parameters."""
    x, y = jax.tree.map(lambda a: a[rows], (seen.x, seen.y))
    labels = seen.bnn.likelihood.classes and jax.tree.leaves(y)[0].ndim == 1
    model = seen.bnn.model
    if labels and seen.bnn.outputs(seen.data) > 1:
        return _gradients(model, x, y)
    count = seen.bnn.outputs(seen.data)
    size = jax.tree.leaves(x)[0].shape[0]
    each = [_gradients(model, x, jnp.full(size, c, jnp.int32)) for c in range(count)]
    return jnp.concatenate(each)


@eqx.filter_jit
def _gradients(model: PyTree, x: PyTree, which: Array) -> Float[Array, "M P"]:
    params = parameters(model)

    def one(a: PyTree, number: Array) -> Array:
        def output(now: PyTree) -> Array:
            return forward(eqx.combine(now, model), a)[number]

        return ravel_pytree(jax.grad(output)(params))[0]

    return jax.lax.map(lambda pair: one(*pair), (x, which), batch_size=64)


def _orthonormal(rows: Array, most: int | None) -> Float[Array, "K P"]:
    """An orthonormal basis of the span of the rows, or of its leading directions."""
    values, vectors = jnp.linalg.eigh(rows @ rows.T)
    order = jnp.argsort(-values)[:most]
    values, vectors = values[order], vectors[:, order]
    kept = int(jnp.sum(values > SMALL * jnp.maximum(values[0], 0.0)))
    kept = max(kept, 1) if float(values[0]) > 0 else 0
    basis = (vectors[:, :kept] / jnp.sqrt(values[:kept])).T @ rows
    # once more against rounding: the Gram matrix squares the condition number
    return jnp.linalg.qr(basis.T)[0].T if kept else jnp.zeros_like(rows[:1])
