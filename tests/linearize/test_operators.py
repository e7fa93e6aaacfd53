"""Every operator equals its dense float64 matrix, and knows what it is."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from ntkuq.linearize import (
    BlockDiagonal,
    Diagonal,
    Eigh,
    EmpiricalFisher,
    HessianOperator,
    Jacobian,
    JacobianOperator,
    Kronecker,
    LowRankPlusDiagonal,
    NTKOperator,
    SampledFisher,
    TraceNTKOperator,
    chunks,
    dual_ggn_operator,
    fisher_operator,
    ggn_operator,
    ntk_operator,
    per_leaf,
)
from ntkuq.linearize.chunks import CHUNK_BYTES
from ntkuq.models import Categorical, Gaussian, LogDensity, Poisson
from tests.linearize.networks import KEY, NETWORKS, normal
from tests.oracle import dense as oracle


N, C = 5, 2


def close(got, expected):
    """Equal to rounding: 1e-10 of the largest entry."""
    scale = max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * scale)


class Problem(NamedTuple):
    model: eqx.Module
    x: jax.Array
    jacobian: Jacobian
    dense: np.ndarray
    f: jax.Array


@functools.cache
def problem(outputs=C, subset=None):
    """A small network, and its dense Jacobian (NC, P)."""
    model = oracle.double(eqx.nn.MLP(4, outputs, 3, 1, jnp.tanh, key=KEY))
    x = oracle.double(normal(N, 4, number=1))
    found = Jacobian.at(model, x[0], None if subset is None else lambda m, p: subset)
    j = oracle.jacobian(model, x, subset)
    return Problem(model, x, found, j, oracle.outputs(model, x))


def precisions(jacobian):
    """One number a leaf, and the same for each parameter."""
    each = [jnp.asarray(0.5 + n, jnp.float64) for n in range(len(jacobian.subset))]
    flat = [np.full(a.size, v) for a, v in zip(jacobian.leaves, each, strict=True)]
    return each, np.concatenate(flat)


def spd(n, number):
    a = np.asarray(oracle.double(normal(n, n, number=number)))
    return jnp.asarray(a @ a.T / n + 0.5 * np.eye(n))


@eqx.filter_jit
def targets(likelihood, f):
    return likelihood.distribution(f).sample(jax.random.key(3))


@eqx.filter_jit
def roots(seed, *each):
    """S of each example, (N, C, K)."""
    return jax.vmap(seed)(*each)


def softmax_hessian(f):
    """Blockdiagonal diag(p) - p pᵀ."""
    p = np.exp(f) / np.exp(f).sum(axis=1, keepdims=True)
    return blocks(np.eye(f.shape[1]) * p[:, None] - p[:, None] * p[:, :, None])


def blocks(matrices):
    """Block-diagonal matrix of (N, C, K) arrays, (NC, NK)."""
    return np.asarray(jax.scipy.linalg.block_diag(*np.asarray(matrices)))


def _jacobian(size=None):
    p = problem()
    return JacobianOperator(p.jacobian, p.x, batch_size=size), p.dense


def _subset(size=None):
    p = problem(subset=(1, 2))
    return JacobianOperator(p.jacobian, p.x, batch_size=size), p.dense


def _weighted(size=None):
    p = problem(3)
    seed = Categorical().hessian_sqrt
    op = JacobianOperator(p.jacobian, p.x, seed, batch_size=size)
    return op, blocks(roots(seed, p.f)).T @ p.dense


def _transposed(size=None):
    op, matrix = _jacobian(size)
    return op.T, matrix.T


def _ntk(size=None):
    p = problem()
    each, flat = precisions(p.jacobian)
    op = ntk_operator(p.jacobian, p.x, each, batch_size=size)
    return op, p.dense @ np.diag(flat) @ p.dense.T


def _ntk_full_prior(size=None):
    p = problem()
    matrix = spd(p.jacobian.size, 20)
    prior = Eigh.of(matrix)
    op = NTKOperator(JacobianOperator(p.jacobian, p.x, batch_size=size), prior)
    return op, p.dense @ np.asarray(matrix) @ p.dense.T


def _ntk_one_output(size=None):
    p = problem()
    each, flat = precisions(p.jacobian)

    def second(f):
        return jnp.eye(C, dtype=f.dtype)[:, 1:]

    op = JacobianOperator(p.jacobian, p.x, second, batch_size=size)
    j = p.dense[1::C]
    return NTKOperator(op, per_leaf(p.jacobian, each)), j @ np.diag(flat) @ j.T


def _ntk_trace(size=None):
    p = problem()
    each, flat = precisions(p.jacobian)
    op = JacobianOperator(p.jacobian, p.x, batch_size=size)
    full = (p.dense @ np.diag(flat) @ p.dense.T).reshape(N, C, N, C)
    traced = np.einsum("ncmc->nm", full)
    return TraceNTKOperator(op, per_leaf(p.jacobian, each)), traced


def _ggn(size=None):
    p = problem(3)
    op = ggn_operator(p.jacobian, Categorical(), p.x, batch_size=size)
    return op, oracle.ggn(p.dense, softmax_hessian(p.f))


def _ggn_at_targets(size=None):
    # -d2/df2 of a logistic density, where f enters through y - f only
    p = problem()
    likelihood = LogDensity(lambda f, y: jax.scipy.stats.logistic.logpdf(y - f[0]))
    y = oracle.double(normal(N, C, number=5))
    op = ggn_operator(p.jacobian, likelihood, p.x, y, batch_size=size)
    q = 1 / (1 + np.exp(p.f - y))
    return op, oracle.ggn(p.dense, np.diag(np.ravel(2 * q * (1 - q))))


def _ggn_of_the_linearized_network(size=None):
    p = problem(3)
    shift = [0.1 * jnp.cos(jnp.arange(float(n))) for n in p.jacobian.sizes]
    at = eqx.tree_at(
        lambda j: j.shift, p.jacobian, shift, is_leaf=lambda leaf: leaf is None
    )
    f = p.f + (p.dense @ np.concatenate(shift)).reshape(p.f.shape)
    op = ggn_operator(at, Categorical(), p.x, batch_size=size)
    return op, oracle.ggn(p.dense, softmax_hessian(f))


def _dual(size=None):
    p = problem(3)
    each, flat = precisions(p.jacobian)
    op = dual_ggn_operator(p.jacobian, Categorical(), p.x, each, batch_size=size)
    r = blocks(roots(Categorical().hessian_sqrt, p.f)).T @ p.dense
    return op, r @ np.diag(flat) @ r.T


def _fisher(size=None):
    p = problem(3)
    y, likelihood, fisher = jnp.zeros(N, int), Categorical(), SampledFisher(KEY, 4)
    op = fisher_operator(p.jacobian, likelihood, p.x, y, fisher, batch_size=size)
    s = roots(
        lambda f, key: fisher.weights(likelihood, f, key), p.f, *fisher.extras(y, 0)
    )
    r = blocks(s).T @ p.dense
    return op, r.T @ r


def _empirical(size=None):
    p = problem(3)
    y = targets(Categorical(), p.f)
    op = fisher_operator(
        p.jacobian, Categorical(), p.x, y, EmpiricalFisher(), batch_size=size
    )
    residual = np.eye(3)[np.asarray(y)] - np.asarray(jax.nn.softmax(p.f))
    g = np.einsum("nc,ncp->np", residual, p.dense.reshape(N, 3, -1))
    return op, g.T @ g


def _hessian(likelihood, outputs, *, prior):
    def make(size=None):
        p = problem(outputs)
        y = targets(likelihood, p.f)
        each, flat = precisions(p.jacobian)
        precision = per_leaf(p.jacobian, each) if prior else None
        op = HessianOperator(p.jacobian, likelihood, p.x, y, precision, batch_size=size)
        leaves, f = oracle.split(p.model)
        vector, unravel = jax.flatten_util.ravel_pytree(leaves)

        def loss(vector):
            fit = jax.vmap(lambda a, b: likelihood.log_prob(f(unravel(vector), a), b))(
                p.x, y
            )
            return -jnp.sum(fit) + prior * 0.5 * jnp.sum(flat * vector**2)

        return op, np.asarray(jax.jit(jax.hessian(loss))(vector))

    return make


#: name -> batch size -> (operator, dense matrix).
FREE = {
    "jacobian": _jacobian,
    "subset": _subset,
    "weighted": _weighted,
    "transposed": _transposed,
    "ntk": _ntk,
    "ntk, dense prior": _ntk_full_prior,
    "ntk, one output": _ntk_one_output,
    "ntk, trace": _ntk_trace,
    "ggn": _ggn,
    "ggn, at targets": _ggn_at_targets,
    "ggn, linearized": _ggn_of_the_linearized_network,
    "dual": _dual,
    "fisher": _fisher,
    "empirical fisher": _empirical,
    "hessian": _hessian(Categorical(), 3, prior=False),
    "hessian, prior": _hessian(Poisson(), 1, prior=True),
}


def _eigh():
    return Eigh.of(spd(4, 30)), spd(4, 30)


def _kronecker_eigh():
    op, matrix = _kronecker()
    return op.eigh(), matrix


def _kronecker():
    a, b = spd(3, 31), spd(2, 32)
    return Kronecker(a, b), np.kron(a, b)


def _blocks():
    parts = [_kronecker(), _eigh(), _low_rank()]
    return BlockDiagonal([op for op, _ in parts]), blocks_of([m for _, m in parts])


def blocks_of(matrices):
    return np.asarray(jax.scipy.linalg.block_diag(*matrices))


def _low_rank(weights=(2.0, 0.0)):
    u = oracle.double(normal(5, len(weights), number=33))
    s, d = jnp.asarray(weights), jnp.linspace(0.5, 2.0, 5)
    return LowRankPlusDiagonal(u, s, d), np.diag(d) + (u * s) @ u.T


#: name -> (operator, dense matrix), all positive definite.
STRUCTURED = {
    "diagonal": lambda: (Diagonal(jnp.arange(1.0, 4)), np.diag([1.0, 2, 3])),
    "eigh": _eigh,
    "kronecker": _kronecker,
    "kronecker eigh": _kronecker_eigh,
    "blocks": _blocks,
    "low rank": _low_rank,
    "low rank, more factors than rows": lambda: _low_rank((0.1,) * 7),
    "low rank, subtracted": lambda: _low_rank((-0.02, 1.0)),
}


@functools.cache
def made(name):
    return (FREE[name] if name in FREE else STRUCTURED[name])()


@pytest.fixture(params=[*FREE, *STRUCTURED])
def case(request):
    with jax.enable_x64(True):
        yield made(request.param)


@pytest.fixture(params=STRUCTURED)
def structured(request):
    with jax.enable_x64(True):
        yield made(request.param)


def matrix_of(fn, like):
    """The matrix of a linear function of arrays like this."""
    size = int(np.prod(like.shape))
    basis = jnp.eye(size, dtype=like.dtype).reshape(size, *like.shape)
    return jax.vmap(fn)(basis).reshape(size, -1).T


def vector(like):
    return jnp.cos(jnp.arange(float(np.prod(like.shape)))).reshape(like.shape)


@eqx.filter_jit
def views(op):
    """All that an operator says about its matrix, in one program."""
    into, out = op.in_structure(), op.out_structure()
    kept = lx.linearise(op)
    found = {
        "mv": matrix_of(op.mv, into),
        "as_matrix": op.as_matrix(),
        "linearise": matrix_of(kept.mv, into),
        "diagonal": jnp.diag(lx.diagonal(op)),
    }
    if op.T is not op:
        found["T"] = matrix_of(op.T.mv, out).T
        found["T as_matrix"] = op.T.as_matrix().T
        found["T linearise"] = matrix_of(lx.linearise(op.T).mv, out).T
        found["linearise T"] = matrix_of(kept.T.mv, out).T
    return found


def test_every_view_is_the_dense_matrix(case):
    op, matrix = case
    assert matrix.shape == (op.out_size(), op.in_size())
    assert op.T.in_structure() == op.out_structure()
    assert op.T.out_structure() == op.in_structure()
    found = views(op)
    close(np.diagonal(found.pop("diagonal")), np.diagonal(matrix))
    for got in found.values():
        assert got.dtype == jnp.float64
        close(got, matrix)
    assert jax.eval_shape(op.mv, op.in_structure()) == op.out_structure()


def test_claims_are_true(case):
    op, matrix = case
    square = matrix.shape[0] == matrix.shape[1]
    symmetric = square and np.allclose(matrix, matrix.T)
    assert lx.is_symmetric(op) == (op.T is op) == symmetric
    if lx.is_positive_semidefinite(op):
        assert np.linalg.eigvalsh(matrix).min() > -1e-10 * np.abs(matrix).max()
    else:
        assert not symmetric or isinstance(op, HessianOperator)
    assert not lx.is_negative_semidefinite(op)
    assert not lx.has_unit_diagonal(op)
    for check in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
    ):
        assert check(op) == isinstance(op, Diagonal)
    assert lx.conj(op) is op


@pytest.mark.parametrize("name", ["transposed", "ntk", "eigh", "diagonal", "hessian"])
def test_materialised_operators_keep_matrix_and_claims(name):
    with jax.enable_x64(True):
        op, matrix = made(name)
        whole = lx.materialise(op)
        v = vector(op.in_structure())
        close(np.ravel(whole.mv(v)), matrix @ np.ravel(v))
        assert whole.in_structure() == op.in_structure()
        assert whole.out_structure() == op.out_structure()
        for check in (lx.is_symmetric, lx.is_positive_semidefinite, lx.is_diagonal):
            assert check(whole) == check(op)
        middle, below, above = lx.tridiagonal(op)
        close(middle, np.diagonal(matrix))
        close(below, np.diagonal(matrix, -1))
        close(above, np.diagonal(matrix, 1))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("weighted", 1),
        ("transposed", 2),
        ("ggn", 3),
        ("fisher", 2),
        ("hessian, prior", 2),
    ],
)
def test_batches_change_nothing(name, size):
    # of 5 examples: 5 batches; 2 batches and a rest; a batch and a rest
    with jax.enable_x64(True):
        op, matrix = FREE[name](size)
        close(eqx.filter_jit(matrix_of)(op.mv, op.in_structure()), matrix)
        # activations are kept only where one batch holds them all
        assert (lx.linearise(op) is op) == (name != "transposed")
        if name == "ggn":
            close(op.as_matrix(), matrix)
            close(lx.diagonal(op), np.diagonal(matrix))


def test_a_compiled_product_takes_another_linearization():
    """Of the same shapes, without compiling again."""
    traces = []

    @eqx.filter_jit
    def product(op, v):
        traces.append(op)
        return op.mv(v)

    with jax.enable_x64(True):
        op, matrix = FREE["ggn"](None)
        v = vector(op.in_structure())
        for scale in (1.0, 2.0):
            moved = eqx.tree_at(lambda op: op.root.x, op, scale * op.root.x)
            kept = lx.linearise(moved)
            np.testing.assert_allclose(product(kept, v), moved.mv(v), rtol=1e-10)
        assert len(traces) == 1
        whole = lx.linearise(op)
        close(whole.as_matrix(), matrix)
        close(whole.T.mv(v), matrix @ v)
        close(lx.diagonal(whole), np.diagonal(matrix))
        assert lx.is_positive_semidefinite(whole)
        assert lx.linearise(whole) is whole
        assert whole.in_structure() == whole.out_structure() == op.in_structure()


def sizes(jaxpr):
    """The sizes of all arrays that a program makes."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_memory_is_that_of_one_batch():
    model = eqx.nn.MLP(4, 2, 32, 2, key=KEY)
    n, size = 512, 8
    found, x = Jacobian.at(model, jnp.zeros(4)), jnp.zeros((n, 4))
    y = jnp.zeros(n, int)
    # parameters and inputs pass through whole; nothing else is larger than one batch
    most = max(found.size, 4 * n)
    for op in (
        ggn_operator(found, Categorical(), x, batch_size=size),
        ntk_operator(found, x, [jnp.ones(())] * 6, batch_size=size),
        HessianOperator(found, Categorical(), x, y, batch_size=size),
    ):
        v = jnp.zeros(op.in_structure().shape)
        jaxpr = eqx.filter_make_jaxpr(op.mv)(v)[0].jaxpr
        found_sizes = list(sizes(jaxpr))
        assert size * 32 in found_sizes  # a hidden layer: the walk saw the inside
        assert max(found_sizes) <= most < n * 32


