"""Curvature approximations equal their dense definitions, whatever the layers."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.linearize import (
    EmpiricalFisher,
    Examples,
    Expand,
    Jacobian,
    Outer,
    Readout,
    Reduce,
    Rows,
    SampledFisher,
    corrected_blocks,
    function_space,
    kronecker_blocks,
    low_rank,
    weight_space,
)
from ntkuq.linearize.curvature import FunctionCovariance
from ntkuq.linearize.curvature.forms import Block, Rotated
from ntkuq.linearize.curvature.kfac import Form, Pair, decompose, forms_of
from ntkuq.models import Categorical, Gaussian, cast
from tests.linearize.networks import KEY, NETWORKS, Right, normal
from tests.oracle import dense as oracle


#: Networks that meet every kind of site; norms and shifts have none.
NAMES = ["mlp", "bag", "resnet", "inner vmap", "heads", "twice"]
TAU, T = 1.7, 0.6


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@eqx.filter_jit
def seen(covariance, jacobian, x, vector):
    """What a covariance says at the inputs, in one program."""
    factors = jacobian.factors(x)
    return {
        "joint": covariance.joint(factors),
        "marginal": covariance.marginal(factors),
        "variance": covariance.variance(factors),
        "applied": jnp.concatenate(covariance.apply(jacobian_parts(jacobian, vector))),
    }


def jacobian_parts(jacobian, vector):
    return jnp.split(vector, np.cumsum(jacobian.sizes)[:-1])


@eqx.filter_jit
def log_det_at(curvature, variances, scale):
    return curvature.log_det_at(variances, scale)


@eqx.filter_jit
def oracles(model, x):
    return oracle.outputs(model, x), oracle.jacobians(model, x)


@eqx.filter_jit
def factors_of(jacobian, x, likelihood=None, y=None):
    """The factors of J, or of S^T J."""
    if likelihood is None:
        return jacobian.factors(x)
    return jacobian.factors(x, likelihood.hessian_sqrt, y)


@eqx.filter_jit
def denses(leaves):
    return [leaf.dense() for leaf in leaves]


@functools.cache
def of(name):
    return Case(name)


class Case:
    """A network with its dense Jacobian and Gauss-Newton matrix."""

    def __init__(self, name, subset=None):
        model, x, _ = NETWORKS[name]
        self.model, self.x = oracle.double(model), oracle.double(x)
        self.jacobian = Jacobian.at(self.model, self.x[0], subset)
        f, parts = oracles(self.model, self.x)
        self.n, self.c = f.shape
        self.likelihood = Categorical() if self.c > 1 else Gaussian(0.5)
        y = np.arange(self.n) % self.c
        self.y = jnp.asarray(y if self.c > 1 else np.asarray(f) + 0.1 * y[:, None])
        parts = [np.asarray(parts[leaf]) for leaf in self.jacobian.subset]
        self.j = np.concatenate(parts, axis=-1).reshape(self.n * self.c, -1)
        self.h = oracle.hessian(self.likelihood, f)
        sizes = self.jacobian.sizes
        values = 0.5 + np.arange(len(sizes)) / 3
        self.variances = [jnp.asarray(v) for v in values]
        self.prior = 1.0 / np.repeat(values, sizes)

    @property
    def problem(self):
        examples = Examples(self.x, self.y)
        return self.jacobian, self.likelihood, examples, self.variances

    def expected(self, g):
        """Joint covariance of the outputs, and the log-determinant, for a dense G."""
        sigma = np.linalg.inv(TAU * (np.diag(self.prior) + T * g))
        _, log_det = np.linalg.slogdet(np.eye(len(g)) + T * g / self.prior[:, None])
        return self.j @ sigma @ self.j.T, log_det, sigma

    def check(self, curvature, g, rtol=1e-9):
        joint, log_det, sigma = self.expected(g)
        v = np.linspace(-1, 1, len(g))
        covariance = curvature.covariance(TAU, T)
        got = seen(covariance, self.jacobian, self.x, jnp.asarray(v))
        close = {"rtol": rtol, "atol": 1e-11}
        np.testing.assert_allclose(got["joint"], joint, **close)
        blocks = np.einsum("ncnd->ncd", joint.reshape((self.n, self.c) * 2))
        np.testing.assert_allclose(got["marginal"], blocks, **close)
        variance = np.einsum("ncc->nc", blocks)
        np.testing.assert_allclose(got["variance"], variance, **close)
        np.testing.assert_allclose(got["applied"], sigma @ v, rtol=rtol, atol=1e-10)
        log_t = np.log(T)
        assert curvature.log_det(log_t) == pytest.approx(log_det, rel=1e-8)
        # the effective number of parameters is the slope of log det in log t
        found = curvature.at(TAU, T)
        effective = np.trace(np.eye(len(g)) - TAU * sigma * self.prior)
        count = found.effective
        if isinstance(found.covariance, FunctionCovariance):
            assert count is None
            count = found.covariance.effective()
        assert count == pytest.approx(effective, rel=1e-7, abs=1e-9)
        assert found.log_det == pytest.approx(log_det, rel=1e-8)
        at = curvature.log_det_at(
            [2.0 * v for v in self.variances], jnp.asarray(0.5 * T)
        )
        assert float(at) == pytest.approx(log_det, rel=1e-8)


def dense_factors(case):
    """Each leaf's factor of S^T J, with what is needed for a dense KFAC."""
    return factors_of(case.jacobian, case.x, case.likelihood, case.y)


