"""Linearized Laplace equals its dense definition."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.linearize.curvature import square
from ntkuq.linearize.curvature.square import Square
from ntkuq.linearize.curvature.weight import WeightSpace as WeightCurvature
from ntkuq.models import BNN, Categorical, Gaussian, NormalPrior, Standardize, mlp
from ntkuq.models.hyperparameters import Fixed, MarginalLikelihood
from ntkuq.posteriors.laplace import (
    KFAC,
    Diagonal,
    Full,
    FunctionSpace,
    Laplace,
    LastLayer,
    Select,
    WeightSpace,
    structures,
)
from ntkuq.posteriors.laplace.evidence import Fit, maximize
from tests.oracle import dense as oracle
from tests.posteriors.problems import (
    LIKELIHOODS,
    blocks_of,
    fitness,
    precision,
    problem,
    reference,
)


KEY = jax.random.key(0)
VIEWS = {"weight": WeightSpace(), "function": FunctionSpace()}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def fitted(name, structure, tune=None, **options):
    bnn, data, _ = problem(name)
    method = Laplace(structure=structure, tune=tune or Fixed(), **options)
    return method.fit(bnn, data, key=KEY)


def approximation(name, structure):
    """The dense G that a structure stands for."""
    bnn, data, _ = problem(name)
    g = reference(name)[2]
    if isinstance(structure, Full):
        return g
    if isinstance(structure, Diagonal):
        return np.diag(np.diag(g))
    x = jnp.asarray(data.x)
    return oracle.kfac(oracle.mlp_factors(bnn.model, x, bnn.likelihood))


STRUCTURES = {
    "weight": Full(WeightSpace()),
    "function": Full(FunctionSpace()),
    "kfac": KFAC(),
    "diagonal": Diagonal(),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_covariance_and_evidence_are_the_dense_ones(name, structure):
    bnn, data, new = problem(name)
    posterior = fitted(name, STRUCTURES[structure])
    g, star = approximation(name, STRUCTURES[structure]), reference(name)[3]
    p = precision(bnn)
    cov = oracle.covariance(g, p)
    joint = star @ cov @ star.T
    scale = np.abs(joint).max()
    close = {"rtol": 1e-8, "atol": 1e-8 * scale}
    got = posterior.joint(new)
    np.testing.assert_allclose(got.covariance, joint, **close)
    np.testing.assert_allclose(got.mean, oracle.outputs(bnn.model, jnp.asarray(new)))
    _, marginal = posterior.latent(new)
    np.testing.assert_allclose(marginal, blocks_of(joint, len(new)), **close)
    theta = oracle.ravel(bnn.model)
    expected = oracle.evidence(fitness(bnn, data), theta, p, g)
    assert posterior.log_marginal_likelihood == pytest.approx(expected, rel=1e-8)
    # effective parameters: tr (L0 + G)^-1 G
    effective = np.trace(cov @ g)
    assert posterior.diagnostics["effective parameters"] == pytest.approx(
        effective, rel=1e-8
    )
    if structure == "function":
        # it takes an inverse, which no prediction needs; its bound takes none
        assert posterior.reported["effective parameters"] is None
        assert 0.2 * effective < posterior.covariance.least_effective() < effective
    v = np.random.default_rng(0).standard_normal(len(theta))
    sizes = [leaf.size for leaf in posterior.jacobian.leaves]
    parts = jnp.split(jnp.asarray(v), np.cumsum(sizes)[:-1])
    applied = jnp.concatenate(posterior.covariance.apply(parts))
    np.testing.assert_allclose(applied, cov @ v, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_samples_have_the_covariance(structure):
    name, draws = "two outputs", 4000
    posterior = fitted(name, STRUCTURES[structure])
    bnn, _, _ = problem(name)
    cov = oracle.covariance(approximation(name, STRUCTURES[structure]), precision(bnn))
    flat = np.asarray(posterior.covariance.sample((draws,), key=KEY))
    # a sample covariance entry has variance (S_ii S_jj + S_ij^2) / n; 6 errors for the
    # largest of P^2 of them (P = 26)
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / draws)
    assert (np.abs(flat.T @ flat / draws - cov) < 6 * error).all()
    networks = posterior.sample(KEY, 3)
    one = jax.tree.map(lambda a: a[0] if eqx.is_array(a) else a, networks)
    moved = oracle.ravel(one) - oracle.ravel(bnn.model)
    assert moved.shape == (26,)
    assert np.abs(moved).max() > 0
    again = posterior.sample(KEY, 3)
    assert eqx.tree_equal(again, networks)


def test_the_views_give_one_prediction():
    _, _, new = problem("gaussian")
    one, two = (
        fitted("gaussian", Full(view), tune=MarginalLikelihood()).predict(new)
        for view in VIEWS.values()
    )
    np.testing.assert_allclose(one.epistemic, two.epistemic, rtol=1e-8)
    np.testing.assert_allclose(one.aleatoric, two.aleatoric, rtol=1e-8)


def linear(layers, key=KEY, into=3, out=1):
    """A deep linear network in float64, without biases."""
    sizes = [into, *[4] * (layers - 1), out]
    keys = jax.random.split(key, layers)
    made = [
        eqx.nn.Linear(a, b, use_bias=False, dtype=jnp.float64, key=k)
        for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
    ]
    return eqx.nn.Sequential(made)


def test_kfac_is_exact_on_one_datum_and_on_deep_linear_networks():
    rng = np.random.default_rng(0)
    deep = linear(3, out=2)
    x, y = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    one = problem("categorical")[0]
    cases = [
        (BNN(deep, Gaussian(0.7)), Dataset(x, y)),
        (one, Dataset(x[:1], np.array([2]))),
    ]
    for bnn, data in cases:
        posterior = Laplace(structure=KFAC(), tune=Fixed()).fit(bnn, data, key=KEY)
        inputs = jnp.asarray(data.x)
        f = oracle.outputs(bnn.model, inputs)
        parts = oracle.jacobians(bnn.model, inputs)
        joint = 0.0
        p = jax.tree.leaves(bnn.prior.precisions(bnn.parameters))
        for leaf, tau in zip(parts, p, strict=True):
            j = np.asarray(leaf).reshape(f.size, -1)
            g = oracle.ggn(j, oracle.hessian(bnn.likelihood, f))
            cov = oracle.covariance(g, np.full(j.shape[1], float(tau)))
            joint = joint + j @ cov @ j.T
        got = posterior.joint(data.x).covariance
        np.testing.assert_allclose(got, joint, rtol=1e-9, atol=1e-11)


def test_linear_network_is_bayesian_linear_regression():
    rng = np.random.default_rng(2)
    x, new = rng.standard_normal((10, 3)), rng.standard_normal((4, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.standard_normal(10)
    noise, tau = 0.3, 2.0
    mean, cov, evidence = oracle.bayesian_linear_regression(x, y, tau, noise, new)
    # the MAP of the linear network, where Laplace is exact
    theta = np.linalg.solve(x.T @ x / noise**2 + tau * np.eye(3), x.T @ y / noise**2)
    layer = eqx.tree_at(lambda m: m[0].weight, linear(1), jnp.asarray(theta[None]))
    bnn = BNN(layer, Gaussian(noise), NormalPrior(tau))
    data = Dataset(x, y)
    for view in VIEWS.values():
        posterior = Laplace(structure=Full(view), tune=Fixed()).fit(bnn, data, key=KEY)
        joint = posterior.joint(new)
        np.testing.assert_allclose(joint.mean[:, 0], mean, rtol=1e-9)
        np.testing.assert_allclose(joint.covariance, cov, rtol=1e-9, atol=1e-12)
        assert posterior.log_marginal_likelihood == pytest.approx(evidence, rel=1e-9)
        assert posterior.diagnostics["gradient norm"] < 1e-9
    predictive = posterior.predict(new)
    np.testing.assert_allclose(predictive.aleatoric, noise**2)
    np.testing.assert_allclose(predictive.observed.variance, np.diag(cov) + noise**2)


def dense_evidence(name, log_tau, log_noise):
    """The oracle's evidence at scaled precision and noise, theta* held fixed."""
    bnn, data, _ = problem(name)
    j, _, _, _ = reference(name)
    noisy = bnn
    if log_noise is not None:
        noisy = bnn.with_noise(np.asarray(bnn.likelihood.scale) * math.exp(log_noise))
    x = jnp.asarray(data.x)
    h = oracle.hessian(noisy.likelihood, oracle.outputs(bnn.model, x))
    p = precision(bnn, math.exp(log_tau))
    theta = oracle.ravel(bnn.model)
    return oracle.evidence(fitness(noisy, data), theta, p, oracle.ggn(j, h))


