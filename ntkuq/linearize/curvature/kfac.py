"""Kronecker-factored curvature: A (x) B for each matrix, and exact diagonals.

For a weight matrix met once by each example, G = sum_n (g g^T) (x) (a a^T) is
approximated by  (sum_n g g^T) (x) (1/N sum_n a a^T): exact for one datum, and for deep
linear networks with a Gaussian likelihood. A layer shared over T positions is taken
either as T data (expand) or by the sum of its gradients and the mean of its inputs
(reduce). Biases and other small leaves keep their exact block; a large leaf that meets
data in no known site keeps its exact diagonal.

References: Martens and Grosse 2015 (arXiv 1503.05671); Eschenhagen et al. 2023
(arXiv 2311.00636); George et al. 2018 (arXiv 1806.03884) for the corrected eigenvalues.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.chunks import factor_chunk_size
from ntkuq.linearize.curvature.accumulate import (
    Hessians,
    Seen,
    Summary,
    accumulate,
)
from ntkuq.linearize.curvature.blocks import Blocks
from ntkuq.linearize.curvature.fisher import AbstractFisher
from ntkuq.linearize.curvature.forms import Block, Diag, Rotated
from ntkuq.linearize.examples import AbstractExamples
from ntkuq.linearize.jacobian import (
    Factor,
    Factors,
    Jacobian,
    Outer,
    Readout,
    Rows,
)
from ntkuq.linearize.triangular import self_product
from ntkuq.models import AbstractLikelihood


#: Leaves without a Kronecker form keep their exact block up to this size.
BLOCK_LIMIT = 2048


class AbstractSharing(eqx.Module):
    """What becomes of the positions at which a layer is shared."""

    @abc.abstractmethod
    def pair(self, leaf: Outer | Rows) -> Pair:
        """Sums over the examples of one chunk."""

    @abc.abstractmethod
    def copies(self, positions: int) -> int:
        """How many data an example counts for in the mean over inputs."""


class Expand(AbstractSharing):
    """Each position is a datum of its own.

    Exact where the loss is a sum over positions of a deep linear network (a sequence
    labeled position by position).

    >>> Expand()
    Expand()
    """

    def pair(self, leaf):
        g = leaf.g.reshape(-1, leaf.g.shape[-1])
        if isinstance(leaf, Rows):
            return Pair(self_product(g), _counts(leaf))
        a = leaf.a.reshape(-1, leaf.a.shape[-1])
        return Pair(self_product(g), self_product(a))

    def copies(self, positions):
        return positions


class Reduce(AbstractSharing):
    """An example's gradients are summed, its inputs averaged over the positions.

    Exact where the positions of a deep linear network are averaged before the loss
    (a classifier with global average pooling).

    >>> Reduce()
    Reduce()
    """

    def pair(self, leaf):
        g = jnp.sum(leaf.g, axis=2).reshape(-1, leaf.g.shape[-1])
        a = _shares(leaf) if isinstance(leaf, Rows) else jnp.mean(leaf.a, axis=1)
        return Pair(self_product(g), self_product(a))

    def copies(self, positions):
        del positions
        return 1


class Pair(NamedTuple):
    """Sums of g g^T, (O, O), and of a a^T, (I, I), or its diagonal (I,)."""

    gradients: Array
    inputs: Array


class Form(NamedTuple):
    """How the block of a leaf is represented.

    kind: "kronecker", "block" or "diagonal".
    copies: of "kronecker": data that an example counts for.
    centered: do gradients of the outputs sum to 0? Then the direction of equal outputs
        has no curvature, which sums in float32 alone would not show.
    """

    kind: str
    copies: int
    output_first: bool
    centered: bool = False


def _counts(leaf: Rows) -> Float[Array, " V"]:
    ones = jnp.ones(leaf.ids.shape, leaf.g.dtype)
    return jnp.zeros(leaf.size, leaf.g.dtype).at[leaf.ids].add(ones)


def _shares(leaf: Rows) -> Float[Array, "N V"]:
    """The mean over positions of the unit vectors of each example."""
    count, positions = leaf.ids.shape
    each = jnp.arange(count)[:, None]
    zeros = jnp.zeros((count, leaf.size), leaf.g.dtype)
    return zeros.at[each, leaf.ids].add(1.0) / positions


def forms_of(
    jacobian: Jacobian, sharing: AbstractSharing | None, *, invariant: bool = False
) -> tuple[Form, ...]:
    """The form of each leaf; `sharing` is `None` for diagonals throughout.

    invariant: of the likelihood, see `shift_invariant`.
    """
    forms = []
    for leaf, size in zip(jacobian.subset, jacobian.sizes, strict=True):
        sites = [site for site in jacobian.plan.sites if site.leaf == leaf]
        oriented = {
            (site.kind == "rows", site.output_first, site.into) for site in sites
        }
        if sharing is None:
            forms.append(Form("diagonal", 1, True))
        elif len(oriented) == 1 and (len(sites) == 1 or sites[0].kind != "rows"):
            positions = sum(site.positions for site in sites)
            copies = sharing.copies(positions)
            forms.append(Form("kronecker", copies, sites[0].output_first))
        else:
            kind = "block" if size <= BLOCK_LIMIT else "diagonal"
            forms.append(Form(kind, 1, True))
    if not invariant:
        return tuple(forms)
    ends = jacobian.plan.readout
    return tuple(
        form._replace(centered=leaf in ends)
        for leaf, form in zip(jacobian.subset, forms, strict=True)
    )


def decomposed(jacobian: Jacobian, sharing: AbstractSharing) -> list[int]:
    """The sides of the matrices that are decomposed, of all leaves."""
    sides: list[int] = []
    for leaf, size, form in zip(
        jacobian.subset, jacobian.sizes, forms_of(jacobian, sharing), strict=True
    ):
        if form.kind == "block":
            sides.append(size)
        if form.kind != "kronecker":
            continue
        site = next(site for site in jacobian.plan.sites if site.leaf == leaf)
        sides.append(site.out)
        # counts of rows are a diagonal already
        if site.kind != "rows" or not isinstance(sharing, Expand):
            sides.append(site.into)
    return sides


class Step(eqx.Module):
    """The step of `accumulate`: what each leaf's block is made from."""

    forms: tuple[Form, ...] = eqx.field(static=True)
    sharing: AbstractSharing

    def __call__(self, factors: Factors, hessians: Hessians | None = None) -> list[Any]:
        out = []
        for form, leaf in zip(self.forms, factors.leaves, strict=True):
            if hessians is not None and isinstance(leaf, Readout):
                out.append(_readout(form, leaf, hessians))
            elif form.kind == "kronecker" and isinstance(leaf, Outer | Rows):
                out.append(self.sharing.pair(leaf))
            elif form.kind == "block":
                out.append(whole(leaf))
            else:
                out.append(diagonal(leaf))
        return out


