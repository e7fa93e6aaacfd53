"""Products of structured Jacobians, without P-sized objects where not needed."""

from __future__ import annotations

from typing import TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize.jacobian import Dense, Factor, Factors, Outer, Readout, Rows
from ntkuq.linearize.tiles import symmetric_tiles


#: Numbers along a side of a tile (rows of the Jacobian): a tile stays in the cache of a
#: processor, or keeps an accelerator busy.
TILE, WIDE_TILE = 512, 4096
#: Examples along a side of a tile of a trace, and how many tiles are written out: their
#: rows are those of all outputs.
TRACE_TILE, WRITTEN_OUT = 256, 8


def gram(
    left: Factors, right: Factors, variances: list[Array]
) -> Float[Array, "N C M D"]:
    """J1 diag(variance) J2^T, the empirical NTK for a prior variance a leaf.

    For a dense layer met once this is (a a') (g g'), without any P-sized object. Where
    both are one object the result is symmetric, and made by half of its tiles.

    Args:
        left, right: factors of N and M examples.
        variances: one number, (), for each leaf.
    """
    tile = TILE if jax.default_backend() == "cpu" else WIDE_TILE
    side = max(1, tile // max(1, left.weighed))
    return _pairs(left, right, variances, _gram, side, 1)


def trace_gram(
    left: Factors, right: Factors, variances: list[Array]
) -> Float[Array, "N M"]:
    """The sum of `gram` over equal outputs, sum_c K[n, c, m, c]."""
    return _traced(
        left, right, variances, _trace_of_one if left is right else _trace_gram
    )


def network_trace_gram(
    left: Factors, right: Factors, variances: list[Array]
) -> Float[Array, "N M"]:
    """`trace_gram` of two sets of examples of one network, at the same parameters."""
    return _traced(left, right, variances, _trace_of_one)


def _traced(
    left: Factors, right: Factors, variances: list[Array], product
) -> Float[Array, "N M"]:
    cpu = jax.default_backend() == "cpu"
    side, most = (TRACE_TILE, WRITTEN_OUT) if cpu else (WIDE_TILE, 1)
    return _pairs(left, right, variances, product, side, most)


def output_gram(
    left: Factors, right: Factors, variances: list[Array]
) -> Float[Array, "C N M"]:
    """The parts of `gram` with equal outputs, K[n, c, m, c]."""
    return _total(left, right, variances, _output_gram)


def own_gram(factors: Factors, variances: list[Array]) -> Float[Array, "N C C"]:
    """The parts of `gram` with equal examples, K[n, c, n, d]."""
    total = None
    for leaf, variance in zip(factors.leaves, variances, strict=True):
        term = variance * _own_gram(leaf)
        total = term if total is None else total + term
    if total is None:
        n = factors.outputs.shape[0]
        return jnp.zeros((n, factors.weighed, factors.weighed), factors.outputs.dtype)
    return total


def _pairs(
    left: Factors,
    right: Factors,
    variances: list[Array],
    product,
    side: int,
    written_out: int,
) -> Array:
    """side: examples along a side of a tile."""
    if left is not right:
        return _total(left, right, variances, product)
    return _tiled(left, variances, product, side, written_out)


# one program where it is called outside of any: a loop is compiled at each such call
@eqx.filter_jit
def _tiled(
    factors: Factors, variances: list[Array], product, side: int, written_out: int
) -> Array:
    return symmetric_tiles(
        lambda one, two: _total(one, two, variances, product),
        _settled(factors, by_pairs=product is _gram),
        side,
        written_out=written_out,
    )


def _settled(factors: Factors, *, by_pairs: bool) -> Factors:
    """Where products take a leaf's Jacobian itself, make it once, for all tiles."""

    def settled(leaf: Factor) -> Factor:
        if _once(leaf) or _looked_up(leaf) or isinstance(leaf, Dense):
            return leaf
        if by_pairs and _takes_pairs(leaf, leaf):
            return leaf
        return Dense(leaf.dense())

    return Factors(
        factors.outputs, tuple(map(settled, factors.leaves)), factors.weighed
    )


def _total(left: Factors, right: Factors, variances: list[Array], product) -> Array:
    total = None
    for one, two, variance in zip(left.leaves, right.leaves, variances, strict=True):
        term = variance * product(one, two)
        total = term if total is None else total + term
    if total is None:
        raise ValueError("expected factors of at least one leaf, got none")
    return total


def _gradients(leaf: Factor) -> Float[Array, "N K O"]:
    if not isinstance(leaf, Outer):
        raise TypeError(f"expected an outer product, got {type(leaf).__name__}")
    return leaf.g[:, :, 0]


def _once(leaf: Factor) -> TypeGuard[Outer | Readout]:
    """A layer met at one position."""
    return isinstance(leaf, Readout) or (isinstance(leaf, Outer) and leaf.once)


def _looked_up(leaf: Factor) -> TypeGuard[Rows]:
    """A table met at one position."""
    return isinstance(leaf, Rows) and leaf.ids.shape[1] == 1


def _same_row(one: Rows, two: Rows) -> Float[Array, "N M"]:
    return (one.ids == two.ids.T).astype(one.g.dtype)


def _data(leaf: Outer | Readout) -> Float[Array, "N I"]:
    return leaf.a if isinstance(leaf, Readout) else leaf.a[:, 0]


def _gram(one: Factor, two: Factor) -> Float[Array, "N C M D"]:
    if _once(one) and _once(two):
        inner = (_data(one) @ _data(two).T)[:, None, :, None]
        return inner * _meet(one, two)
    if isinstance(one, Readout):
        one = one.outer()
    if isinstance(two, Readout):
        two = two.outer()
    if _takes_pairs(one, two) and isinstance(two, Outer | Rows):
        return _pairing(one, two)
    return jnp.einsum("ncp,mdp->ncmd", one.dense(), two.dense())


def _meet(one: Outer | Readout, two: Outer | Readout) -> Float[Array, "N C M D"]:
    """g g' of two layers met once."""
    if isinstance(one, Readout) and isinstance(two, Readout):
        return jnp.eye(one.outputs, dtype=one.a.dtype)[None, :, None, :]
    if isinstance(one, Readout):
        return jnp.transpose(_gradients(two), (2, 0, 1))[None]
    if isinstance(two, Readout):
        return _gradients(one)[:, :, None, :]
    return jnp.einsum("nco,mdo->ncmd", _gradients(one), _gradients(two))


def _takes_pairs(one: Factor, two: Factor) -> TypeGuard[Outer | Rows]:
    """Does the product by pairs of positions take fewer operations?

    For each two examples sum_ts (a_t a'_s) (g_ct g'_ds): T S (I + D O) + C D T O
    operations, against C D P for dense Jacobians (P = I O).
    """
    if not isinstance(one, Outer | Rows) or not isinstance(two, Outer | Rows):
        return False
    t, s = one.g.shape[2], two.g.shape[2]
    c, d, o = one.g.shape[1], two.g.shape[1], one.g.shape[-1]
    into = one.size if isinstance(one, Rows) else one.a.shape[-1]
    looked_up = isinstance(one, Rows) and isinstance(two, Rows)
    pairs = t * s * ((1 if looked_up else into) + d * o) + c * d * t * o
    return pairs < c * d * into * o


def _pairing(one: Outer | Rows, two: Outer | Rows) -> Float[Array, "N C M D"]:
    """The product by pairs of positions."""

    def row(at):
        if isinstance(one, Rows) and isinstance(two, Rows):
            ids, g = at
            met = (ids[:, None, None] == two.ids[None]).astype(g.dtype)
        else:
            a, g = at
            right = two.outer() if isinstance(two, Rows) else two
            met = jnp.einsum("ti,msi->tms", a, right.a)
        moved = jnp.einsum("tms,mdso->tmdo", met, two.g)
        return jnp.einsum("cto,tmdo->cmd", g, moved)

    if isinstance(one, Rows) and not isinstance(two, Rows):
        one = one.outer()
    left = one.ids if isinstance(one, Rows) else one.a
    return jax.lax.map(row, (left, one.g))


def _trace_gram(one: Factor, two: Factor) -> Float[Array, "N M"]:
    if _once(one) and _once(two):
        inner = _data(one) @ _data(two).T
        if isinstance(one, Readout) and isinstance(two, Readout):
            return one.outputs * inner
        left = one.outer() if isinstance(one, Readout) else one
        right = two.outer() if isinstance(two, Readout) else two
        return inner * _flat_product(_gradients(left), _gradients(right))
    if _looked_up(one) and _looked_up(two):
        return _same_row(one, two) * _flat_product(one.g[:, :, 0], two.g[:, :, 0])
    return _flat_product(one.dense(), two.dense())


def _trace_of_one(one: Factor, two: Factor) -> Float[Array, "N M"]:
    """The same for two factors of one network, which may know their sums."""
    left, right = (
        leaf.summed if isinstance(leaf, Outer | Dense) else None for leaf in (one, two)
    )
    if left is None or right is None:
        return _trace_gram(one, two)
    # of the layer before the last: no product over the outputs
    summed = left @ right.T
    if _once(one) and _once(two):
        return (_data(one) @ _data(two).T) * summed
    return summed


def _flat_product(
    one: Float[Array, "N K P"], two: Float[Array, "M K P"]
) -> Float[Array, "N M"]:
    # one form for a weight's gradients and its bias's Jacobian, which are the same
    # numbers: the compiler then makes their product once
    return one.reshape(len(one), -1) @ two.reshape(len(two), -1).T


def _output_gram(one: Factor, two: Factor) -> Float[Array, "C N M"]:
    if _once(one) and _once(two):
        inner = _data(one) @ _data(two).T
        if isinstance(one, Readout) and isinstance(two, Readout):
            return jnp.broadcast_to(inner, (one.outputs, *inner.shape))
        left = one.outer() if isinstance(one, Readout) else one
        right = two.outer() if isinstance(two, Readout) else two
        return inner * jnp.einsum("nco,mco->cnm", _gradients(left), _gradients(right))
    if _looked_up(one) and _looked_up(two):
        each = jnp.einsum("nco,mco->cnm", one.g[:, :, 0], two.g[:, :, 0])
        return _same_row(one, two) * each
    return jnp.einsum("ncp,mcp->cnm", one.dense(), two.dense())


def _own_gram(leaf: Factor) -> Float[Array, "N C C"]:
    if isinstance(leaf, Readout):
        size = jnp.sum(leaf.a**2, axis=-1)[:, None, None]
        return size * jnp.eye(leaf.outputs, dtype=leaf.a.dtype)
    if isinstance(leaf, Outer) and leaf.once:
        g = _gradients(leaf)
        size = jnp.sum(leaf.a[:, 0] ** 2, axis=-1)[:, None, None]
        return size * jnp.einsum("nco,ndo->ncd", g, g)
    if isinstance(leaf, Rows):
        # only positions that meet the same row have a product
        same = (leaf.ids[:, :, None] == leaf.ids[:, None, :]).astype(leaf.g.dtype)
        moved = jnp.einsum("nts,ndso->ndto", same, leaf.g)
        return jnp.einsum("ncto,ndto->ncd", leaf.g, moved)
    j = leaf.dense()
    return jnp.einsum("ncp,ndp->ncd", j, j)


def push(factors: Factors, tangent: list[Array]) -> Float[Array, "N K"]:
    """J v for v given as raveled leaves."""
    n = factors.outputs.shape[0]
    total = jnp.zeros((n, factors.weighed), factors.outputs.dtype)
    for leaf, v in zip(factors.leaves, tangent, strict=True):
        total = total + _push(leaf, v)
    return total


def _push(leaf: Factor, v: Float[Array, " P"]) -> Float[Array, "N K"]:
    if isinstance(leaf, Dense):
        return leaf.j @ v
    if isinstance(leaf, Rows):
        met = v.reshape(leaf.size, -1)[leaf.ids]
        return jnp.einsum("ncto,nto->nc", leaf.g, met)
    if isinstance(leaf, Readout):
        shape = (leaf.outputs, leaf.a.shape[-1])
        return leaf.a @ _matrix(v, shape, output_first=leaf.output_first).T
    shape = (leaf.g.shape[-1], leaf.a.shape[-1])
    matrix = _matrix(v, shape, output_first=leaf.output_first)
    moved = jnp.einsum("oi,nti->nto", matrix, leaf.a)
    return jnp.einsum("ncto,nto->nc", leaf.g, moved)


def pull(factors: Factors, cotangent: Float[Array, "N K"]) -> list[Array]:
    """J^T u as raveled leaves."""
    return [_pull(leaf, cotangent) for leaf in factors.leaves]


def _pull(leaf: Factor, u: Float[Array, "N K"]) -> Float[Array, " P"]:
    if isinstance(leaf, Dense):
        # for each example first: summed over both at once it takes five times as long
        return jnp.sum(jnp.einsum("nc,ncp->np", u, leaf.j), axis=0)
    if isinstance(leaf, Readout):
        matrix = u.T @ leaf.a
        return (matrix if leaf.output_first else matrix.T).reshape(-1)
    if isinstance(leaf, Outer) and leaf.once:
        matrix = jnp.einsum("nc,nco->no", u, _gradients(leaf)).T @ leaf.a[:, 0]
        return (matrix if leaf.output_first else matrix.T).reshape(-1)
    weighed = jnp.einsum("nc,ncto->nto", u, leaf.g)
    if isinstance(leaf, Rows):
        table = jnp.zeros((leaf.size, weighed.shape[-1]), weighed.dtype)
        return table.at[leaf.ids].add(weighed).reshape(-1)
    matrix = jnp.einsum("nto,nti->oi", weighed, leaf.a)
    return (matrix if leaf.output_first else matrix.T).reshape(-1)


def _matrix(
    v: Float[Array, " P"], shape: tuple[int, int], *, output_first: bool
) -> Float[Array, "O I"]:
    return v.reshape(shape) if output_first else v.reshape(shape[::-1]).T


def dense(factors: Factors, deviations: list[Array]) -> Float[Array, "N K P"]:
    """J diag(deviation): the explicit Jacobian, each leaf scaled by one number."""
    parts = [
        leaf.dense().astype(deviation.dtype) * deviation
        for leaf, deviation in zip(factors.leaves, deviations, strict=True)
    ]
    return jnp.concatenate(parts, axis=-1)