def numerical_hessian(f, point, step=1e-3):
    size = len(point)
    h = np.zeros((size, size))
    for i in range(size):
        for k in range(size):
            total = 0.0
            for a in (1, -1):
                for b in (1, -1):
                    moved = np.array(point, float)
                    moved[i] += a * step
                    moved[k] += b * step
                    total += a * b * f(moved)
            h[i, k] = total / (4 * step**2)
    return h


@pytest.mark.parametrize("name", ["two outputs", "categorical"])
def test_tuning_finds_the_maximum_of_the_dense_evidence(name):
    bnn, _, _ = problem(name)
    posterior = fitted(name, Full(), tune=MarginalLikelihood())
    known = posterior.bnn.prior.precisions(bnn.parameters)
    before = bnn.prior.precisions(bnn.parameters)
    ratio = jax.tree.leaves(known)[0] / jax.tree.leaves(before)[0]
    best = [math.log(float(ratio))]
    noisy = name == "two outputs"
    if noisy:
        scale = np.asarray(posterior.bnn.likelihood.scale)
        best.append(math.log(scale[0] / bnn.likelihood.scale[0]))
        # one factor for all outputs
        np.testing.assert_allclose(scale / bnn.likelihood.scale, math.exp(best[1]))

    def loss(point):
        return -dense_evidence(name, point[0], point[1] if noisy else None)

    at = loss(best)
    assert -at == pytest.approx(posterior.log_marginal_likelihood, rel=1e-8)
    grid = np.linspace(-3, 3, 13)
    others = [(a, b) for a in grid for b in grid] if noisy else [(a,) for a in grid]
    assert at <= min(loss(np.add(best, shift)) for shift in others) + 1e-9
    # the standard errors are those of the inverse Hessian (errors of order step^2)
    errors = np.sqrt(np.diag(np.linalg.inv(numerical_hessian(loss, best))))
    tuned = maximize(*problem_fit(name))
    assert tuned.log_tau_se == pytest.approx(errors[0], rel=1e-3)
    if noisy:
        assert tuned.log_noise_se == pytest.approx(errors[1], rel=1e-3)
    assert not tuned.at_bound


