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
from ntkuq.linearize.curvature.kfac import Form, Pair, diagonal, forms_of, whole
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
        if forms[at].kind != "kronecker":
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


#: A block: Kronecker factors, a matrix (P, P), or a diagonal (P,).
Moments = Pair | Array


def moments(
    layer: Layer,
    leaves: tuple[Factor, ...],
    weight: Float[Array, " N"],
    sharing: AbstractSharing,
) -> Moments:
    """The block of one batch, as a mean over its examples.

    Args:
        layer: which block.
        leaves: factors of all leaves; their gradients are weighed by sqrt(weight).
        weight: of each example, (N,), summing to 1.
        sharing: how layers shared over positions are approximated.
    """
    leaf = leaves[layer.weight]
    if layer.form.kind == "block":
        return whole(leaf)
    if isinstance(leaf, Readout):
        leaf = leaf.outer()
    if layer.form.kind == "diagonal" or not isinstance(leaf, Outer | Rows):
        return diagonal(leaf)
    if isinstance(leaf, Rows) and isinstance(sharing, Expand):
        # the inputs are unit vectors: their moments are shares of the rows
        share = jnp.broadcast_to(weight[:, None] / layer.form.copies, leaf.ids.shape)
        rows = jnp.zeros(leaf.size, leaf.g.dtype).at[leaf.ids].add(share)
        return Pair(sharing.pair(leaf).gradients, rows)
    if isinstance(leaf, Rows):
        leaf = leaf.outer()
    a = leaf.a
    if layer.bias is not None:
        a = jnp.concatenate([a, jnp.ones((*a.shape[:-1], 1), a.dtype)], axis=-1)
    share = weight / layer.form.copies
    a = jnp.sqrt(share)[:, None, None] * a
    return sharing.pair(Outer(a, leaf.g, leaf.output_first))
