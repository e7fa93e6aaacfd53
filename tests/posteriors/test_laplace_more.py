"""What a Laplace posterior offers: further data, functions, networks, an operator."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from ntkuq.data import Batches, Dataset
from ntkuq.linearize import Jacobian, SampledFisher
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    NormalPrior,
    Probit,
    Standardize,
    parameters,
)
from ntkuq.models.hyperparameters import Fixed, MarginalLikelihood
from ntkuq.posteriors import GridSearch, SampledLaplace
from ntkuq.posteriors.laplace import (
    EKFAC,
    KFAC,
    Diagonal,
    Full,
    FunctionSpace,
    Laplace,
    LastLayer,
    WeightSpace,
)
from ntkuq.posteriors.laplace.posterior import _variance
from tests.oracle import dense as oracle
from tests.posteriors.problems import problem


KEY = jax.random.key(0)
RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


# Further data -------------------------------------------------------------------------


EACH = MarginalLikelihood(per_layer=True)
#: structure, subset and tuning: every structure and tuning at least once
UPDATED = {
    "weight": Laplace(Full(WeightSpace()), tune=Fixed()),
    "weight, tuned": Laplace(Full(WeightSpace()), tune=MarginalLikelihood()),
    "function": Laplace(Full(FunctionSpace()), tune=Fixed()),
    "function, tuned": Laplace(Full(FunctionSpace()), tune=MarginalLikelihood()),
    "function, each": Laplace(Full(FunctionSpace()), tune=EACH),
    "kfac": Laplace(KFAC(), tune=Fixed()),
    "kfac, tuned": Laplace(KFAC(), tune=MarginalLikelihood()),
    "kfac, sampled": Laplace(KFAC(fisher=SampledFisher(KEY)), tune=Fixed()),
    "kfac, each": Laplace(KFAC(), tune=EACH),
    "diagonal, each": Laplace(Diagonal(), tune=EACH),
    "last layer, tuned": Laplace(Full(), LastLayer(), MarginalLikelihood()),
}


@pytest.mark.parametrize("kind", UPDATED)
def test_updating_is_refitting_to_all_data(kind):
    method = UPDATED[kind]
    bnn, data, new = problem("two outputs")
    parts = [data.take(range(*ends)) for ends in ((0, 5), (5, 8), (8, 12))]
    first = method.fit(bnn, parts[0])
    before = np.asarray(first.latent(new).covariance)
    updated = first.update(parts[1]).update(parts[2])
    whole = method.fit(bnn, data)
    # where something is tuned, the optimum is found to a fraction of its tolerance
    # (log t to 1e-6, L-BFGS alike), and the evidence to the square of that
    rtol = 1e-8 if isinstance(method.tune, Fixed) else 1e-5
    one, two = updated.latent(new), whole.latent(new)
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-12)
    scale = float(jnp.abs(two.covariance).max())
    close = {"rtol": rtol, "atol": rtol * scale}
    np.testing.assert_allclose(one.covariance, two.covariance, **close)
    assert np.abs(before - two.covariance).max() > 0.01 * scale
    assert updated.log_marginal_likelihood == pytest.approx(
        whole.log_marginal_likelihood, rel=1e-8
    )
    pairs = zip(updated.hyperparameters, whole.hyperparameters, strict=True)
    for got, expected in pairs:
        assert got.name == expected.name
        assert got.value == pytest.approx(expected.value, rel=rtol)
    # the evidence at any precision and noise has no tolerance
    at = jnp.linspace(-0.5, 0.5, len(whole.jacobian.subset))
    noise = 0.0 if method.subset == LastLayer() else 0.3
    got, expected = (float(p.log_evidence(at, noise)) for p in (updated, whole))
    assert got == pytest.approx(expected, rel=1e-8)
    assert updated.problem.fit.count == whole.problem.fit.count
    # what was there before is as it was
    np.testing.assert_array_equal(first.latent(new).covariance, before)


def test_further_data_are_scaled_as_the_first_were():
    rng = np.random.default_rng(5)
    x, y = 50 + 10 * rng.standard_normal((20, 3)), 900 + 80 * rng.standard_normal(20)
    data = Dataset(x, y, units="MPa")
    layer = oracle.double(eqx.nn.MLP(3, 1, 4, 1, jnp.tanh, key=KEY))
    bnn = BNN(layer, Gaussian(0.5), scaling=Standardize())
    first, rest = data.take(range(12)), data.take(range(12, 20))
    method = Laplace(tune=Fixed())
    updated = method.fit(bnn, first).update(rest)
    # scaled by the first 12 rows, not by all
    whole = method.fit(bnn.prepare(first), data)
    one, two = updated.predict(x), whole.predict(x)
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-12)
    np.testing.assert_allclose(one.epistemic, two.epistemic, rtol=1e-8)
    assert updated.hyperparameters == whole.hyperparameters
    other = method.fit(bnn, data).predict(x)
    assert np.abs(other.mean - one.mean).max() > 1.0
    # and so are batches
    batches = method.fit(bnn, first).update(Batches.of(rest, size=3))
    np.testing.assert_allclose(batches.predict(x).epistemic, one.epistemic, rtol=1e-8)


def test_what_cannot_be_added_to_says_so():
    bnn, data, _ = problem("gaussian")
    corrected = Laplace(EKFAC(), tune=Fixed()).fit(bnn, data)
    with pytest.raises(TypeError, match=r"fit EKFAC\(\) again to all data"):
        corrected.update(data)
    searched = Laplace(Diagonal(), tune=GridSearch(data, factors=(0.1, 1.0, 10.0)))
    with pytest.raises(TypeError, match="tuned on a score: fit to all data"):
        searched.fit(bnn, data).update(data)
    plain = Laplace(Diagonal(), tune=Fixed()).fit(bnn, data)
    with pytest.raises(ValueError, match="one example"):
        plain.update(Dataset(data.x[:, :2], data.y))
    with pytest.raises(ValueError, match=r"asks for 2 network output"):
        plain.update(Dataset(data.x, np.stack([data.y, data.y], axis=1)))


def test_further_targets_are_of_the_kind_of_the_first():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 2, 3))
    wide = BNN(oracle.double(eqx.nn.MLP(3, 6, 4, 1, key=KEY)), Gaussian(0.3))
    images = Laplace(tune=Fixed()).fit(wide, Dataset(x, y))
    for other in (y.transpose(0, 2, 1), y.reshape(8, 6)):
        with pytest.raises(ValueError, match=r"targets of shape \(N, 2, 3\).*bring"):
            images.update(Dataset(x, other))
    labels = BNN(wide.network, Categorical())
    sequences = Laplace(KFAC(), tune=Fixed()).fit(
        labels, Dataset(x, rng.integers(0, 3, (8, 2)))
    )
    for other in (rng.integers(0, 2, (8, 3)), rng.integers(0, 6, 8)):
        with pytest.raises(ValueError, match=r"targets of shape \(N, 2\).*bring"):
            sequences.update(Dataset(x, other))
    bnn, data, _ = problem("gaussian")
    known = Dataset(data.x, data.y, noise_scale=np.full(len(data), 0.4))
    with pytest.raises(ValueError, match="with noise_scale, as the first data had"):
        Laplace(tune=Fixed()).fit(bnn, known).update(data)


# Functions ----------------------------------------------------------------------------


@functools.cache
def drawn(name):
    """A posterior in units of the data, and three of its functions."""
    bnn, data, new = problem(name)
    if data.y.dtype.kind == "f":
        data = Dataset(data.x, 100 + 20 * data.y)
        bnn = BNN(bnn.network, bnn.likelihood, bnn.prior, Standardize())
    posterior = Laplace(tune=Fixed()).fit(bnn, data)
    return posterior, posterior.sample_functions(KEY, 3), data, new


@pytest.mark.parametrize("name", ["gaussian", "two outputs", "categorical"])
def test_functions_are_the_linearized_network_at_the_draws(name):
    posterior, functions, data, new = drawn(name)
    bnn = posterior.bnn
    x = bnn.inputs(new)
    j = oracle.jacobian(bnn.model, x)
    # the draws of the parameters, whose covariance test_laplace.py looks at
    shifts = np.concatenate(functions.shifts, axis=1)
    drawn_ = eqx.filter_jit(lambda c: c.sample((3,), key=KEY))(posterior.covariance)
    np.testing.assert_allclose(shifts, drawn_, rtol=1e-10, atol=1e-12)
    mean = np.asarray(oracle.outputs(bnn.model, x))
    values = mean + (shifts @ j.T).reshape(3, *mean.shape)
    units = name != "categorical"
    loc, scale = (data.y.mean(0), data.y.std(0)) if units else (0.0, 1.0)
    expected = loc + scale * values
    got = functions(new)
    one = name == "gaussian"
    assert got.shape == ((3, 5) if one else (3, *mean.shape))
    np.testing.assert_allclose(got, expected[..., 0] if one else expected, rtol=1e-10)
    # the same functions at every call, of all inputs or of some of them
    np.testing.assert_array_equal(functions(new), got)
    np.testing.assert_allclose(functions(new[1:3]), got[:, 1:3], rtol=1e-12)
    assert len(functions) == 3
    for number in (0, 2, -1):
        np.testing.assert_allclose(functions[number](new), got[number], rtol=1e-12)
    with pytest.raises(IndexError, match="below 3, got 3"):
        functions[3]
    # another key, other functions
    other = posterior.sample_functions(jax.random.key(1), 3)
    assert np.abs(other(new) - got).max() > 1e-3 * np.std(got)


def test_many_functions_have_the_joint_covariance():
    posterior, _, _, new = drawn("gaussian")
    draws = 4000
    values = np.asarray(posterior.sample_functions(KEY, draws)(new))
    joint = posterior.joint(new)
    cov = np.asarray(joint.covariance)
    # as in test_laplace.py: six standard errors of each entry
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / draws)
    assert (np.abs(np.cov(values.T, ddof=0) - cov) < 6 * error).all()
    deviation = np.abs(values.mean(0) - joint.mean[:, 0])
    assert (deviation < 6 * np.sqrt(np.diag(cov) / draws)).all()


def test_functions_are_smooth():
    _, functions, _, new = drawn("gaussian")
    center, direction = new[0], new[1] - new[0]

    def slopes(step):
        ends = np.stack([center + step * direction, center - step * direction])
        values = np.asarray(functions(ends))
        return (values[:, 0] - values[:, 1]) / (2 * step)

    # central differences are off by O(step^2): a fourth at half the step
    one, two, three = (slopes(step) for step in (0.1, 0.05, 0.025))
    ratio = (one - two) / (two - three)
    np.testing.assert_allclose(ratio, 4.0, rtol=0.1)
    assert np.abs(three).min() > 0


def test_a_float32_network_has_float32_functions():
    bnn, data, new = problem("gaussian")
    single = jax.tree.map(
        lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, bnn.model
    )
    with jax.enable_x64(False):
        posterior = Laplace(tune=Fixed()).fit(bnn.with_model(single), data)
        functions = posterior.sample_functions(KEY, 2)
        assert functions.shifts[0].dtype == jnp.float64
        values = functions(new)
        assert values.dtype == jnp.float32
        assert jnp.zeros(()).dtype == jnp.float32
    assert values.shape == (2, 5)


# Networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two outputs", "categorical"])
def test_sampled_networks_are_mixed(name):
    bnn, data, new = problem(name)
    method = SampledLaplace(Laplace(tune=Fixed()), samples=7)
    posterior = method.fit(bnn, data, key=KEY)
    predictive = posterior.predict(new)
    each = []
    for number in range(7):
        one = jax.tree.map(
            lambda a, n=number: a[n] if eqx.is_inexact_array(a) else a,
            posterior.networks,
        )
        each.append(oracle.outputs(one, jnp.asarray(new)))
    values = np.stack(each)
    if name == "categorical":
        probs = np.asarray(jax.nn.softmax(values, axis=-1))
        np.testing.assert_allclose(predictive.mean, probs.mean(0), rtol=1e-10)
        y = np.array([0, 1, 2, 1, 0])
        value = np.log(probs.mean(0)[np.arange(5), y])
    else:
        np.testing.assert_allclose(predictive.mean, values.mean(0), rtol=1e-10)
        np.testing.assert_allclose(predictive.epistemic, values.var(0), rtol=1e-9)
        noise = np.asarray(bnn.likelihood.scale)
        y = values[0]
        z = (y - values) / noise
        density = np.exp(-0.5 * z**2) / (noise * math.sqrt(2 * math.pi))
        value = np.log(density.mean(0)).sum(-1)
    np.testing.assert_allclose(predictive.log_prob(y), value, rtol=1e-9)
    again = method.fit(bnn, data, key=KEY).predict(new)
    np.testing.assert_array_equal(again.mean, predictive.mean)
    other = method.fit(bnn, data, key=jax.random.key(1)).predict(new)
    assert np.abs(other.mean - predictive.mean).max() > 1e-4
    assert (
        posterior.log_marginal_likelihood == posterior.laplace.log_marginal_likelihood
    )


def test_networks_linear_in_their_parameters_need_no_linearizing():
    x, new, samples = RNG.standard_normal((10, 3)), RNG.standard_normal((4, 3)), 3000
    layer = eqx.nn.Linear(3, 1, dtype=jnp.float64, key=KEY)
    bnn = BNN(layer, Gaussian(0.5), NormalPrior(1.2))
    laplace = Laplace(tune=Fixed())
    data = Dataset(x, RNG.standard_normal(10))
    one = laplace.fit(bnn, data).predict(new)
    two = SampledLaplace(laplace, samples).fit(bnn, data, key=KEY).predict(new)
    variance = np.asarray(one.epistemic)
    # six standard errors of a mean and of a variance of normal draws
    off = np.abs(two.mean - one.mean)
    assert (off < 6 * np.sqrt(variance / samples)).all()
    ratio = np.abs(two.epistemic / variance - 1)
    assert (ratio < 6 * math.sqrt(2 / samples)).all()
    with pytest.raises(ValueError, match="samples >= 2, got 1"):
        SampledLaplace(samples=1)


# The covariance across inputs ---------------------------------------------------------


@pytest.mark.parametrize("structure", [Full(), KFAC()])
def test_the_operator_is_the_joint_covariance(structure):
    bnn, data, new = problem("two outputs")
    data = Dataset(data.x, np.array([3.0, 50.0]) * data.y)
    bnn = BNN(bnn.network, bnn.likelihood, bnn.prior, Standardize())
    posterior = Laplace(structure, tune=Fixed()).fit(bnn, data)
    operator = posterior.joint_operator(new)
    scale = np.tile(data.y.std(0), 5)
    expected = posterior.joint(new).covariance / np.outer(scale, scale)
    close = {"rtol": 1e-9, "atol": 1e-12}
    v = jnp.asarray(RNG.standard_normal(10))
    assert lx.is_positive_semidefinite(operator)

    @eqx.filter_jit
    def solve(operator, v):
        image = operator.mv(v)
        # with noise on it, of condition below 100
        noise = lx.DiagonalLinearOperator(jnp.full(10, 0.1))
        tag = lx.positive_semidefinite_tag
        noisy = operator + lx.TaggedLinearOperator(noise, tag)
        solver = lx.CG(rtol=1e-12, atol=1e-12)
        return operator.as_matrix(), image, lx.linear_solve(noisy, image, solver).value

    matrix, image, solved = solve(operator, v)
    np.testing.assert_allclose(matrix, expected, **close)
    np.testing.assert_allclose(image, expected @ v, **close)
    noisy = expected + 0.1 * np.eye(10)
    np.testing.assert_allclose(solved, np.linalg.solve(noisy, image), rtol=1e-9)


# Many classes -------------------------------------------------------------------------


def largest(jaxpr):
    """The most numbers that one array of a program holds, also in programs inside."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [
            var.aval.size for var in equation.outvars if hasattr(var.aval, "size")
        ]
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                sizes.append(largest(inner))
    return max(sizes)


