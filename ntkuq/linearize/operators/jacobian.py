"""The Jacobian of N examples as a lineax operator, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.chunks import chunk_size, factor_chunk_size, fitting, rows
from ntkuq.linearize.curvature.kfac import diagonal
from ntkuq.linearize.jacobian import Jacobian
from ntkuq.linearize.operators.scan import map_rows, sum_rows
from ntkuq.linearize.products import dense
from ntkuq.models import forward


class Local(eqx.Module):
    """A batch linearized.

    tangent: list of leaves -> J v, (B, C).
    like: shapes and types of the leaves.
    dtype: the type of the outputs.
    root: S, (B, C, K), or `None` where nothing weighs the outputs.
    """

    tangent: Callable
    like: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    root: Array | None

    def push(self, v: Float[Array, " P"]) -> Float[Array, "B K"]:
        """Sᵀ J v."""
        out = self.tangent(unravel(v, self.like))
        return out if self.root is None else jnp.einsum("bck,bc->bk", self.root, out)

    def pull(self, u: Float[Array, "B K"]) -> Float[Array, " P"]:
        """Jᵀ S u."""
        inner = u if self.root is None else jnp.einsum("bck,bk->bc", self.root, u)
        # leaf by leaf: transposing the slices of one vector would add up P-sized pads
        back = jax.linear_transpose(self.tangent, list(self.like))
        (leaves,) = back(inner.astype(self.dtype))
        return ravel(leaves)


def ravel(leaves: list[Array]) -> Float[Array, " P"]:
    """The leaves as one vector, in the type that holds them all."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])


def unravel(vector: Float[Array, " P"], like) -> list[Array]:
    """The leaves, with shapes and types as in `like`, of one vector."""
    out, start = [], 0
    for leaf in like:
        part = vector[start : start + leaf.size].reshape(leaf.shape)
        out.append(part.astype(leaf.dtype))
        start += leaf.size
    return out


class JacobianOperator(lx.AbstractLinearOperator):
    r"""$J$ (or $S^\top J$) of N examples: parameters (P,) to outputs (N, C) or (N, K).

    Matrix-free: a product is one forward-mode pass through the network, a product with
    the transpose one backward pass, for at most `batch_size` examples at a time. The
    parameters are one vector, the leaves of `jacobian.subset` raveled in order, so that
    the operator composes with the block matrices of this room: `J @ prior @ J.T`.

    `lineax.linearise(operator)` (which `lineax.CG` calls) runs the forward pass once
    and keeps the activations, where all examples fit into one batch; otherwise it is
    the operator itself, and every product repeats the forward pass in batches.

    Args:
        jacobian: where to linearize, and the leaves that vary.
        x: inputs (N, …).
        seed: what weighs the outputs, as in `Jacobian.factors`: (f (C,), *extra of one
            example) -> S (C, K), such as `likelihood.hessian_sqrt`. `None`: S = I.
        extra: further arguments of `seed`, with leading axis N, such as targets.
        batch_size: examples at a time; `None`: what fits into 128 MiB.

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> line = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> JacobianOperator(Jacobian.at(line, x[0]), x).as_matrix()
    Array([[1., 2., 1.],
           [3., 4., 1.]], dtype=float32)
    """

    jacobian: Jacobian
    x: PyTree
    seed: Callable | None
    extra: tuple
    outputs: int = eqx.field(static=True)
    out_dtype: jnp.dtype = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(
        self,
        jacobian: Jacobian,
        x: PyTree,
        seed: Callable | None = None,
        *extra: PyTree,
        batch_size: int | None = None,
    ):
        count = rows(x)
        if any(leaf.shape[0] != count for leaf in jax.tree.leaves(extra)):
            got = [leaf.shape for leaf in jax.tree.leaves(extra)]
            raise ValueError(
                f"JacobianOperator: expected arguments of the seed with {count} rows, "
                f"as x has; got shapes {got}"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(
                f"JacobianOperator: expected batch_size >= 1 or None, got {batch_size}"
            )
        self.jacobian, self.x, self.seed, self.extra = jacobian, x, seed, extra
        f, row = _shapes(jacobian, x, seed, extra)
        self.outputs, self.out_dtype = row.size, jnp.result_type(f, row)
        numbers = jacobian.plan.activations + f.size * row.size
        fits = fitting(numbers, self.out_dtype.itemsize)
        self.batch_size = fits if batch_size is None else batch_size

    @property
    def dtype(self) -> jnp.dtype:
        """The type of a vector of the parameters: the one that holds all leaves."""
        return vector_type(self.jacobian)

    @property
    def whole(self) -> bool:
        """Do all examples fit into one batch?"""
        return rows(self.x) <= self.batch_size

    def mv(self, vector: Float[Array, " P"]) -> Float[Array, "N K"]:
        return _push(self, vector)

    def pull(self, vector: Float[Array, "N K"]) -> Float[Array, " P"]:
        """Jᵀ u, the product with the transpose."""
        return _pull(self, vector)

    def as_matrix(self) -> Float[Array, "NK P"]:
        return self.examples().reshape(-1, self.jacobian.size)

    def examples(self) -> Float[Array, "N K P"]:
        """The dense Jacobian, one example a row: K backward passes an example."""
        return map_examples(self, lambda j: j)

    def transpose(self) -> lx.AbstractLinearOperator:
        return TransposedJacobian(self)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.jacobian.size,), self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows(self.x), self.outputs), self.out_dtype)


