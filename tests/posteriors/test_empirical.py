"""The linearized network's own posterior equals the dense Gaussian process."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from ntkuq.data import Dataset
from ntkuq.models import BNN, Gaussian, NormalPrior
from ntkuq.models.hyperparameters import Fixed, MarginalLikelihood
from ntkuq.posteriors import empirical
from ntkuq.posteriors.empirical import fit_empirical
from tests.oracle import dense as oracle
from tests.posteriors.problems import blocks_of, precision, problem, reference


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@functools.cache
def pieces(name="gaussian"):
    """Mean function and kernel of the linearized network with a unit prior factor."""
    bnn, data, new = problem(name)
    j, _, _, star = reference(name)
    sigma = 1.0 / precision(bnn)
    theta = oracle.ravel(bnn.model)
    f = np.ravel(oracle.outputs(bnn.model, jnp.asarray(data.x)))
    f_new = np.ravel(oracle.outputs(bnn.model, jnp.asarray(new)))
    return (
        np.ravel(data.y) - (f - j @ theta),
        f_new - star @ theta,
        (j * sigma) @ j.T,
        (star * sigma) @ j.T,
        (star * sigma) @ star.T,
    )


def gaussian_process(tau, noise):
    residual, prior_mean, k, cross, new = pieces()
    a = k / tau + noise**2 * np.eye(len(residual))
    mean = prior_mean + cross / tau @ np.linalg.solve(a, residual)
    cov = new / tau - cross @ np.linalg.solve(a, cross.T) / tau**2
    _, log_det = np.linalg.slogdet(a)
    fit = residual @ np.linalg.solve(a, residual)
    count = len(residual) * math.log(2 * math.pi)
    return mean, cov, -0.5 * (fit + log_det + count)


def test_it_is_the_dense_gaussian_process():
    bnn, data, new = problem("gaussian")
    posterior = fit_empirical(bnn, data, Fixed())
    mean, cov, evidence = gaussian_process(1.0, bnn.likelihood.scale)
    joint = posterior.joint(new)
    np.testing.assert_allclose(joint.mean[:, 0], mean, rtol=1e-9)
    np.testing.assert_allclose(joint.covariance, cov, rtol=1e-8, atol=1e-12)
    assert posterior.log_marginal_likelihood == pytest.approx(evidence, rel=1e-9)
    p = posterior.predict(new)
    np.testing.assert_allclose(p.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(p.epistemic, np.diag(cov), rtol=1e-8)


def test_evidence_is_maximal_over_precision_and_noise():
    bnn, data, _ = problem("gaussian")
    posterior = fit_empirical(bnn, data, MarginalLikelihood())
    noise = posterior.bnn.likelihood.scale
    before, after = (
        jax.tree.leaves(b.prior.precisions(bnn.parameters))[0]
        for b in (bnn, posterior.bnn)
    )
    tau = float(after / before)
    found = minimize(
        lambda p: -gaussian_process(math.exp(p[0]), math.exp(p[1]))[2],
        [0.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 2000},
    )
    # rounds stop when both logarithms move by less than 1e-4; they converge linearly
    assert math.log(tau) == pytest.approx(found.x[0], abs=2e-3)
    assert math.log(noise) == pytest.approx(found.x[1], abs=2e-3)
    value = gaussian_process(tau, noise)[2]
    assert posterior.log_marginal_likelihood == pytest.approx(value, rel=1e-8)
    assert value == pytest.approx(-found.fun, abs=1e-5)


@pytest.mark.parametrize("name", ["gaussian", "two outputs"])
def test_errors_are_those_of_the_dense_evidence(name):
    bnn, data, _ = problem(name)
    residual, _, kernel, _, _ = (jnp.asarray(part) for part in pieces(name))
    posterior = fit_empirical(bnn, data, MarginalLikelihood())
    precision, *noise = posterior.hyperparameters
    scale = jnp.broadcast_to(jnp.asarray(bnn.likelihood.scale), data.y.shape).reshape(
        -1
    )

    def log_evidence(logs):
        tau, factor = jnp.exp(logs)
        a = kernel / tau + jnp.diag((factor * scale) ** 2)
        _, log_det = jnp.linalg.slogdet(a)
        return -0.5 * (residual @ jnp.linalg.solve(a, residual) + log_det)

    factor = noise[0].value / np.ravel(bnn.likelihood.scale)[0]
    at = jnp.log(jnp.asarray([precision.value, factor]))
    errors = jnp.sqrt(jnp.diag(jnp.linalg.inv(-jax.hessian(log_evidence)(at))))
    assert precision.se / precision.value == pytest.approx(float(errors[0]), rel=1e-6)
    for one in noise:
        assert one.se / one.value == pytest.approx(float(errors[1]), rel=1e-6)


def test_what_did_not_converge_is_said(monkeypatch):
    bnn, data, _ = problem("gaussian")
    for tune in (Fixed(), MarginalLikelihood()):
        assert fit_empirical(bnn, data, tune).diagnostics["converged"] is True
    monkeypatch.setattr(empirical, "GAUSSIAN_ROUNDS", 2)
    cut = fit_empirical(bnn, data, MarginalLikelihood()).diagnostics
    assert (cut["rounds"], cut["converged"]) == (2, False)

    bnn, data, _ = problem("poisson")
    data = data.take(np.arange(11))  # a shape of its own: compiled with these STEPS
    monkeypatch.setattr(empirical, "STEPS", 1)
    short = fit_empirical(bnn, data, Fixed()).diagnostics
    assert short["converged"] is False
    assert short["residual"] > empirical.TOLERANCE


def test_tuning_without_gaussian_noise_ends_at_a_fixed_point():
    """From a prior ten times too strong; one more fit from there hardly moves."""
    bnn, data, _ = problem("poisson")
    start = bnn.with_prior(bnn.prior.scaled(10.0))
    found = fit_empirical(start, data, MarginalLikelihood())
    assert found.diagnostics["converged"] is True
    assert 2 < found.diagnostics["rounds"] < empirical.OTHER_ROUNDS
    again = fit_empirical(found.bnn, data, MarginalLikelihood())
    # the factor on the prior found before; the rounds left out move it a little
    factor = again.hyperparameters[0]
    assert factor.name == "prior precision factor"
    assert abs(math.log(factor.value)) < 4 * empirical.SHARE * factor.se
    gap = again.log_marginal_likelihood - found.log_marginal_likelihood
    assert abs(gap) < 0.01


def test_labels_that_say_nothing_have_no_finite_precision():
    """The evidence of twelve random labels grows with the precision without end."""
    bnn, data, _ = problem("bernoulli")
    found = fit_empirical(bnn, data, MarginalLikelihood()).diagnostics
    assert (found["rounds"], found["converged"]) == (empirical.OTHER_ROUNDS, False)
    assert found["effective parameters"] < 0.1


def test_a_linear_network_is_bayesian_linear_regression():
    rng = np.random.default_rng(2)
    x, new = rng.standard_normal((10, 3)), rng.standard_normal((4, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.standard_normal(10)
    layer = eqx.nn.Linear(3, 1, use_bias=False, key=jax.random.key(0))
    bnn = BNN(oracle.double(layer), Gaussian(0.3), NormalPrior(2.0))
    posterior = fit_empirical(bnn, Dataset(x, y), Fixed())
    mean, cov, evidence = oracle.bayesian_linear_regression(x, y, 2.0, 0.3, new)
    joint = posterior.joint(new)
    np.testing.assert_allclose(joint.mean[:, 0], mean, rtol=1e-9)
    np.testing.assert_allclose(joint.covariance, cov, rtol=1e-9, atol=1e-13)
    assert posterior.log_marginal_likelihood == pytest.approx(evidence, rel=1e-9)


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "poisson"])
def test_other_likelihoods_reach_the_mode_of_the_linearized_network(name):
    bnn, data, new = problem(name)
    posterior = fit_empirical(bnn, data, Fixed())
    j, _, _, star = reference(name)
    p, theta = precision(bnn), oracle.ravel(bnn.model)
    f = oracle.outputs(bnn.model, jnp.asarray(data.x))
    y = bnn.targets(data)

    def log_joint(shift):
        moved = f + (jnp.asarray(j) @ shift).reshape(f.shape)
        fits = jnp.sum(jax.vmap(bnn.likelihood.log_prob)(moved, y))
        return fits - 0.5 * jnp.sum(p * (theta + shift) ** 2)

    shift = np.concatenate(posterior.shift)
    gradient = jax.grad(log_joint)(jnp.asarray(shift))
    hessian = -jax.hessian(log_joint)(jnp.asarray(shift))
    assert posterior.diagnostics["converged"] is True
    # a Newton step from there would gain less than 1e-7 nats
    assert 0.5 * gradient @ np.linalg.solve(hessian, gradient) < 1e-7
    # the covariance takes H at the optimum of the round before, here the same one
    got = posterior.joint(new).covariance
    expected = star @ np.linalg.inv(hessian) @ star.T
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, atol=1e-4 * scale)
    mean = oracle.outputs(bnn.model, jnp.asarray(new)).ravel() + star @ shift
    np.testing.assert_allclose(posterior.joint(new).mean.ravel(), mean, rtol=1e-9)
    blocks = blocks_of(np.asarray(got), len(new))
    assert blocks.shape[0] == len(new)
    _, log_det = np.linalg.slogdet(np.asarray(hessian))
    evidence = float(log_joint(jnp.asarray(shift))) + 0.5 * np.log(p).sum()
    assert posterior.log_marginal_likelihood == pytest.approx(
        evidence - 0.5 * log_det, rel=1e-4
    )
