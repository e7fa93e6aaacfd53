"""Elliptical slice sampling against quadrature, the prior, and Laplace."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.kernels import RBF
from ntkuq.models import BNN, Bernoulli, Categorical, Gaussian, Poisson
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors.gp import GP, EllipticalSlice
from ntkuq.posteriors.gp.elliptical import mixing, run_chains
from ntkuq.posteriors.saving import load, save


RNG = np.random.default_rng(4)
KEY = jax.random.key(0)
X = np.array([[-1.0], [0.2], [1.0]])
Y = np.array([0, 1, 1])


def network(inputs, outputs):
    return lambda key: eqx.nn.MLP(inputs, outputs, 4, 1, key=key)


def by_quadrature(posterior, x, y, new):
    """P(y = 1) at one new input, by a grid over f at the three training inputs."""
    with jax.enable_x64(True):
        every = posterior.bnn.inputs(np.concatenate([x, new[None]]), np.float64)
        k = np.asarray(posterior.covariance.gram(posterior.params, every))
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = np.stack(np.meshgrid(points, points, points, indexing="ij"), -1)
    f = grid.reshape(-1, 3) @ np.linalg.cholesky(k[:3, :3]).T
    prior = np.einsum("i,j,k->ijk", weights, weights, weights).ravel()
    fit = np.prod(1.0 / (1.0 + np.exp(-(2 * y - 1) * f)), axis=1)
    project = np.linalg.solve(k[:3, :3], k[:3, 3])
    spread = np.sqrt(k[3, 3] - k[3, :3] @ project)
    own = f @ project
    z = own[:, None] + spread * points
    chance = (1.0 / (1.0 + np.exp(-z))) @ weights / weights.sum()
    return np.sum(prior * fit * chance) / np.sum(prior * fit)


def test_predictions_equal_quadrature():
    bnn = BNN(network(1, 1), Bernoulli())
    inference = EllipticalSlice(samples=2000, warmup=100, thin=2, chains=4)
    method = GP(RBF(ard=False), tune=Fixed(), inference=inference)
    posterior = method.fit(bnn, Dataset(X, Y), key=KEY)
    new = np.array([[-2.0], [0.5], [3.0]])
    got = np.asarray(posterior.predict(new).mean)[:, 1]
    expected = [by_quadrature(posterior, X, Y, x) for x in new]
    # a probability under one draw deviates by at most 0.5: its error, 4 sigma
    effective = posterior.diagnostics["effective draws"]
    assert effective > 400
    np.testing.assert_allclose(got, expected, atol=4 * 0.25 / np.sqrt(effective))
    assert posterior.diagnostics["converged"]
    assert posterior.diagnostics["R-hat"] < 1.01
    assert posterior.log_marginal_likelihood is None
    assert np.isfinite(posterior.diagnostics["Laplace log evidence"])


def test_without_data_it_samples_the_prior():
    """Variances of 4 x 500 draws, ten steps apart, to 4 standard errors."""
    with jax.enable_x64(True):
        half = jnp.asarray([[1.0, 0.0], [0.8, 0.6]])
        found = run_chains(
            Gaussian(1e6),
            half,
            jnp.zeros((2, 1)),
            jnp.zeros((4, 2, 1)),
            20,
            500,
            10,
            KEY,
        )
        values = np.asarray(found.values)[:, :, 0]
        np.testing.assert_allclose(
            np.asarray(half @ half.T @ found.weights[:, :, 0].T).T, values, atol=1e-10
        )
    np.testing.assert_allclose(np.cov(values.T), [[1.0, 0.8], [0.8, 1.0]], atol=0.13)
    np.testing.assert_allclose(values.mean(axis=0), 0.0, atol=4 / np.sqrt(2000))


def test_gaussian_likelihood_gives_the_exact_posterior():
    """Conjugate case: mean and covariance are known."""
    k = np.array([[2.0, 1.0, 0.3], [1.0, 2.0, 1.0], [0.3, 1.0, 2.0]])
    y, noise = np.array([1.0, -0.5, 2.0]), 0.5
    gain = k @ np.linalg.inv(k + noise**2 * np.eye(3))
    mean, covariance = gain @ y, k - gain @ k
    with jax.enable_x64(True):
        found = run_chains(
            Gaussian(noise),
            jnp.linalg.cholesky(jnp.asarray(k)),
            jnp.asarray(y)[:, None],
            jnp.zeros((4, 3, 1)),
            200,
            1000,
            5,
            KEY,
        )
    values = np.asarray(found.values)
    rhat, effective = mixing(values, 4)
    assert rhat < 1.02
    spread = np.sqrt(np.diagonal(covariance) / effective)
    assert np.all(np.abs(values[:, :, 0].mean(axis=0) - mean) < 4 * spread)
    error = np.sqrt(2 / effective) * covariance.max()
    np.testing.assert_allclose(np.cov(values[:, :, 0].T), covariance, atol=4 * error)


@pytest.mark.parametrize("likelihood", [Categorical(), Poisson()])
def test_it_agrees_with_laplace_on_many_data(likelihood):
    x = RNG.standard_normal((60, 2))
    if isinstance(likelihood, Poisson):
        y, outputs = RNG.poisson(np.exp(1.0 + x[:, 0])), 1
    else:
        y, outputs = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5), 3
    bnn = BNN(network(2, outputs), likelihood)
    # an amplitude of 1: with a larger one Laplace's approximation is off by more
    kernel, tune = RBF(ard=False), Fixed()
    inference = EllipticalSlice(samples=100, warmup=500, thin=20)
    data = Dataset(x, y)
    one = GP(kernel, tune, inference).fit(bnn, data, key=KEY)
    two = GP(kernel, tune).fit(bnn, data, key=KEY)
    assert one.hyperparameters == two.hyperparameters
    new = RNG.standard_normal((20, 2))
    a, b = one.predict(new), two.predict(new)
    assert one.diagnostics["R-hat"] < 1.1
    # 4 standard errors of the draws, and 5 % (or 0.05) for Laplace's approximation
    variance = 0.25 if likelihood.classes else np.asarray(a.epistemic)
    size = 1.0 if likelihood.classes else np.asarray(b.mean)
    error = 4 * np.sqrt(variance / one.diagnostics["effective draws"]) + 0.05 * size
    assert np.all(np.abs(np.asarray(a.mean) - np.asarray(b.mean)) < error)
    assert (np.asarray(a.epistemic) >= 0).all()
    if likelihood.classes:
        np.testing.assert_allclose(np.sum(a.mean, axis=1), 1.0, rtol=1e-5)


def test_update_round_trip_key_and_refusals(tmp_path):
    bnn = BNN(network(1, 1), Bernoulli())
    inference = EllipticalSlice(samples=20, warmup=5, thin=1, chains=2)
    method = GP(RBF(ard=False), Fixed(), inference)
    data = Dataset(X, Y)
    posterior = method.fit(bnn, data, key=KEY)
    same = method.fit(bnn, data, key=KEY)
    p = posterior.predict(X)
    np.testing.assert_array_equal(p.mean, same.predict(X).mean)
    assert p.mean.dtype == jnp.float32
    assert not posterior.diagnostics["converged"]
    save(tmp_path / "gp.ntkuq", posterior, data=data)
    again = load(tmp_path / "gp.ntkuq", bnn, data=data)
    np.testing.assert_array_equal(again.predict(X).mean, p.mean)
    more = posterior.update(Dataset(X + 0.1, Y), key=KEY)
    assert more.weights.shape == (40, 6, 1)
    with pytest.raises(ValueError, match="chains >= 2"):
        EllipticalSlice(chains=1)