def kfac(case, *, reduced):
    """Dense blocks of KFAC from its formulas, layer by layer, with explicit sums."""
    blocks = []
    leaves = [
        leaf.outer() if isinstance(leaf, Rows) else leaf
        for leaf in dense_factors(case).leaves
    ]
    for leaf, j in zip(leaves, denses(leaves), strict=True):
        flat = np.asarray(j).reshape(-1, j.shape[-1])
        if not isinstance(leaf, Outer):
            blocks.append(flat.T @ flat)
            continue
        a, g = np.asarray(leaf.a), np.asarray(leaf.g)
        if reduced:
            a, g = a.mean(1, keepdims=True), g.sum(2, keepdims=True)
        inputs = np.einsum("nti,ntj->ij", a, a) / (a.shape[0] * a.shape[1])
        gradients = np.einsum("nkto,nktp->op", g, g)
        pair = (gradients, inputs) if leaf.output_first else (inputs, gradients)
        blocks.append(np.kron(*pair))
    size = sum(len(block) for block in blocks)
    whole, start = np.zeros((size, size)), 0
    for block in blocks:
        end = start + len(block)
        whole[start:end, start:end] = block
        start = end
    return whole


@pytest.mark.parametrize("name", ["mlp", "bag", "resnet", "tied"])
def test_full_views_are_the_gauss_newton_matrix(name):
    case = of(name)
    g = oracle.ggn(case.j, case.h)
    weight, _ = weight_space(*case.problem, case.c)
    function, _ = function_space(*case.problem)
    case.check(weight, g, rtol=1e-7)
    case.check(function, g, rtol=1e-7)


@pytest.mark.parametrize(
    ("name", "sharing"),
    [
        *((name, Expand()) for name in NAMES),
        *((name, Reduce()) for name in ("bag", "lenet", "inner vmap", "twice")),
    ],
)
def test_kfac_is_its_formula_and_small_leaves_are_exact(name, sharing):
    case = of(name)
    curvature, _ = kronecker_blocks(*case.problem, case.c, sharing=sharing)
    case.check(curvature, kfac(case, reduced=isinstance(sharing, Reduce)))


@pytest.mark.parametrize("name", ["mlp", "bag", "lenet", "tied", "heads"])
def test_the_diagonal_is_exact(name):
    case = of(name)
    curvature, _ = kronecker_blocks(*case.problem, case.c, sharing=None)
    case.check(curvature, np.diag(np.diag(oracle.ggn(case.j, case.h))))


@pytest.mark.parametrize("name", ["mlp", "bag", "lenet"])
def test_ekfac_has_the_exact_moments_along_the_eigenvectors(name):
    case = of(name)
    curvature, _ = corrected_blocks(*case.problem, case.c, sharing=Expand())
    g = oracle.ggn(case.j, case.h)
    start, blocks = 0, np.zeros_like(g)
    for block, size in zip(curvature.blocks, case.jacobian.sizes, strict=True):
        here = slice(start, start + size)
        start += size
        if isinstance(block, Rotated):
            left, o = np.asarray(block.left), block.values.shape
            right = np.eye(o[1]) if block.right is None else np.asarray(block.right)
            basis = np.kron(left, right)
            if not block.output_first:
                order = np.arange(size).reshape(o[1], o[0]).T.reshape(-1)
                basis = basis[np.argsort(order)]
        else:
            assert isinstance(block, Block)
            basis = np.asarray(block.vectors)
        moments = np.diag(np.diag(basis.T @ g[here, here] @ basis))
        blocks[here, here] = basis @ moments @ basis.T
    case.check(curvature, blocks, rtol=1e-8)
    # nearer to the exact blocks than KFAC, whose eigenvalues are products
    exact = blocks_of(case, g)
    plain = kfac(case, reduced=False)
    assert np.linalg.norm(blocks - exact) <= np.linalg.norm(plain - exact) + 1e-12