def test_the_default_batch_is_bounded():
    model = eqx.nn.MLP(100, 1, 1000, 2, key=KEY)
    found = Jacobian.at(model, jnp.zeros(100))
    op = JacobianOperator(found, jnp.zeros((3, 100)))
    assert op.whole
    bytes_used = op.batch_size * 4 * found.plan.activations
    assert CHUNK_BYTES / 2 < bytes_used <= CHUNK_BYTES


def test_batches_are_smaller_where_little_memory_is_free(monkeypatch):
    model = eqx.nn.MLP(100, 1, 1000, 2, key=KEY)
    found, x = Jacobian.at(model, jnp.zeros(100)), jnp.zeros((3, 100))

    def sizes():
        hessian = HessianOperator(found, Gaussian(), x, jnp.zeros((3, 1)))
        return JacobianOperator(found, x).batch_size, hessian.batch_size

    plenty = sizes()
    monkeypatch.setattr(chunks, "_free_bytes", lambda: 2**26)
    for few, many in zip(sizes(), plenty, strict=True):
        assert few == pytest.approx(many / 16, rel=0.05)


class Fixed(eqx.Module):
    """A network of no operations."""

    b: jax.Array

    def __call__(self, x):
        return self.b


def test_a_network_without_operations():
    found = Jacobian.at(Fixed(jnp.array([1.0, 2.0])), jnp.zeros(1))
    x = jnp.zeros((3, 1))
    y = jnp.zeros((3, 2))
    op = HessianOperator(found, Gaussian(), x, y)
    close(op.as_matrix(), 3 * np.eye(2))
    close(JacobianOperator(found, x).mv(jnp.array([1.0, 2.0])), [[1, 2]] * 3)