@pytest.mark.parametrize("structure", [KFAC(), Diagonal()])
def test_a_thousand_classes_need_no_jacobian(structure):
    classes, width, n = 1000, 8, 32
    with jax.enable_x64(False):
        x = RNG.standard_normal((n, 5)).astype(np.float32)
        model = eqx.nn.MLP(5, classes, width, 1, jnp.tanh, key=KEY)
        data = Dataset(x, RNG.integers(0, classes, n))
        bnn = BNN(model, Categorical())
        method = Laplace(structure, LastLayer(), Fixed(), link=Probit())
        posterior = method.fit(bnn, data)
        probs = np.asarray(posterior.predict(x).mean)
        assert probs.shape == (n, classes)
        np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-5)
        assert np.isfinite(posterior.log_marginal_likelihood)
        found = jax.make_jaxpr(
            lambda x: _variance(posterior.jacobian, posterior.covariance, x)
        )(jnp.asarray(x))
        size = sum(leaf.size for leaf in jax.tree.leaves(parameters(model.layers[-1])))
        assert posterior.jacobian.size == size == classes * (width + 1)
        # variances, and the factor of the output side: nothing of size C^2 for a datum
        assert largest(found.jaxpr) <= max(classes**2, n * classes * 2)
        assert isinstance(posterior.jacobian, Jacobian)
    # and they are those of the dense formula, for a few classes
    if isinstance(structure, Diagonal):
        return
    few = eqx.tree_at(
        lambda m: (m.layers[-1].weight, m.layers[-1].bias),
        model,
        (model.layers[-1].weight[:6], model.layers[-1].bias[:6]),
    )
    few = oracle.double(few)
    y = data.y % 6
    posterior = method.fit(BNN(few, Categorical()), Dataset(x, y))
    h = jax.vmap(few.layers[0])(jnp.asarray(x, jnp.float64))
    a = np.asarray(jnp.tanh(h))
    p = np.asarray(jax.nn.softmax(a @ few.layers[1].weight.T + few.layers[1].bias))
    hessian = np.einsum("nc,cd->ncd", p, np.eye(6)) - np.einsum("nc,nd->ncd", p, p)
    left, inputs = hessian.sum(0), a.T @ a / n
    sigma = np.linalg.inv(np.kron(left, inputs) + np.eye(6 * width))
    bias = np.linalg.inv(left + np.eye(6))
    blocks = sigma.reshape(6, width, 6, width)
    expected = np.einsum("ni,cidj,nj->ncd", a, blocks, a) + bias
    np.testing.assert_allclose(
        posterior.latent(x).covariance, expected, rtol=1e-6, atol=1e-9
    )