def blocks_of(case, g):
    out, start = np.zeros_like(g), 0
    for size in case.jacobian.sizes:
        here = slice(start, start + size)
        out[here, here] = g[here, here]
        start += size
    return out


@pytest.mark.parametrize("name", ["mlp", "right", "shifted"])
def test_a_last_layer_needs_no_backward_pass(name):
    case = Case(name, lambda model, plan: plan.readout)
    assert case.jacobian.is_readout
    factors = factors_of(case.jacobian, case.x)
    assert all(isinstance(leaf, Readout) for leaf in factors.leaves)
    g = oracle.ggn(case.j, case.h)
    case.check(weight_space(*case.problem, case.c)[0], g, rtol=1e-8)
    case.check(function_space(*case.problem)[0], g, rtol=1e-7)
    diagonal, _ = kronecker_blocks(*case.problem, case.c, sharing=None)
    case.check(diagonal, np.diag(np.diag(g)))
    blocks, _ = kronecker_blocks(*case.problem, case.c, sharing=Expand())
    case.check(blocks, kfac(case, reduced=False))
    text = str(jax.make_jaxpr(lambda x: case.jacobian.factors(x))(case.x))
    assert "transpose" not in text.replace("transpose[permutation=(1, 0)]", "")


@pytest.mark.parametrize("groups", [1, 5, 13])
@pytest.mark.parametrize("output_first", [True, False])
def test_groups_of_outputs_change_nothing(output_first, groups, monkeypatch):
    """Thirteen outputs, in both layouts of the last matrix."""
    from ntkuq.linearize.curvature import weight

    monkeypatch.setattr(weight, "GROUPS", groups)
    if output_first:
        model = eqx.nn.MLP(4, 13, 3, 1, jnp.tanh, key=KEY)
    else:
        w, b, v = normal(4, 3), normal(3, number=2), normal(3, 13, number=3)
        model = Right(w=w, b=b, v=v)
    monkeypatch.setitem(NETWORKS, "wide", (model, NETWORKS["mlp"][1], None))
    case = Case("wide", lambda model, plan: plan.readout)
    g = oracle.ggn(case.j, case.h)
    # a program of its own: the groups are no argument
    with jax.disable_jit():
        case.check(weight_space(*case.problem, case.c)[0], g, rtol=1e-8)


@pytest.mark.parametrize(
    "name", ["mlp", "tied", "bag", "heads", "gru", "lenet", "unet", "conv 3d", "norms"]
)
def test_a_fit_is_summarized_by_the_likelihood_and_its_gradient(name):
    case = of(name)

    def joint(leaves):
        f = oracle.outputs(case.jacobian.replace(leaves), case.x)
        return jnp.sum(jax.vmap(case.likelihood.log_prob)(f, case.y))

    value, expected = jax.value_and_grad(joint)(case.jacobian.leaves)
    for summary in (
        kronecker_blocks(*case.problem, case.c, sharing=None)[1],
        low_rank(*case.problem, case.c, rank=1)[1],
    ):
        assert float(summary.log_likelihood) == pytest.approx(float(value), rel=1e-12)
        for got, leaf in zip(summary.gradient, expected, strict=True):
            np.testing.assert_allclose(got, leaf.ravel(), rtol=1e-9, atol=1e-11)
    if not case.jacobian.plan.readout:
        return
    case = Case(name, lambda model, plan: plan.readout)
    _, summary = weight_space(*case.problem, case.c)
    assert float(summary.log_likelihood) == pytest.approx(float(value), rel=1e-12)
    last = [expected[leaf] for leaf in case.jacobian.subset]
    for got, leaf in zip(summary.gradient, last, strict=True):
        np.testing.assert_allclose(got, leaf.ravel(), rtol=1e-9, atol=1e-11)


def test_strips_and_chunks_of_a_last_layer_change_nothing(monkeypatch):
    """Three strips of the products of six numbers, and chunks of two examples."""
    from ntkuq.linearize.curvature import readout

    for name, value in (("STRIP", 2), ("WORTH", 2), ("CACHED", 1)):
        monkeypatch.setattr(readout, name, value)
    case = Case("mlp", lambda model, plan: plan.readout)
    g = oracle.ggn(case.j, case.h)
    found = weight_space(*case.problem, case.c)[0]
    case.check(found, g, rtol=1e-8)
    matrix = np.asarray(found.square.matrix)
    np.testing.assert_array_equal(matrix, matrix.T)