def _readout(form: Form, leaf: Readout, hessians: Hessians) -> Any:
    """The same for a last layer, whose gradients are the Hessian's square root."""
    if form.kind == "kronecker":
        gradients = hessians.summed(jnp.ones(len(leaf.a), leaf.a.dtype))
        return Pair(gradients, self_product(leaf.a))
    if form.kind == "block":  # the bias: ones for inputs
        return hessians.summed(leaf.a[:, 0] ** 2)
    each = jnp.diagonal(hessians.each(), axis1=-2, axis2=-1)
    values = each.T @ leaf.a**2
    return (values if leaf.output_first else values.T).reshape(-1)


def whole(leaf: Factor) -> Float[Array, "P P"]:
    """The exact block sum_n J_n^T J_n of one leaf."""
    j = leaf.dense()
    flat = j.reshape(-1, j.shape[-1])
    return flat.T @ flat


def diagonal(leaf: Factor) -> Float[Array, " P"]:
    """The exact diagonal of sum_n J_n^T J_n for one leaf."""
    if isinstance(leaf, Outer) and leaf.once:
        # sum_n,k (g_o a_i)^2 = (sum_k g_o^2)^T (a_i^2)
        g, a = jnp.sum(leaf.g[:, :, 0] ** 2, axis=1), leaf.a[:, 0] ** 2
        values = g.T @ a
        return (values if leaf.output_first else values.T).reshape(-1)
    if isinstance(leaf, Rows):
        # gradients of one row within an example add before they are squared
        leaf = leaf.merged()
        values = jnp.sum(leaf.g**2, axis=1)
        table = jnp.zeros((leaf.size, values.shape[-1]), values.dtype)
        return table.at[leaf.ids].add(values).reshape(-1)
    return jnp.sum(leaf.dense() ** 2, axis=(0, 1))


def kronecker_blocks(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    examples: AbstractExamples,
    variances: list[Array],
    outputs: int,
    *,
    sharing: AbstractSharing | None,
    fisher: AbstractFisher | None = None,
) -> tuple[Blocks, Summary]:
    """One pass over the data in chunks; only the blocks stay in memory.

    sharing: how layers shared over positions are approximated; `None` for the exact
        diagonal of every leaf.
    """
    forms = forms_of(jacobian, sharing, invariant=likelihood.shift_invariant)
    itemsize = variances[0].dtype.itemsize
    size = factor_chunk_size(jacobian, outputs, itemsize)
    step = Step(forms, Expand() if sharing is None else sharing)
    seen: Seen = accumulate(step, jacobian, likelihood, examples, size, fisher)
    statistics = _Statistics(seen.total, forms)
    return _decomposed(statistics, variances, seen.examples), seen.summary