def problem_fit(name):
    from ntkuq.posteriors.laplace.problem import linearized_problem
    from ntkuq.posteriors.laplace.subsets import All

    bnn, data, _ = problem(name)
    found = linearized_problem(bnn, data, Full(), All())
    return found.fit, found.curvature


def test_no_information_is_flagged():
    # outputs that do not depend on the parameters: any precision fits as well
    flat = Square(jnp.zeros((3, 3)), np.zeros(3))
    curvature = WeightCurvature(flat, [jnp.ones(())], (3,))
    assert maximize(Fit(-3.0, None, 3, 0.5), curvature).at_bound
    assert maximize(Fit(-3.0, 2.0, 3, 0.5), curvature).at_bound


def test_beyond_the_spectrum_limit_the_optimum_is_the_same(monkeypatch):
    small = fitted("gaussian", Full(), tune=MarginalLikelihood())
    monkeypatch.setattr(square, "SPECTRUM_LIMIT", 3)
    large = fitted("gaussian", Full(), tune=MarginalLikelihood())
    # log t is found to 0.02 there; the evidence is flat at its maximum
    for one, two in zip(small.hyperparameters, large.hyperparameters, strict=True):
        assert abs(math.log(one.value / two.value)) < 0.03
        assert two.se == pytest.approx(one.se, rel=0.05)
    assert large.log_marginal_likelihood == pytest.approx(
        small.log_marginal_likelihood, abs=1e-3
    )