def test_low_rank_is_exact_at_full_rank_and_never_overconfident():
    case = of("mlp")
    g = oracle.ggn(case.j, case.h)
    rank = np.linalg.matrix_rank(g)
    whole, _ = low_rank(*case.problem, case.c, rank=case.n * case.c)
    case.check(whole, g, rtol=1e-9)
    part, _ = low_rank(*case.problem, case.c, rank=3)
    assert part.values.shape == (3,)
    white = g / np.sqrt(case.prior[:, None] * case.prior)
    largest = np.linalg.eigvalsh(white)[::-1][:3]
    np.testing.assert_allclose(part.values, largest, rtol=1e-6)
    assert rank > 3
    assert 0 <= part.residual < 1e-5
    factors = factors_of(case.jacobian, case.x)
    wide, exact = (
        eqx.filter_jit(lambda c, f: c.variance(f))(made.covariance(TAU, T), factors)
        for made in (part, whole)
    )
    assert bool(jnp.all(wide >= exact * (1 - 1e-9)))
    assert float(jnp.max(wide / exact)) > 1 + 1e-5


@pytest.mark.parametrize("build", [weight_space, function_space])
def test_full_samples_have_the_covariance_by_their_root(build):
    """Draws are linear in the noise: their second moment is exact, not simulated."""
    case = of("right")
    made = (
        build(*case.problem, case.c) if build is weight_space else build(*case.problem)
    )
    covariance = made[0].covariance(TAU, T)
    draw = eqx.filter_jit(lambda covariance: covariance.sample((4000,), key=KEY))
    draws = np.asarray(draw(covariance))
    _, _, sigma = case.expected(oracle.ggn(case.j, case.h))
    got = draws.T @ draws / len(draws)
    # each entry has a standard error of at most sqrt(2 s_ii s_jj / n)
    se = np.sqrt(2 * np.outer(np.diag(sigma), np.diag(sigma)) / len(draws))
    assert np.max(np.abs(got - sigma) / se) < 5.5


def test_fishers():
    case = of("mlp")
    empirical, _ = weight_space(*case.problem, case.c, fisher=EmpiricalFisher())
    f = oracle.outputs(case.model, case.x)
    residual = jax.vmap(case.likelihood.residual)(f, case.y)
    rows = np.einsum("nc,ncp->np", residual, case.j.reshape(case.n, case.c, -1))
    case.check(empirical, rows.T @ rows, rtol=1e-8)
    # drawn from the model it has the mean of the exact one
    exact, _ = kronecker_blocks(*case.problem, case.c, sharing=None)
    sampled, _ = kronecker_blocks(
        *case.problem,
        case.c,
        sharing=None,
        fisher=SampledFisher(KEY, samples=4000),
    )
    first = [np.asarray(b.values) for b in exact.blocks]
    second = [np.asarray(b.values) for b in sampled.blocks]
    for one, two in zip(first, second, strict=True):
        assert np.sum(two) == pytest.approx(np.sum(one), rel=0.1)
    with pytest.raises(ValueError, match="samples >= 1"):
        SampledFisher(KEY, samples=0)


@pytest.mark.parametrize("kind", ["weight", "function", "kfac", "diagonal", "low"])
def test_merging_two_data_sets_is_seeing_both(kind):
    case = of("bag")
    jacobian, likelihood, examples, variances = case.problem
    c = case.c

    def build(x, y):
        problem = (jacobian, likelihood, Examples(x, y), variances)
        return {
            "weight": lambda: weight_space(*problem, c),
            "function": lambda: function_space(*problem),
            "kfac": lambda: kronecker_blocks(*problem, c, sharing=Expand()),
            "diagonal": lambda: kronecker_blocks(*problem, c, sharing=None),
            "low": lambda: low_rank(*problem, c, rank=99),
        }[kind]()[0]

    whole = build(examples.x, examples.y)
    merged = build(case.x[:2], case.y[:2]).merge(build(case.x[2:], case.y[2:]))
    v = jnp.ones(jacobian.size)
    one, two = (
        seen(made.covariance(TAU, T), jacobian, case.x, v)["joint"]
        for made in (merged, whole)
    )
    np.testing.assert_allclose(one, two, rtol=1e-8)
    assert merged.log_det(0.3) == pytest.approx(whole.log_det(0.3), rel=1e-9)


def test_corrected_eigenvalues_cannot_be_added_to():
    case = of("right")
    made, _ = corrected_blocks(*case.problem, case.c, sharing=Expand())
    with pytest.raises(TypeError, match=r"fit EKFAC\(\) again"):
        made.merge(made)