class _Statistics(eqx.Module):
    """Sums over the data, one entry a leaf, and how blocks are made from them."""

    sums: list[Any]
    forms: tuple[Form, ...] = eqx.field(static=True)


def _decomposed(statistics: _Statistics, variances: list[Array], count: int) -> Blocks:
    made = tuple(
        decompose(value, form, variance.dtype, count)
        for value, form, variance in zip(
            statistics.sums, statistics.forms, variances, strict=True
        )
    )
    return Blocks.of(made, statistics, variances, count)


def decompose(
    value: Any, form: Form, dtype: np.dtype, count: int
) -> Rotated | Block | Diag:
    """Eigendecompose a block in float64; keep it in the network's dtype."""
    if isinstance(value, Pair):
        left, left_vectors = eigh(_centered(value.gradients, form))
        mean = np.asarray(value.inputs, np.float64) / (count * form.copies)
        right, right_vectors = (mean, None) if mean.ndim == 1 else eigh(mean)
        return Rotated(
            jnp.asarray(left[:, None] * right, dtype),
            jnp.asarray(left_vectors, dtype),
            None if right_vectors is None else jnp.asarray(right_vectors, dtype),
            form.output_first,
        )
    if value.ndim == 2:
        values, vectors = eigh(_centered(value, form))
        return Block(jnp.asarray(values, dtype), jnp.asarray(vectors, dtype))
    return Diag(value)


def _centered(matrix: Array, form: Form) -> np.ndarray:
    """In float64; a float32 sum over outputs that only differ, without what they share.

    Rounding of a float64 sum is below any prior.
    """
    found = np.asarray(matrix, np.float64)
    if not form.centered or matrix.dtype == found.dtype:
        return found
    rows = found - found.mean(axis=0)
    return rows - rows.mean(axis=1, keepdims=True)


def eigh(matrix: Array | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, at least 0, and vectors of a small matrix, in float64."""
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    return values.clip(0), vectors


def merged(one: Blocks, two: Blocks) -> Blocks:
    """The blocks of both data sets, from the sums that each kept."""
    if one.statistics is None or two.statistics is None:
        raise TypeError(
            "expected curvatures that can be added, got one with corrected "
            "eigenvalues: fit EKFAC() again to all data, or use KFAC()"
        )
    sums = jax.tree.map(jnp.add, one.statistics.sums, two.statistics.sums)
    statistics = _Statistics(sums, one.statistics.forms)
    return _decomposed(statistics, one.variances, one.count + two.count)


class Correction(eqx.Module):
    """The step of `accumulate` for EKFAC: second moments along the eigenvectors."""

    blocks: tuple[Rotated | Block | Diag, ...]

    def __call__(self, factors: Factors, hessians: Hessians | None = None) -> list[Any]:
        out = []
        for block, leaf in zip(self.blocks, factors.leaves, strict=True):
            if not isinstance(block, Rotated):
                out.append(None)
            elif hessians is not None and isinstance(leaf, Readout):
                # sum_n (u^T H_n u) (v^T a_n)^2
                left, each = block.left, hessians.each()
                turned = jnp.einsum("co,ncd,do->no", left, each, left)
                a = leaf.a if block.right is None else leaf.a @ block.right
                out.append(turned.T @ a**2)
            else:
                out.append(_moments(block, leaf))
        return out


def _moments(block: Rotated, leaf: Factor) -> Float[Array, "O I"]:
    turned = block.turned(leaf)
    values, (out, into) = diagonal(turned), block.values.shape
    if isinstance(turned, Rows):  # rows by gradients
        return values.reshape(into, out).T
    return values.reshape(out, into)


def corrected_blocks(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    examples: AbstractExamples,
    variances: list[Array],
    outputs: int,
    *,
    sharing: AbstractSharing,
    fisher: AbstractFisher | None = None,
) -> tuple[Blocks, Summary]:
    """KFAC with the exact second moments along its eigenvectors: a second pass.

    Of all matrices with these eigenvectors it is the one nearest to G in the Frobenius
    norm.
    """
    kfac, summary = kronecker_blocks(
        *(jacobian, likelihood, examples, variances, outputs),
        sharing=sharing,
        fisher=fisher,
    )
    size = factor_chunk_size(jacobian, outputs, variances[0].dtype.itemsize)
    step = Correction(kfac.blocks)
    seen = accumulate(step, jacobian, likelihood, examples, size, fisher)
    made = tuple(
        block
        if values is None or not isinstance(block, Rotated)
        else Rotated(values, block.left, block.right, block.output_first)
        for block, values in zip(kfac.blocks, seen.total, strict=True)
    )
    return Blocks.of(made, None, variances, kfac.count), summary