@pytest.mark.parametrize("structure", [Full(), KFAC(), Diagonal()])
def test_subsets_hold_the_rest_fixed(structure):
    bnn, _, new = problem("gaussian")
    chosen = fitted(
        "gaussian", structure, subset=Select(lambda m: [m.layers[1].weight])
    )
    last = fitted("gaussian", structure, subset=LastLayer())
    assert chosen.jacobian.subset == (2,)
    assert last.jacobian.subset == (2, 3)
    _, data, _ = problem("gaussian")
    f = oracle.outputs(bnn.model, jnp.asarray(data.x))
    h = oracle.hessian(bnn.likelihood, f)
    for posterior, leaves in ((chosen, (2,)), (last, (2, 3))):
        j = oracle.jacobian(bnn.model, jnp.asarray(data.x), leaves)
        star = oracle.jacobian(bnn.model, jnp.asarray(new), leaves)
        sizes = [4, 1][: len(leaves)]
        p = np.repeat([2.0, 1.5][: len(leaves)], sizes)
        g = oracle.ggn(j, h)
        if isinstance(structure, Diagonal):
            g = np.diag(np.diag(g))
        if isinstance(structure, KFAC):  # one output: exact within a leaf
            g = g * (
                np.repeat([0, 1][: len(leaves)], sizes)[:, None]
                == np.repeat([0, 1][: len(leaves)], sizes)
            )
        expected = star @ oracle.covariance(g, p) @ star.T
        if not isinstance(structure, KFAC):
            np.testing.assert_allclose(
                posterior.joint(new).covariance, expected, rtol=1e-8, atol=1e-12
            )
        networks = posterior.sample(KEY, 2)
        assert (networks.layers[0].weight[0] == bnn.model.layers[0].weight).all()
        assert (networks.layers[1].weight[0] != bnn.model.layers[1].weight).any()
    tuned = fitted("gaussian", structure, tune=MarginalLikelihood(), subset=LastLayer())
    assert tuned.bnn.likelihood.scale == bnn.likelihood.scale


def test_a_float32_network_gets_float64_algebra_and_float32_predictions():
    bnn, data, new = problem("gaussian")
    single = jax.tree.map(
        lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a,
        bnn.network.trained,
    )
    low = bnn.with_model(single)
    exact = (
        Laplace(tune=Fixed())
        .fit(bnn.with_model(oracle.double(single)), data, key=KEY)
        .predict(new)
    )
    with jax.enable_x64(False):
        for structure in (Full(), KFAC(), Diagonal()):
            method = Laplace(structure=structure)
            posterior = method.fit(low, data, key=KEY)
            predictive = posterior.predict(new)
            for leaf in jax.tree.leaves(predictive):
                assert leaf.dtype == jnp.float32
            stacked = posterior.sample(KEY, 2)
            assert stacked.layers[0].weight.dtype == jnp.float32
            assert posterior.bnn.dtype == np.float32
            assert jnp.zeros(()).dtype == jnp.float32  # no context left open
        predictive = Laplace(tune=Fixed()).fit(low, data, key=KEY).predict(new)
    # only rounding of the result to float32
    np.testing.assert_allclose(predictive.epistemic, exact.epistemic, rtol=3e-7)


def test_predicting_twice_compiles_once(caplog):
    _, data, new = problem("gaussian")
    for structure in (Full(), KFAC()):
        bnn = problem("gaussian")[0]
        posterior = Laplace(structure=structure).fit(bnn, data, key=KEY)
        posterior.predict(new)
        with jax.log_compiles(True), caplog.at_level("WARNING"):
            caplog.clear()
            posterior.predict(new)
            retuned = bnn.with_noise(0.123).with_prior(NormalPrior(3.0))
            again = Laplace(structure=structure, tune=Fixed())
            again.fit(retuned, data, key=KEY)
            caplog.clear()
            again.fit(retuned.with_noise(0.456), data, key=KEY).predict(new)
        compiled = [r for r in caplog.records if "Compiling" in r.getMessage()]
        assert not compiled, [r.getMessage()[:80] for r in compiled]