@pytest.mark.parametrize("sharing", [Expand(), None])
def test_other_variances_and_a_derivative(sharing):
    case = of("right")
    curvature, _ = kronecker_blocks(*case.problem, case.c, sharing=sharing)
    weight, _ = weight_space(*case.problem, case.c)
    for made in (curvature, weight):
        doubled = made.with_variances([2 * v for v in case.variances])
        assert doubled.log_det(np.log(T)) == pytest.approx(made.log_det(np.log(2 * T)))

        def at(log_scale, made=made):
            scale = jnp.exp(log_scale)
            return made.log_det_at([scale * v for v in case.variances], jnp.asarray(T))

        slope = jax.jit(jax.grad(at))(jnp.asarray(0.0))
        assert float(slope) == pytest.approx(made.slopes(np.log(T)).first, rel=1e-8)


def test_a_histogram_of_many_eigenvalues_keeps_the_log_determinant():
    from ntkuq.linearize.curvature.blocks import SPECTRUM_BINS, Spectrum

    values = np.exp(np.random.default_rng(0).normal(0.0, 6.0, 4 * SPECTRUM_BINS))
    binned = Spectrum.of(values)
    assert binned.values.size < values.size
    for t in (1e-6, 1.0, 1e6):
        exact = np.log1p(t * values).sum()
        got = binned.counts @ np.log1p(t * binned.values)
        # within a bin of width w the curvature of log(1 + e^u) is at most 1/4
        assert got == pytest.approx(exact, abs=values.size * 1e-6 / 8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_low_rank_has_no_ghosts_where_the_spectrum_falls_fast(dtype):
    """More steps than the matrix has rank: rounding must not become eigenpairs."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((200, 1)), dtype)
    model = cast(eqx.nn.MLP(1, 1, 30, 2, jnp.tanh, key=KEY), np.dtype(dtype))
    jacobian = Jacobian.at(model, x[0])
    likelihood = Gaussian(np.asarray(0.1, dtype))
    variances = [jnp.ones((), dtype) for _ in jacobian.subset]
    problem = (jacobian, likelihood, Examples(x, x), variances)
    found, _ = low_rank(*problem, 1, rank=50)
    exact = Jacobian.at(oracle.double(model), jnp.asarray(x[0], jnp.float64))
    j = oracle.jacobian(exact.model, jnp.asarray(x, jnp.float64))
    largest = np.linalg.eigvalsh(100.0 * j @ j.T)[::-1]
    tolerance = 200 * np.finfo(dtype).eps * largest[0]
    np.testing.assert_allclose(found.values, largest[:50], rtol=0, atol=tolerance)
    seen = np.asarray(found.values) > tolerance
    vectors = np.asarray(found.vectors)[:, seen]
    identity = np.eye(seen.sum())
    close = {"rtol": 0, "atol": 1e3 * np.finfo(dtype).eps}
    np.testing.assert_allclose(vectors.T @ vectors, identity, **close)
    variance = found.covariance(1.0, 1.0).variance(jacobian.factors(x))
    assert float(jnp.min(variance)) > 0


def test_sampled_gradients_do_not_depend_on_the_chunks(monkeypatch):
    from ntkuq.linearize import chunks

    case = Case("mlp")

    def build():
        fisher = SampledFisher(KEY)
        made, _ = kronecker_blocks(*case.problem, case.c, sharing=None, fisher=fisher)
        return [np.asarray(block.values) for block in made.blocks]

    whole = build()
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    for one, two in zip(whole, build(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)


def test_equal_outputs_of_classes_have_no_curvature():
    """One number added to all outputs changes no probability: an exact eigenvalue 0.

    Sums in float32 leave 1e-7 of the largest one, which many data make more than the
    prior's.
    """
    case = of("mlp")
    found, _ = kronecker_blocks(*case.problem, case.c, sharing=Expand())
    centered = [form.centered for form in found.statistics.forms]
    assert centered == [False, False, False, False, True, True]
    forms = forms_of(case.jacobian, Expand(), invariant=Gaussian(1.0).shift_invariant)
    assert not any(form.centered for form in forms)
    left_over = jnp.array([[1.001, -0.999], [-0.999, 1.001]], jnp.float32)
    for kind in ("kronecker", "block"):
        value = (
            Pair(left_over, jnp.eye(3, dtype=jnp.float32))
            if kind == "kronecker"
            else left_over
        )
        for one, least in ((True, 0.0), (False, 2e-3)):
            block = decompose(value, Form(kind, 1, True, one), np.dtype(float), 1)
            values = np.asarray(block.values).reshape(2, -1)
            np.testing.assert_allclose(values.min(), least, rtol=1e-4, atol=1e-12)
            np.testing.assert_allclose(values.max(), 2.0, rtol=1e-6)