class Mixed(eqx.Module):
    """Weights of two types."""

    inner: jax.Array
    outer: jax.Array

    def __call__(self, x):
        return self.outer @ jnp.tanh(self.inner @ x)


def _mixed():
    narrow = normal(3, 4, number=1).astype(jnp.float32)
    return Mixed(narrow, oracle.double(normal(2, 3, number=2)))


def _narrow():
    return Mixed(*(leaf.astype(jnp.float32) for leaf in jax.tree.leaves(_mixed())))


@pytest.mark.parametrize("build", [_mixed, _narrow])
def test_structures_tell_the_types_of_products(build):
    """Leaves of two types, and float32 weights that meet float64 inputs."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, x = build(), oracle.double(normal(N, 4, number=3))
        found, y = Jacobian.at(model, x[0]), jnp.zeros(N, int)
        ones = [jnp.ones(()) for _ in found.leaves]
        for op in (
            JacobianOperator(found, x),
            JacobianOperator(found, x, batch_size=2).T,
            ggn_operator(found, Categorical(), x),
            ntk_operator(found, x, ones),
            HessianOperator(found, Categorical(), x, y),
        ):
            like, out = op.in_structure(), op.out_structure()
            v = vector(like).astype(like.dtype)
            dense = np.asarray(op.as_matrix()) @ np.ravel(v)
            for one in (op, lx.linearise(op)):
                got = one.mv(v)
                assert (got.shape, got.dtype) == (out.shape, out.dtype)
                np.testing.assert_allclose(np.ravel(got), dense, rtol=1e-4, atol=1e-5)


def test_a_network_of_whole_numbers_in_batches():
    with jax.enable_x64(True):
        model, x, _ = NETWORKS["embedding"]
        model, x = oracle.double((model, x))
        found = Jacobian.at(model, x[0])
        j = oracle.jacobian(model, x)
        op = JacobianOperator(found, x, batch_size=2)
        v, u = vector(op.in_structure()), vector(op.out_structure())
        got = eqx.filter_jit(lambda op: (op.mv(v), op.T.mv(u)))(op)
        close(np.ravel(got[0]), j @ np.asarray(v))
        close(got[1], j.T @ np.ravel(u))


def test_float32_stays_float32():
    model = eqx.nn.MLP(4, 3, 5, 1, key=KEY)
    x, y = normal(N, 4), jnp.zeros(N, int)
    found = Jacobian.at(model, x[0])
    ones = [jnp.ones(())] * 4
    for op in (
        ggn_operator(found, Categorical(), x, batch_size=2),
        fisher_operator(found, Categorical(), x, y, SampledFisher(KEY)),
        dual_ggn_operator(found, Categorical(), x, ones),
        HessianOperator(found, Categorical(), x, y, per_leaf(found, ones)),
    ):
        like = op.in_structure()
        assert like.dtype == jnp.float32
        assert jax.eval_shape(op.mv, like) == op.out_structure()


def test_gradients_through_a_product():
    """d (u . J(theta) v) / d theta and / dx by the operator and by the dense oracle."""
    with jax.enable_x64(True):
        p = problem()
        like, _ = _jacobian()
        v, u = vector(like.in_structure()), vector(like.out_structure())

        def by_operator(at):
            model, x = at
            found = Jacobian(model, p.jacobian.plan, p.jacobian.subset)
            return jnp.sum(u * JacobianOperator(found, x, batch_size=2).mv(v))

        def by_oracle(at):
            model, x = at
            j = jnp.concatenate(oracle.jacobians(model, x), axis=-1)
            return jnp.sum(u * (j @ v))

        got = eqx.filter_jit(eqx.filter_grad(by_operator))((p.model, p.x))
        expected = eqx.filter_jit(eqx.filter_grad(by_oracle))((p.model, p.x))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            close(a, b)


def test_composition():
    with jax.enable_x64(True):
        p = problem()
        one, _ = _jacobian()
        each, flat = precisions(p.jacobian)
        prior = per_leaf(p.jacobian, each)
        new = oracle.double(normal(3, 4, number=9))
        cross = one @ prior @ JacobianOperator(p.jacobian, new).T
        twice = 2.0 * ntk_operator(p.jacobian, p.x, each) + one @ one.T

        @eqx.filter_jit
        def matrices(*ops):
            return [matrix_of(op.mv, op.in_structure()) for op in ops]

        got, both = matrices(cross, twice)
        close(got, p.dense @ np.diag(flat) @ oracle.jacobian(p.model, new).T)
        close(both, p.dense @ np.diag(2 * flat + 1) @ p.dense.T)


def test_conjugate_gradients_solve_both_views_of_one_posterior():
    with jax.enable_x64(True):
        p = problem()
        each, flat = precisions(p.jacobian)
        g = oracle.ggn(p.dense, softmax_hessian(p.f))
        # relative residual 1e-12 times the condition numbers, below 1e3
        cg, near = lx.CG(rtol=1e-12, atol=1e-12), {"rtol": 0, "atol": 1e-9}
        ggn = ggn_operator(p.jacobian, Categorical(), p.x)
        b = vector(ggn.in_structure())

        def weights(damping):
            posterior = ggn + per_leaf(p.jacobian, [damping * v for v in each])
            return lx.linear_solve(posterior, b, cg).value

        one = jnp.ones(())
        got, slope = jax.jit(lambda t: jax.jvp(weights, (t,), (one,)))(one)
        posterior = g + np.diag(flat)
        expected = np.linalg.solve(posterior, b)
        np.testing.assert_allclose(got, expected, **near)
        # d/dt (G + t L)^-1 b = -(G + L)^-1 L (G + L)^-1 b at t = 1
        inner = np.linalg.solve(posterior, flat * expected)
        np.testing.assert_allclose(slope, -inner, **near)

        variances = [1 / v for v in each]
        dual = dual_ggn_operator(p.jacobian, Categorical(), p.x, variances)

        @eqx.filter_jit
        def outputs(dual, r):
            noisy = dual + Diagonal(jnp.ones_like(r))
            u = lx.linear_solve(noisy, r, cg).value
            pull = dual.jacobian.T.mv
            return dual.covariance.mv(pull(u)), pull(r)

        got, right = outputs(dual, vector(dual.in_structure()))
        # push-through: S R^T (R S R^T + I)^-1 = (R^T R + S^-1)^-1 R^T
        np.testing.assert_allclose(got, np.linalg.solve(posterior, right), **near)


@eqx.filter_jit
def abilities(op):
    """What a structured matrix says of itself, in one program."""
    like, damped = op.in_structure(), op.damped(0.3)
    halves = (matrix_of(op.half, like), matrix_of(op.inverse_half, like))
    return {
        "inverse": op.inverse().as_matrix(),
        "solve": matrix_of(op.solve, like),
        "log_det": op.log_det(),
        "half": halves[0] @ halves[0].T,
        "inverse_half": halves[1] @ halves[1].T,
        "damped": damped.as_matrix(),
        "damped log_det": damped.log_det(),
        "slope": jax.grad(lambda t: op.damped(t).log_det())(0.3),
        "sample": op.sample((2, 3), key=KEY)[1, 2],
        "drawn": op.half(
            jax.random.normal(KEY, (2, 3, op.in_size()), like.dtype)[1, 2]
        ),
    }


def test_structured_matrices_know_their_inverse_root_and_determinant(structured):
    op, matrix = structured
    inverse, shifted = np.linalg.inv(matrix), matrix + 0.3 * np.eye(len(matrix))
    found = abilities(op)
    close(found["sample"], found["drawn"])
    for name, expected in {
        "inverse": inverse,
        "solve": inverse,
        "log_det": np.linalg.slogdet(matrix)[1],
        "half": matrix,
        "inverse_half": inverse,
        "damped": shifted,
        "damped log_det": np.linalg.slogdet(shifted)[1],
        # the evidence's derivative: d log det (M + t I) / dt = tr (M + t I)^-1
        "slope": np.trace(np.linalg.inv(shifted)),
    }.items():
        close(found[name], expected)


@pytest.mark.parametrize("name", ["kronecker", "low rank"])
def test_lineax_solves_structured_matrices(name):
    with jax.enable_x64(True):
        op, matrix = made(name)
        b = vector(op.in_structure())

        @eqx.filter_jit
        def solve(op):
            cg = lx.CG(rtol=1e-10, atol=1e-10)
            options = {"preconditioner": op.inverse()}
            return lx.linear_solve(op, b), lx.linear_solve(op, b, cg, options=options)

        direct, iterated = solve(op)
        close(direct.value, np.linalg.solve(matrix, b))
        # with the inverse as preconditioner the first step is the solution
        np.testing.assert_allclose(iterated.value, direct.value, atol=1e-8)
        assert int(iterated.stats["num_steps"]) <= 3


def test_a_singular_matrix_says_so():
    op = Kronecker(jnp.diag(jnp.array([1.0, 0.0])), jnp.eye(2))
    assert op.log_det() == -jnp.inf
    assert not np.isfinite(op.solve(jnp.ones(4))).all()
    assert np.isfinite(op.damped(0.1).solve(jnp.ones(4))).all()


def test_rounding_below_zero_becomes_zero():
    v = jnp.array([[1.0, 2.0, 3.0]])
    op = Eigh.of(v.T @ v - 1e-6 * jnp.eye(3))
    assert float(op.values.min()) == 0.0
    assert np.isfinite(op.half(jnp.ones(3))).all()


def test_sampled_fisher_matrices_average_to_the_gauss_newton_matrix():
    """Exactly, over the classes; and the classes are drawn with their probabilities."""
    with jax.enable_x64(True):
        likelihood, f = Categorical(), jnp.array([0.3, -1.0, 0.8])
        size = 4000
        p, fisher = np.asarray(jax.nn.softmax(f)), SampledFisher(KEY, size)

        @jax.jit
        def scores(f):
            empirical = EmpiricalFisher()
            seen = jax.vmap(lambda y: empirical.weights(likelihood, f, y)[:, 0])
            return seen(jnp.arange(3)), fisher.weights(likelihood, f, KEY)

        seen, drawn = scores(f)
        mean = np.einsum("y,yc,yd->cd", p, seen, seen)
        close(mean, softmax_hessian(f[None]))
        equal = np.abs(np.asarray(drawn).T[:, None] * np.sqrt(size) - seen) < 1e-10
        assert (equal.all(axis=-1).sum(axis=1) == 1).all()
        # five standard errors of a frequency: fails once in 10^6 if all is right
        error = np.abs(equal.all(axis=-1).mean(axis=0) - p)
        assert (error < 5 * np.sqrt(p * (1 - p) / size)).all()


def test_bad_input():
    model = eqx.nn.MLP(4, 2, 3, 1, key=KEY)
    x = normal(N, 4)
    found = Jacobian.at(model, x[0])
    with pytest.raises(ValueError, match=r"5 rows.*\[\(4,\)\]"):
        JacobianOperator(found, x, Categorical().hessian_sqrt, jnp.zeros(4, int))
    with pytest.raises(ValueError, match=r"S \(C, K\) with C = 2, got shape \(2,\)"):
        JacobianOperator(found, x, lambda f: f)
    for make in (
        lambda: JacobianOperator(found, x, batch_size=0),
        lambda: HessianOperator(
            found, Categorical(), x, jnp.zeros(N, int), batch_size=0
        ),
    ):
        with pytest.raises(ValueError, match="batch_size >= 1 or None, got 0"):
            make()
    moved = eqx.tree_at(
        lambda j: j.shift,
        found,
        [jnp.zeros(a.size) for a in found.leaves],
        is_leaf=lambda leaf: leaf is None,
    )
    with pytest.raises(ValueError, match="use ggn_operator"):
        HessianOperator(moved, Categorical(), x, jnp.zeros(N, int))
    with pytest.raises(ValueError, match=r"one block or more.*\[\]"):
        BlockDiagonal([])
    with pytest.raises(ValueError, match=r"each on vectors.*\(2, 2\)"):
        BlockDiagonal([Diagonal(jnp.ones((2, 2)))])
