"""Which leaves share a Kronecker block: the weight of a layer with its bias."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize import (
    AbstractSharing,
    Expand,
    Jacobian,
    Outer,
    Readout,
    Rows,
)
from ntkuq.linearize.curvature.kfac import Form, diagonal, forms_of
from ntkuq.linearize.jacobian import Factor
from ntkuq.models import parameters


class Layer(NamedTuple):
    """One block of the approximation.

    Args:
        weight: position of the leaf in the subset.
        bias: that of the bias that shares its block; `None` for none.
        form: "kronecker", "block" or "diagonal", see `linearize.curvature.kfac`.
    """

    weight: int
    bias: int | None
    form: Form


def layers_of(jacobian: Jacobian, sharing: AbstractSharing) -> tuple[Layer, ...]:
    """The blocks of the leaves that vary, in their order."""
    forms = forms_of(jacobian, sharing)
    paths = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(parameters(jacobian.model))
    ]
    shapes = [jacobian.plan.shapes[n] for n in jacobian.subset]
    names = {jax.tree_util.keystr(paths[n]): at for at, n in enumerate(jacobian.subset)}
    biases: dict[int, int] = {}
    for at, n in enumerate(jacobian.subset):
        if forms[at].kind != "kronecker" or not isinstance(sharing, Expand):
            continue
        text = jax.tree_util.keystr(paths[n])
        if not text.endswith(".weight"):
            continue
        other = names.get(text.removesuffix("weight") + "bias")
        site = jacobian.site(n)
        if other is None or site is None or site.kind == "rows":
            continue
        if math.prod(shapes[other]) == site.out:
            biases[at] = other
    shared = set(biases.values())
    return tuple(
        Layer(at, biases.get(at), form)
        for at, form in enumerate(forms)
        if at not in shared
    )


class Kron(NamedTuple):
    """Means of g g^T, (O, O), and of a a^T, (I, I), or its diagonal (I,)."""

    gradients: Array
    inputs: Array


#: A block: Kronecker factors, a matrix (P, P), or a diagonal (P,).
Moments = Kron | Array


def moments(
    layer: Layer, leaves: tuple[Factor, ...], weight: Float[Array, " N"]
) -> Moments:
    """The block of one batch, as a mean over its examples.

    Args:
        layer: which block.
        leaves: factors of all leaves; their gradients are weighed by sqrt(weight).
        weight: of each example, (N,), summing to 1.
    """
    leaf = leaves[layer.weight]
    if layer.form.kind == "kronecker" and isinstance(leaf, Readout):
        leaf = leaf.outer()
    if layer.form.kind == "kronecker" and isinstance(leaf, Outer | Rows):
        return _kron(layer, leaf, weight)
    if layer.form.kind == "block":
        j = leaf.dense()
        flat = j.reshape(-1, j.shape[-1])
        return flat.T @ flat
    return diagonal(leaf)


def _kron(layer: Layer, leaf: Outer | Rows, weight: Float[Array, " N"]) -> Kron:
    g = leaf.g.reshape(-1, leaf.g.shape[-1])
    if isinstance(leaf, Rows):
        share = jnp.broadcast_to(weight[:, None] / layer.form.copies, leaf.ids.shape)
        counts = jnp.zeros(leaf.size, g.dtype).at[leaf.ids].add(share)
        return Kron(g.T @ g, counts)
    a = leaf.a
    if layer.bias is not None:
        a = jnp.concatenate([a, jnp.ones((*a.shape[:-1], 1), a.dtype)], axis=-1)
    share = weight / layer.form.copies
    flat = (jnp.sqrt(share)[:, None, None] * a).reshape(-1, a.shape[-1])
    return Kron(g.T @ g, flat.T @ flat)