class TransposedJacobian(lx.AbstractLinearOperator):
    """Jᵀ: outputs (N, K) to parameters (P,)."""

    operator: JacobianOperator

    def mv(self, vector: Float[Array, "N K"]) -> Float[Array, " P"]:
        return self.operator.pull(vector)

    def as_matrix(self) -> Float[Array, "P NK"]:
        return self.operator.as_matrix().T

    def transpose(self) -> lx.AbstractLinearOperator:
        return self.operator

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.operator.out_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.operator.in_structure()


def vector_type(jacobian: Jacobian) -> jnp.dtype:
    """The type of a vector of the parameters: the one that holds all leaves."""
    return jnp.result_type(*(leaf.dtype for leaf in jacobian.leaves))


def _shapes(jacobian: Jacobian, x: PyTree, seed: Callable | None, extra: tuple):
    """f (C,) and a row of S (K,), as shapes and types; nothing is computed."""

    def one(jacobian, seed, x, extra):
        f = forward(jacobian.model, jax.tree.map(lambda a: a[0], x))
        if seed is None:
            return f, f
        root = seed(f, *jax.tree.map(lambda a: a[0], extra))
        if root.ndim != 2 or root.shape[0] != f.shape[0]:
            raise ValueError(
                f"JacobianOperator: expected a seed f (C,) -> S (C, K) with C = "
                f"{f.shape[0]}, got shape {root.shape}"
            )
        return f, root[0]

    return eqx.filter_eval_shape(one, jacobian, seed, x, extra)


def network(jacobian: Jacobian, x: PyTree) -> Callable:
    """Leaves -> outputs (B, C) of a batch."""

    def outputs(leaves: list[Array]) -> Float[Array, "B C"]:
        model = jacobian.replace(leaves)
        return jax.vmap(lambda a: forward(model, a))(x)

    return outputs


def localize(operator: JacobianOperator, x: PyTree, extra: tuple) -> Local:
    """Linearize a batch: the forward pass, and S at its outputs."""
    jacobian = operator.jacobian
    f, tangent = jax.linearize(network(jacobian, x), jacobian.leaves)
    like = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in jacobian.leaves)
    if operator.seed is None:
        return Local(tangent, like, f.dtype, None)
    if jacobian.shift is not None:
        f = f + tangent(unravel(ravel(jacobian.shift), like))
    return Local(tangent, like, f.dtype, jax.vmap(operator.seed)(f, *extra))


@eqx.filter_jit
def _push(operator: JacobianOperator, vector: Array) -> Array:
    def batch(data: PyTree) -> Array:
        return localize(operator, *data).push(vector)

    return map_rows(batch, (operator.x, operator.extra), operator.batch_size)


@eqx.filter_jit
def _pull(operator: JacobianOperator, vector: Array) -> Array:
    def batch(data: PyTree) -> Array:
        (x, extra), u = data
        return localize(operator, x, extra).pull(u)

    data = ((operator.x, operator.extra), vector)
    return sum_rows(batch, data, operator.batch_size)


@eqx.filter_jit
def gram_product(operator: JacobianOperator, vector: Array) -> Array:
    """JᵀJ v, one forward pass for both products."""

    def batch(data: PyTree) -> Array:
        local = localize(operator, *data)
        return local.pull(local.push(vector))

    return sum_rows(batch, (operator.x, operator.extra), operator.batch_size)


def _dense(operator: JacobianOperator, data: PyTree) -> Float[Array, "B K P"]:
    x, extra = data
    factors = operator.jacobian.factors(x, operator.seed, *extra)
    return dense(factors, [jnp.ones((), operator.out_dtype) for _ in factors.leaves])


@eqx.filter_jit
def map_examples(operator: JacobianOperator, fn: Callable) -> Array:
    """fn(dense Jacobian (B, K, P)) of each batch, joined over the examples."""

    def batch(data: PyTree) -> Array:
        return fn(_dense(operator, data))

    return map_rows(batch, (operator.x, operator.extra), _dense_batch(operator))


@eqx.filter_jit
def gram_matrix(operator: JacobianOperator) -> Float[Array, "P P"]:
    """JᵀJ."""

    def batch(data: PyTree) -> Array:
        flat = _dense(operator, data).reshape(-1, operator.jacobian.size)
        return flat.T @ flat

    data = (operator.x, operator.extra)
    return sum_rows(batch, data, _dense_batch(operator)).astype(operator.dtype)


@eqx.filter_jit
def gram_diagonal(operator: JacobianOperator) -> Float[Array, " P"]:
    """The diagonal of JᵀJ, leaf by leaf from factors."""
    jacobian = operator.jacobian

    def batch(data: PyTree) -> Array:
        x, extra = data
        factors = jacobian.factors(x, operator.seed, *extra)
        return jnp.concatenate([diagonal(leaf) for leaf in factors.leaves])

    fits = factor_chunk_size(jacobian, operator.outputs, operator.out_dtype.itemsize)
    size = min(operator.batch_size, fits)
    data = (operator.x, operator.extra)
    return sum_rows(batch, data, size).astype(operator.dtype)


def _dense_batch(operator: JacobianOperator) -> int:
    itemsize = operator.out_dtype.itemsize
    fits = chunk_size(operator.jacobian, operator.outputs, itemsize)
    return min(operator.batch_size, fits)


@eqx.filter_jit
def kept(operator: JacobianOperator) -> Local:
    """All examples linearized, the activations kept."""
    return localize(operator, operator.x, operator.extra)
