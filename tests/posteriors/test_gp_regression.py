"""GP regression against dense formulas, refits and Bayesian linear regression."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkuq.data import Dataset
from ntkuq.kernels import RBF, AbstractKernel
from ntkuq.kernels.base import AbstractCovariance, Gram, Parameter, symmetric
from ntkuq.models import (
    BNN,
    Gaussian,
    LogDensity,
    Standardize,
)
from ntkuq.models.hyperparameters import Fixed, MarginalLikelihood
from ntkuq.posteriors.gp import GP, NNGP, NTKGP


RNG = np.random.default_rng(2)
KEY = jax.random.key(0)


def network(features, outputs=1, activation=jax.nn.relu):
    def build(key):
        return eqx.nn.MLP(features, outputs, 8, 2, activation, key=key)

    return build


def toy(size, outputs=None, features=2):
    x = RNG.standard_normal((size, features))
    signal = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
    shape = (size,) if outputs is None else (size, outputs)
    noise = 0.1 * RNG.standard_normal(shape)
    return Dataset(x, (signal if outputs is None else signal[:, None]) + noise)


METHODS = [GP(tune=Fixed()), NNGP(tune=Fixed()), NTKGP(tune=Fixed())]


def dense(posterior, x):
    """Mean, covariance and log marginal likelihood by plain NumPy."""
    with jax.enable_x64(True):
        train = posterior.bnn.inputs(posterior.data.x, np.float64)
        new = posterior.bnn.inputs(x, np.float64)
        y = np.asarray(posterior.bnn.targets(posterior.data, np.float64))
        gram, params = posterior.covariance.gram, posterior.params
        k, cross, prior = (
            np.asarray(a)
            for a in (gram(params, train), gram(params, new, train), gram(params, new))
        )
    noisy = k + float(posterior.bnn.likelihood.scale) ** 2 * np.eye(len(k))
    center = np.asarray(posterior.center)[0]
    mean = center + cross @ np.linalg.solve(noisy, y - center)
    covariance = prior - cross @ np.linalg.solve(noisy, cross.T)
    value = sum(
        stats.multivariate_normal(np.zeros(len(k)), noisy).logpdf(column)
        for column in (y - center).T
    )
    return mean, covariance, value


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("outputs", [None, 3])
def test_equals_the_dense_formula(method, outputs):
    data, new = toy(25, outputs), RNG.standard_normal((6, 2))
    bnn = BNN(network(2, outputs or 1), Gaussian(0.2), scaling=Standardize())
    posterior = method.fit(bnn, data, key=KEY)
    mean, covariance, value = dense(posterior, new)
    scale, loc = np.asarray(posterior.bnn.scaling.scale()), posterior.bnn.scaling.loc()
    with jax.enable_x64(True):
        joint = posterior.joint(new)
        np.testing.assert_allclose(joint.mean, mean * scale + loc, rtol=1e-10)
        size = len(scale)
        expected = np.kron(covariance, np.diag(scale**2))
        np.testing.assert_allclose(
            joint.covariance, expected, rtol=1e-8, atol=1e-10 * expected.max()
        )
        assert joint.covariance.shape == (6 * size, 6 * size)
    assert posterior.log_marginal_likelihood == pytest.approx(value, rel=1e-10)
    p = posterior.predict(new)
    expected = mean * scale + loc
    np.testing.assert_allclose(
        p.mean, expected[:, 0] if outputs is None else expected, rtol=1e-5, atol=1e-5
    )
    variance = np.diagonal(covariance)[:, None] * scale**2
    np.testing.assert_allclose(
        p.epistemic, variance[:, 0] if outputs is None else variance, rtol=1e-4
    )
    assert p.mean.dtype == jnp.float32


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_update_is_conditioning_on_all_data(method):
    first, second, new = toy(15), toy(9), RNG.standard_normal((5, 2))
    both = Dataset(
        np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y])
    )
    bnn = BNN(network(2), Gaussian(0.3))
    start = method.fit(bnn, first, key=KEY)
    again = start.update(second, key=KEY)
    mean, covariance, value = dense(again, new)
    assert len(again.data) == 24
    assert len(start.data) == 15
    with jax.enable_x64(True):
        joint = again.joint(new)
        np.testing.assert_allclose(joint.mean, mean, rtol=1e-8)
        np.testing.assert_allclose(joint.covariance, covariance, rtol=1e-8, atol=1e-9)
    assert again.log_marginal_likelihood == pytest.approx(value, rel=1e-9)
    np.testing.assert_array_equal(again.data.x, both.x)


class Linear(AbstractKernel):
    """k(x, x') = x . x', the covariance of a linear model with N(0, I) weights."""

    def covariance(self, bnn, x, scale):
        return LinearCovariance({"output std": Parameter.of(1.0, 1e-2, 1e2)})


class LinearCovariance(AbstractCovariance):
    parameters: dict[str, Parameter]

    def gram(self, params, x1, x2=None):
        scale = jnp.exp(2.0 * params["output std"])
        if x2 is None:
            return symmetric(scale * (x1 @ x1.T), self.diagonal(params, x1))
        return scale * (x1 @ x2.T)

    def diagonal(self, params, x):
        return jnp.exp(2.0 * params["output std"]) * jnp.sum(x**2, axis=1)

    def at(self, x):
        return Gram(self, x)


def test_linear_kernel_is_bayesian_linear_regression():
    x, new = RNG.standard_normal((30, 3)), RNG.standard_normal((4, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + 0.3 * RNG.standard_normal(30)
    y -= y.mean()
    bnn = BNN(network(3), Gaussian(0.3))
    posterior = GP(Linear(), tune=Fixed()).fit(bnn, Dataset(x, y), key=KEY)
    precision = x.T @ x / 0.09 + np.eye(3)
    weights = np.linalg.solve(precision, x.T @ y / 0.09)
    with jax.enable_x64(True):
        joint = posterior.joint(new)
        np.testing.assert_allclose(joint.mean[:, 0], new @ weights, rtol=1e-9)
        expected = new @ np.linalg.solve(precision, new.T)
        np.testing.assert_allclose(joint.covariance, expected, rtol=1e-9, atol=1e-12)
    evidence = (
        -0.5 * np.linalg.slogdet(precision)[1]
        - 15 * np.log(2 * np.pi * 0.09)
        - 0.5 * (np.sum((y - x @ weights) ** 2) / 0.09 + weights @ weights)
    )
    assert posterior.log_marginal_likelihood == pytest.approx(evidence, rel=1e-9)


def test_tuning_finds_a_stationary_point_and_reports_it():
    data = toy(60)
    bnn = BNN(network(2), Gaussian(), scaling=Standardize())
    posterior = GP().fit(bnn, data, key=KEY)
    fixed = GP(tune=Fixed()).fit(bnn, data, key=KEY)
    assert posterior.log_marginal_likelihood > fixed.log_marginal_likelihood
    names = [h.name for h in posterior.hyperparameters]
    assert names == ["lengthscale [0]", "lengthscale [1]", "noise scale", "output std"]
    noise = posterior.hyperparameters[2]
    # in the units of the data, within its error of the truth
    assert abs(noise.value - 0.1) < 4 * noise.se
    assert posterior.diagnostics["converged"]
    assert posterior.diagnostics["gradient norm"] < 0.1
    scaled = float(posterior.bnn.likelihood.scale)
    assert noise.value == pytest.approx(scaled * posterior.bnn.scaling.scale()[0])


def test_evidence_gradient_against_finite_differences():
    from ntkuq.posteriors.gp import gaussian

    with jax.enable_x64(True):
        half = jnp.asarray(RNG.standard_normal((7, 7)))
        k, y = half @ half.T, jnp.asarray(RNG.standard_normal((7, 2)))
        noise = jnp.asarray(0.3)
        found = gaussian.evidence(k, y, noise)
        expected = sum(
            stats.multivariate_normal(
                np.zeros(7), np.asarray(k) + 0.3 * np.eye(7)
            ).logpdf(c)
            for c in np.asarray(y).T
        )
        assert float(found.value) == pytest.approx(expected, rel=1e-12)
        direction = jnp.asarray(RNG.standard_normal((7, 7)))
        direction = direction + direction.T
        step = 1e-5
        ends = [
            gaussian.evidence(k + s * step * direction, y, noise).value
            for s in (1.0, -1.0)
        ]
        slope = jnp.sum(found.kernel_bar * direction)
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)
        ends = [gaussian.evidence(k, y, noise + s * step).value for s in (1.0, -1.0)]
        np.testing.assert_allclose(
            found.noise_bar, (ends[0] - ends[1]) / (2 * step), rtol=1e-7
        )


@pytest.mark.parametrize("method", [GP(), NTKGP(), NNGP()])
def test_bad_input_gives_finite_answers(method):
    bnn = BNN(network(2), Gaussian())
    x = RNG.standard_normal((6, 2))
    cases = {
        "duplicates": Dataset(np.concatenate([x, x]), RNG.standard_normal(12)),
        "one point": Dataset(x[:1], np.array([3.0])),
        "constant": Dataset(x, np.full(6, 7.0)),
        "scales": Dataset(x * np.array([1e7, 1e-7]), 1e6 * RNG.standard_normal(6)),
    }
    tune = MarginalLikelihood(max_steps=30)
    method = type(method)(kernel=method.kernel, tune=tune)
    for name, data in cases.items():
        posterior = method.fit(bnn, data, key=KEY)
        p = posterior.predict(data.x)
        assert np.isfinite(p.mean).all(), name
        assert np.isfinite(p.log_prob(data.y)).all(), name
        assert (np.asarray(p.epistemic) >= 0).all(), name
        assert np.isfinite(posterior.log_marginal_likelihood), name


def test_variance_at_a_training_point_without_noise_is_not_negative():
    data = toy(20)
    posterior = GP(tune=Fixed()).fit(BNN(network(2), Gaussian(1e-6)), data, key=KEY)
    assert (np.asarray(posterior.predict(data.x).epistemic) > 0).all()


def test_refusals():
    data = toy(5)
    for continuous in (True, False):
        own = LogDensity(lambda f, y: -jnp.abs(y - f[0]), continuous=continuous)
        with pytest.raises(TypeError, match="got LogDensity"):
            GP().fit(BNN(network(2), own), data, key=KEY)
    with pytest.raises(TypeError, match="two covariances"):
        GP(kernel=NNGP().kernel).fit(BNN(network(2), Gaussian()), data, key=KEY)
    weighted = Dataset(data.x, data.y, weight=np.ones(5))
    with pytest.raises(ValueError, match=r"Dataset.weight is not used by any method"):
        GP().fit(BNN(network(2), Gaussian()), weighted, key=KEY)


def test_same_key_same_result_and_restarts():
    data = toy(20)
    bnn = BNN(network(2), Gaussian())
    method = GP(kernel=RBF(ard=False), tune=MarginalLikelihood(restarts=2))
    one, two = (method.fit(bnn, data, key=KEY) for _ in range(2))
    assert one.log_marginal_likelihood == two.log_marginal_likelihood
    assert one.hyperparameters == two.hyperparameters
    single = GP(kernel=RBF(ard=False)).fit(bnn, data, key=KEY)
    assert one.log_marginal_likelihood >= single.log_marginal_likelihood - 1e-6