def test_scaling_is_undone_exactly():
    rng = np.random.default_rng(5)
    x = 50 + 10 * rng.standard_normal((20, 3))
    y = 1000 + 100 * rng.standard_normal((20, 2))
    model = oracle.double(mlp(3, 2, width=4, depth=1)(KEY))
    data = Dataset(x, y)
    scaled = Laplace().fit(
        BNN(model, Gaussian(0.5), scaling=Standardize()), data, key=KEY
    )
    x_loc, x_std, y_loc, y_std = x.mean(0), x.std(0), y.mean(0), y.std(0)
    plain = Laplace().fit(
        BNN(model, Gaussian(0.5)),
        Dataset((x - x_loc) / x_std, (y - y_loc) / y_std),
        key=KEY,
    )
    new = x[:4] + 1
    one, two = scaled.predict(new), plain.predict((new - x_loc) / x_std)
    np.testing.assert_allclose(one.mean, two.mean * y_std + y_loc, rtol=1e-12)
    np.testing.assert_allclose(one.epistemic, two.epistemic * y_std**2, rtol=1e-9)
    np.testing.assert_allclose(one.aleatoric, two.aleatoric * y_std**2, rtol=1e-9)
    shift = np.log(y_std).sum()
    value = two.log_prob((y[:4] - y_loc) / y_std) - shift
    np.testing.assert_allclose(one.log_prob(y[:4]), value, rtol=1e-9)
    joint = scaled.joint(new)
    diagonal = np.diag(joint.covariance).reshape(4, 2)
    np.testing.assert_allclose(diagonal, one.epistemic, rtol=1e-9)


def test_more_data_than_a_chunk(monkeypatch):
    from ntkuq.linearize import chunks

    _, _, new = problem("categorical")
    whole = [
        fitted("categorical", s).joint(new).covariance for s in STRUCTURES.values()
    ]
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5 * 8 * 3 * 100)
    for structure, expected in zip(STRUCTURES.values(), whole, strict=True):
        posterior = fitted("categorical", structure)
        assert chunks.chunk_size(posterior.jacobian, 3, 8) < 12
        np.testing.assert_allclose(
            posterior.joint(new).covariance, expected, rtol=1e-9, atol=1e-12
        )
        _, marginal = posterior.latent(new)
        np.testing.assert_allclose(
            marginal, blocks_of(np.asarray(expected), 5), rtol=1e-9, atol=1e-12
        )


def test_almost_no_noise_needs_jitter_and_says_so():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((6, 3)), 2, axis=0)
    model = oracle.double(mlp(3, 1, width=4, depth=1)(KEY))
    bnn = BNN(model, Gaussian(1e-9), NormalPrior(1.0))
    posterior = Laplace(structure=Full(FunctionSpace()), tune=Fixed()).fit(
        bnn, Dataset(x, x[:, 0]), key=KEY
    )
    assert posterior.diagnostics["jitter"] > 0
    assert np.isfinite(posterior.predict(x).epistemic).all()


def test_bad_input_says_what_to_do(monkeypatch):
    bnn, data, new = problem("gaussian")
    three = problem("categorical")[0]
    layer = bnn.model.layers[0]
    broken = eqx.tree_at(
        lambda m: m.layers[0].weight, bnn.model, layer.weight.at[0, 0].set(jnp.nan)
    )
    cases = [
        (bnn.with_model(broken), data, Laplace(), r"finite weights.*layers\[0\]"),
        (
            BNN(three.network, Gaussian()),
            data,
            Laplace(),
            r"asks for 1 network output\(s\).* has 3",
        ),
        (
            BNN(bnn.network, Categorical()),
            problem("categorical")[1],
            Laplace(),
            "asks for 3 .* or more",
        ),
        (bnn, data, Laplace(subset=Select(lambda m: [])), "at least one parameter"),
        (bnn, data, Laplace(subset=Select(lambda m: m.activation)), "at least one"),
        (bnn, data, Laplace(subset=Select(lambda m: m.depth)), "got int"),
        (bnn, data, Laplace(subset=Select(lambda m: m.layer)), "AttributeError"),
        (BNN(mlp(3, 1), Gaussian()), data, Laplace(), "train it first"),
        (bnn, Dataset(data.x[:, :2], data.y), Laplace(), "one example"),
    ]
    for problem_, data_, method, message in cases:
        with pytest.raises(ValueError, match=message):
            method.fit(problem_, data_, key=KEY)
    with pytest.raises(ValueError, match="one example, of shape"):
        fitted("gaussian", Full()).predict(new[:, :2])
    with pytest.raises(ValueError, match="one example"):
        fitted("gaussian", Full()).predict(new[0])
    monkeypatch.setattr(structures, "LARGEST_SQUARE", 5)
    with pytest.raises(structures.TooLarge, match=r"use KFAC\(\)"):
        fitted("gaussian", Full())
