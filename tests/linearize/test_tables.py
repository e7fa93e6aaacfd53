"""Looked-up rows: equal to products with unit vectors, which are never written out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.linearize import (
    Examples,
    Expand,
    Factors,
    Jacobian,
    Reduce,
    Rows,
    corrected_blocks,
)
from ntkuq.linearize.curvature.forms import Diag, Rotated
from ntkuq.linearize.curvature.kfac import Correction, diagonal, kronecker_blocks
from ntkuq.models import Gaussian
from tests.linearize.networks import KEY, Bag, normal
from tests.oracle import dense as oracle


#: Examples, weights of outputs, positions, width, rows of the table.
N, K, T, WIDTH, V = 4, 2, 6, 3, 5


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def rows(positions=T):
    """Most rows are met several times by an example."""
    ids = jax.random.randint(KEY, (N, positions), 0, V)
    return Rows(ids, oracle.double(normal(N, K, positions, WIDTH)), V)


def written_out(leaf):
    unit = np.eye(leaf.size)[np.asarray(leaf.ids)]
    return np.einsum("ntv,nkto->nkvo", unit, np.asarray(leaf.g))


def orthogonal(size):
    return jnp.linalg.qr(oracle.double(normal(size, size, number=size)))[0]


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("positions", [1, T])
def test_rows_are_added_in_place(positions):
    leaf = rows(positions)
    expected = written_out(leaf)
    flat = expected.reshape(N, K, -1)
    merged = eqx.filter_jit(Rows.merged)(leaf)
    close(leaf.dense(), flat)
    close(merged.dense(), flat)
    close(jax.vmap(Rows.dense)(leaf), flat)
    close(diagonal(leaf), np.sum(expected**2, axis=(0, 1)).reshape(-1))
    for ids, g in zip(np.asarray(merged.ids), np.asarray(merged.g), strict=True):
        met = ids[np.abs(g).sum((0, 2)) > 0]
        assert len(set(met)) == len(met)


@pytest.mark.parametrize("positions", [1, T, 3 * T])
@pytest.mark.parametrize("full", [True, False])
def test_rotated_blocks_of_a_table(positions, full):
    """More positions than K WIDTH = 6 make the Jacobian first, fewer the inputs."""
    leaf, left = rows(positions), orthogonal(WIDTH)
    right = orthogonal(V) if full else None
    scale = jnp.exp(oracle.double(normal(WIDTH, V, number=9)))
    block = Rotated(scale, left, right, False)
    basis = np.eye(V) if right is None else np.asarray(right)
    j = np.einsum("nkvo,op,vi->nkpi", written_out(leaf), left, basis)
    close(block.marginal(leaf, scale), np.einsum("nkoi,nloi,oi->nkl", j, j, scale))
    close(block.variance(leaf, scale), np.einsum("nkoi,oi->nk", j**2, scale))
    flat = (j * np.sqrt(scale)).reshape(N * K, -1)
    close(block.joint(leaf, scale), flat @ flat.T)
    (moments,) = Correction((block,))(factors(leaf))
    close(moments, np.sum(j**2, axis=(0, 1)))


def factors(leaf):
    """Those of a network of one leaf."""
    count, weighed = leaf.g.shape[:2]
    return Factors(jnp.zeros((count, weighed)), (leaf,), weighed)


@pytest.mark.parametrize("positions", [1, T])
def test_a_diagonal_of_a_table(positions):
    leaf, j = rows(positions), written_out(rows(positions)).reshape(N, K, -1)
    scale = jnp.exp(oracle.double(normal(V * WIDTH, number=9)))
    block = Diag(scale)
    close(block.marginal(leaf, scale), np.einsum("nkp,nlp,p->nkl", j, j, scale))
    close(block.variance(leaf, scale), j**2 @ np.asarray(scale))


def largest(jaxpr):
    """The size of the largest array that a program makes."""
    found = 0
    for equation in jaxpr.eqns:
        found = max(found, *(int(np.prod(v.aval.shape)) for v in equation.outvars))
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found = max(found, largest(inner))
    return found


@pytest.mark.parametrize("right", [True, False])
def test_no_unit_vectors_are_written_out(right):
    """Of T positions and V rows, T V numbers an example; a Jacobian has V O K."""
    count, positions, size = 8, 64, 50
    leaf = Rows(
        jnp.zeros((count, positions), int), jnp.ones((count, 1, positions, 2)), size
    )
    block = Rotated(
        jnp.ones((2, size)), jnp.eye(2), jnp.eye(size) if right else None, False
    )
    scale = jnp.ones((2, size))
    most = size**2  # the sums of the inputs, with `Reduce`
    assert count * size * 2 < most < count * positions * size
    for fn in (
        Rows.dense,
        lambda leaf: block.marginal(leaf, scale),
        lambda leaf: block.variance(leaf, scale),
        lambda leaf: block.joint(leaf, scale),
        lambda leaf: Correction((block,))(factors(leaf)),
        lambda leaf: (Reduce() if right else Expand()).pair(leaf),
    ):
        assert largest(jax.make_jaxpr(fn)(leaf).jaxpr) <= most


@pytest.mark.parametrize("sharing", [Expand(), Reduce()])
def test_corrected_eigenvalues_are_moments_along_the_eigenvectors(sharing):
    x = jax.random.randint(KEY, (6, 4), 0, 7)
    model = Bag(
        normal(7, 4, number=15), normal(7, 4, number=16), eqx.nn.Linear(4, 1, key=KEY)
    )
    model = oracle.double(model)
    found = Jacobian.at(model, x[0])
    likelihood, ones = Gaussian(), [jnp.ones(())] * 4
    examples = Examples(x, jnp.zeros((6, 1)))
    problem = (found, likelihood, examples, ones, 1)
    plain, _ = kronecker_blocks(*problem, sharing=sharing)
    corrected, _ = corrected_blocks(*problem, sharing=sharing)
    start = 0
    j = oracle.jacobian(model, x)
    for one, two, size in zip(plain.blocks[:2], corrected.blocks[:2], found.sizes[:2]):
        part = j[:, start : start + size].reshape(6, 7, 4)
        start += size
        assert isinstance(one, Rotated)
        right = np.eye(7) if one.right is None else np.asarray(one.right)
        turned = np.einsum("nvo,op,vi->npi", part, one.left, right)
        close(two.values, np.sum(turned**2, axis=0))
