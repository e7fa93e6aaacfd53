r"""Quadratic penalties, $\tfrac12 \Delta^T \Lambda\,\Delta$, structured."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from ntkuq.linearize import AbstractCurvature
from ntkuq.linearize.curvature.blocks import Blocks
from ntkuq.linearize.curvature.forms import Block, Diag, Rotated
from ntkuq.linearize.curvature.kfac import Pair
from ntkuq.linearize.curvature.weight import WeightSpace
from ntkuq.models import parameters
from ntkuq.models.train import AbstractPenalty


class AbstractForm(eqx.Module):
    """A positive semidefinite matrix over one parameter array, or over all."""

    @abc.abstractmethod
    def apply(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        """The matrix times a raveled vector."""

    @abc.abstractmethod
    def plus(self, other: Any) -> AbstractForm:
        """The sum with another of the same class."""

    @abc.abstractmethod
    def times(self, factor: ArrayLike) -> AbstractForm:
        """The matrix multiplied by a number, 0 or more."""


class DiagonalForm(AbstractForm):
    """A diagonal.

    >>> DiagonalForm(jnp.array([2.0, 3.0])).apply(jnp.ones(2)).tolist()
    [2.0, 3.0]
    """

    values: Float[Array, " P"]

    def apply(self, vector):
        return self.values * vector

    def plus(self, other):
        return DiagonalForm(self.values + other.values)

    def times(self, factor):
        return DiagonalForm(self.values * factor)


class DenseForm(AbstractForm):
    """A full matrix.

    >>> DenseForm(jnp.eye(2)).apply(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    matrix: Float[Array, "P P"]

    def apply(self, vector):
        return self.matrix @ vector

    def plus(self, other):
        return DenseForm(self.matrix + other.matrix)

    def times(self, factor):
        return DenseForm(self.matrix * factor)


class KroneckerForm(AbstractForm):
    r"""$\sum_t G_t \otimes A_t$ over a weight matrix: $\sum_t G_t \Delta A_t$.

    The products of the tasks are kept apart: a sum of Kronecker products is none. There
    is room for more than `count` of them, so that a further task does not compile anew.

    >>> two = 2 * jnp.eye(2)[None]
    >>> form = KroneckerForm(two, jnp.eye(3)[None], jnp.asarray(1), output_first=True)
    >>> form.plus(form).apply(jnp.ones(6)).tolist()
    [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    """

    gradients: Float[Array, "T O O"]
    inputs: Float[Array, "T I I"]
    count: Int[Array, ""]
    output_first: bool = eqx.field(static=True)

    def apply(self, vector):
        rows, columns = self.gradients.shape[-1], self.inputs.shape[-1]
        shape = (rows, columns) if self.output_first else (columns, rows)
        matrix = vector.reshape(shape)
        matrix = matrix if self.output_first else matrix.T

        def more(task: Array, found: Array) -> Array:
            return found + self.gradients[task] @ (matrix @ self.inputs[task])

        found = jax.lax.fori_loop(0, self.count, more, jnp.zeros_like(matrix))
        return (found if self.output_first else found.T).reshape(-1)

    def plus(self, other):
        one, two = int(self.count), int(other.count)
        room = self.gradients.shape[0]
        while room < one + two:
            room *= 2

        def joined(first: Array, second: Array) -> Array:
            whole = jnp.zeros((room, *first.shape[1:]), first.dtype)
            whole = whole.at[:one].set(first[:one])
            return whole.at[one : one + two].set(second[:two])

        return KroneckerForm(
            joined(self.gradients, other.gradients),
            joined(self.inputs, other.inputs),
            self.count + other.count,
            self.output_first,
        )

    def times(self, factor):
        return eqx.tree_at(lambda form: form.gradients, self, self.gradients * factor)


class RotatedForm(AbstractForm):
    r"""A sum of matrices with eigenvectors $u \otimes v$: EKFAC, embeddings."""

    blocks: tuple[Rotated, ...]

    def apply(self, vector):
        found = [
            block.apply(vector, jnp.clip(block.values, 0.0)) for block in self.blocks
        ]
        return jax.tree.reduce(jnp.add, found)

    def plus(self, other):
        return RotatedForm((*self.blocks, *other.blocks))

    def times(self, factor):
        return RotatedForm(
            tuple(
                eqx.tree_at(lambda b: b.values, block, block.values * factor)
                for block in self.blocks
            )
        )


def forms_of(curvature: AbstractCurvature, variances: list[Array]) -> tuple:
    """G of a curvature: a form for each parameter array, or one over all.

    Args:
        curvature: of `Diagonal`, `KFAC`, `EKFAC` or `Full(WeightSpace())`.
        variances: the prior variance of each leaf that it was made with.

    Raises:
        TypeError: for another curvature.
    """
    if isinstance(curvature, WeightSpace):
        sizes = curvature.sizes
        root = jnp.concatenate(
            [
                jnp.broadcast_to(1.0 / jnp.sqrt(v), (size,))
                for v, size in zip(variances, sizes, strict=True)
            ]
        )
        return (DenseForm(root[:, None] * curvature.square.matrix * root),)
    if not isinstance(curvature, Blocks):
        raise TypeError(
            "expected the structure Diagonal(), KFAC(), EKFAC() or "
            f"Full(WeightSpace()), got a {type(curvature).__name__}: its matrix cannot "
            "be added over tasks"
        )
    sums = [None] * len(curvature.blocks)
    if curvature.statistics is not None:
        sums = curvature.statistics.sums
    found: list[AbstractForm] = []
    for block, total in zip(curvature.blocks, sums, strict=True):
        if isinstance(block, Diag):
            found.append(DiagonalForm(jnp.clip(block.values, 0.0)))
        elif isinstance(block, Block):
            vectors = block.vectors
            values = jnp.clip(block.values, 0.0)
            found.append(DenseForm((vectors * values) @ vectors.T))
        elif isinstance(total, Pair) and total.inputs.ndim == 2:
            # (sum g g^T) (x) (mean a a^T), as the blocks have it
            scale = jnp.trace(total.gradients) * jnp.trace(total.inputs)
            scale = jnp.sum(jnp.clip(block.values, 0.0)) / jnp.maximum(scale, 1e-30)
            found.append(
                KroneckerForm(
                    (total.gradients * scale)[None],
                    total.inputs[None],
                    jnp.asarray(1, jnp.int32),
                    block.output_first,
                )
            )
        else:
            found.append(RotatedForm((block,)))
    return tuple(found)


class Quadratic(AbstractPenalty):
    r"""$\tfrac{s}{2 N} (\theta - \theta_0)^T \Lambda\, (\theta - \theta_0)$.

    The gradient is $\tfrac{s}{N} \Lambda (\theta - \theta_0)$, and each step multiplies
    by $\Lambda$ once.

    Args:
        forms: of the matrix, one for each parameter array or one over all.
        center: theta_0, the raveled leaves.
        strength: s; with s = N times a number the penalty does not know N.
    """

    forms: tuple[AbstractForm, ...]
    center: list[Float[Array, " _"]]
    strength: Float[Array, ""]

    def __call__(self, model, at):
        delta = jax.tree.map(jnp.subtract, raveled(model), self.center)
        fixed = jax.lax.stop_gradient(delta)
        product = jax.lax.stop_gradient(multiply(self.forms, fixed))
        # the value of half the form, the gradient of the whole: one product
        value = jnp.zeros((), delta[0].dtype)
        for part, held, along in zip(delta, fixed, product, strict=True):
            value = value + jnp.vdot(part, along) - 0.5 * jnp.vdot(held, along)
        return self.strength * value / at.size


def raveled(model: PyTree) -> list[Float[Array, " _"]]:
    """The parameters, each array raveled."""
    return _raveled(jax.tree.leaves(parameters(model)))


@jax.jit
def _raveled(leaves: list[Array]) -> list[Array]:
    return [leaf.reshape(-1) for leaf in leaves]


def multiply(forms: tuple, vector: list[Array]) -> list[Array]:
    """The matrix of these forms times a vector, leaf by leaf."""
    if len(forms) == len(vector):
        return [form.apply(part) for form, part in zip(forms, vector, strict=True)]
    (form,) = forms
    sizes = [leaf.size for leaf in vector]
    starts = [sum(sizes[:n]) for n in range(1, len(sizes))]
    return list(jnp.split(form.apply(jnp.concatenate(vector)), starts))


def added(one: tuple | None, two: tuple) -> tuple:
    """The sum of two matrices, form by form; `None` for zero."""
    if one is None:
        return two
    return tuple(a.plus(b) for a, b in zip(one, two, strict=True))
