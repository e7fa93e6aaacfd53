"""Noise that differs by datum or by output, against dense formulas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkuq.data import Dataset
from ntkuq.kernels import RBF, Empirical
from ntkuq.models import BNN, Gaussian, NormalPrior, Standardize
from ntkuq.models.hyperparameters import Fixed, LeaveOneOut
from ntkuq.posteriors.gp import GP, NNGP, NTKGP, gaussian
from ntkuq.posteriors.saving import load, save
from tests.oracle import dense as oracle


RNG = np.random.default_rng(11)
KEY = jax.random.key(0)


def network(outputs=1):
    return lambda key: eqx.nn.MLP(2, outputs, 8, 2, jax.nn.relu, key=key)


def toy(size, noise):
    """Data with the signals of two outputs and noise of this shape, known."""
    x = RNG.standard_normal((size, 2))
    signal = np.stack([np.sin(2 * x[:, 0]), x[:, 1]], axis=1)
    signal = signal[:, 0] if np.ndim(noise) == 1 else signal
    return Dataset(x, signal + noise * RNG.standard_normal(signal.shape))


def known(size, outputs):
    """Noise between 0.05 and 1 for each datum, and for each output where asked."""
    shape = (size,) if outputs is None else (size, outputs)
    noise = np.exp(RNG.uniform(np.log(0.05), 0.0, shape))
    data = toy(size, noise)
    return Dataset(data.x, data.y, noise_scale=noise)


@eqx.filter_jit
def grams(covariance, params, train, new):
    gram = covariance.gram
    return gram(params, train), gram(params, new, train), gram(params, new)


def dense(posterior, x, variance):
    """Mean (M, C), covariances (C, M, M) and evidence; variance (N, C) of the noise."""
    with jax.enable_x64(True):
        train = posterior.bnn.inputs(posterior.data.x, np.float64)
        new = posterior.bnn.inputs(x, np.float64)
        k, cross, prior = map(
            np.asarray, grams(posterior.covariance, posterior.params, train, new)
        )
    scaling = posterior.bnn.scaling
    y = np.asarray(posterior.data.y).reshape(len(k), -1)
    y = (y - scaling.loc()) / scaling.scale()
    variance = np.broadcast_to(variance / scaling.scale() ** 2, y.shape)
    center = np.asarray(posterior.center)[0]
    means, covariances, value = [], [], 0.0
    for c in range(y.shape[1]):
        noisy = k + np.diag(variance[:, c])
        means.append(center[c] + cross @ np.linalg.solve(noisy, y[:, c] - center[c]))
        covariances.append(prior - cross @ np.linalg.solve(noisy, cross.T))
        law = stats.multivariate_normal(np.full(len(k), center[c]), noisy)
        value += law.logpdf(y[:, c])
    factor = np.broadcast_to(scaling.scale(), (y.shape[1],))
    mean = np.stack(means, axis=1) * factor + scaling.loc()
    return mean, np.stack(covariances) * factor[:, None, None] ** 2, value


def close(posterior, new, variance, likelihood_variance):
    mean, covariances, value = dense(posterior, new, variance)
    outputs = mean.shape[1]
    with jax.enable_x64(True):
        joint = posterior.joint(new)
        np.testing.assert_allclose(joint.mean, mean, rtol=1e-8, atol=1e-10)
        full = np.asarray(joint.covariance).reshape(len(new), outputs, len(new), -1)
        for c in range(outputs):
            np.testing.assert_allclose(full[:, c, :, c], covariances[c], atol=1e-9)
            for other in range(c):
                np.testing.assert_array_equal(full[:, c, :, other], 0.0)
    assert posterior.log_marginal_likelihood == pytest.approx(value, rel=1e-9)
    p = posterior.predict(new)
    spread = np.stack([np.diagonal(c) for c in covariances], axis=1)
    expected = np.sqrt(spread + likelihood_variance)
    shape = np.shape(p.mean)
    np.testing.assert_allclose(p.mean, mean.reshape(shape), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        np.sqrt(p.observed.variance), expected.reshape(shape), rtol=1e-4
    )


@pytest.mark.parametrize(("method", "outputs"), [(GP, None), (NTKGP, 2)])
def test_known_noise_equals_the_dense_formula(method, outputs):
    data, new = known(20, outputs), RNG.standard_normal((5, 2))
    bnn = BNN(network(outputs or 1), Gaussian(0.3), scaling=Standardize())
    posterior = method(tune=Fixed()).fit(bnn, data, key=KEY)
    variance = np.asarray(data.noise_scale).reshape(20, -1) ** 2
    scale = posterior.bnn.scaling.scale()
    close(posterior, new, variance, (0.3 * scale) ** 2)


def test_noise_by_datum_alone_is_one_factorization():
    x, noise = RNG.standard_normal((15, 2)), RNG.uniform(0.1, 1.0, 15)
    y = RNG.standard_normal((15, 2))
    bnn = BNN(network(2), Gaussian())
    shared = Dataset(x, y, noise_scale=noise)
    apart = Dataset(x, y, noise_scale=noise[:, None] * np.array([1.0, 1.5]))
    one = NTKGP(tune=Fixed()).fit(bnn, shared, key=KEY)
    two = NTKGP(tune=Fixed()).fit(bnn, apart, key=KEY)
    assert one.diagnostics["factorizations"] == 1
    assert two.diagnostics["factorizations"] == 2
    new = RNG.standard_normal((3, 2))
    close(one, new, noise[:, None] ** 2, 1.0)


def test_noise_of_each_output_is_fitted_and_reported():
    x = RNG.standard_normal((80, 2))
    signal = np.stack([np.sin(2 * x[:, 0]), 50 * np.sin(x[:, 1])], axis=1)
    truth = np.array([0.1, 20.0])
    data = Dataset(x, signal + truth * RNG.standard_normal(signal.shape), units="m")
    bnn = BNN(network(2), Gaussian(np.ones(2)), scaling=Standardize())
    posterior = GP(kernel=RBF(ard=False)).fit(bnn, data, key=KEY)
    found = {h.name: h for h in posterior.hyperparameters}
    for c in range(2):
        noise = found[f"noise scale [{c}]"]
        assert noise.unit == "m"
        assert abs(noise.value - truth[c]) < 4 * noise.se
    scale = np.asarray(posterior.bnn.likelihood.scale) * posterior.bnn.scaling.scale()
    np.testing.assert_allclose(
        [found[f"noise scale [{c}]"].value for c in (0, 1)], scale
    )
    close(posterior, x[:4], scale**2, scale**2)
    # one scale for all is worse: the two differ after scaling, too
    common = GP(kernel=RBF(ard=False)).fit(
        BNN(network(2), Gaussian(), scaling=Standardize()), data, key=KEY
    )
    gain = posterior.log_marginal_likelihood - common.log_marginal_likelihood
    assert gain > 5.0
    by_prediction = GP(kernel=RBF(ard=False), tune=LeaveOneOut()).fit(
        bnn, data, key=KEY
    )
    for c, h in enumerate(
        h for h in by_prediction.hyperparameters if "noise" in h.name
    ):
        assert abs(h.value - truth[c]) < 5 * h.se


def test_known_noise_is_not_fitted_and_tuning_sees_it():
    """The evidence with known noise is what tuning maximizes."""
    data = known(40, None)
    bnn = BNN(network(), Gaussian(), scaling=Standardize())
    kernel = RBF(ard=False)
    posterior = GP(kernel).fit(bnn, data, key=KEY)
    assert [h.name for h in posterior.hyperparameters] == ["lengthscale", "output std"]
    variance = np.asarray(data.noise_scale)[:, None] ** 2
    start = GP(kernel, tune=Fixed()).fit(bnn, data, key=KEY)
    assert posterior.log_marginal_likelihood > start.log_marginal_likelihood
    _, _, value = dense(posterior, data.x[:1], variance)
    assert posterior.log_marginal_likelihood == pytest.approx(value, rel=1e-9)
    for name, log in posterior.params.items():
        for step in (1e-2, -1e-2):
            moved = {**posterior.params, name: np.asarray(log) + step}
            changed = eqx.tree_at(lambda p: p.params, posterior, moved)
            assert dense(changed, data.x[:1], variance)[2] < value + 1e-6


def test_update_is_conditioning_and_wants_the_noise():
    data = known(20, 2)
    bnn = BNN(network(2), Gaussian(0.5))
    first, second = data.take(np.arange(12)), data.take(np.arange(12, 20))
    start = NNGP(tune=Fixed()).fit(bnn, first, key=KEY)
    posterior = start.update(second, key=KEY)
    close(posterior, RNG.standard_normal((4, 2)), data.noise_scale**2, 0.25)
    np.testing.assert_array_equal(posterior.center, start.center)
    with pytest.raises(ValueError, match="update: expected data with noise_scale"):
        start.update(Dataset(second.x, second.y), key=KEY)


def test_round_trip(tmp_path):
    data = known(10, 2)
    bnn = BNN(network(2), Gaussian(0.5))
    posterior = NTKGP(tune=Fixed()).fit(bnn, data, key=KEY)
    save(tmp_path / "gp.ntkuq", posterior, data=data)
    again = load(tmp_path / "gp.ntkuq", bnn, data=data)
    one, two = (p.predict(data.x) for p in (posterior, again))
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.epistemic, two.epistemic)


def test_outputs_that_share_kernel_and_noise_cost_one_factorization():
    def factorizations(outputs):
        with jax.enable_x64(True):
            kernel, y = jnp.eye(6), jnp.ones((6, outputs))
            noise = jnp.asarray(0.1)
            each = (
                jax.make_jaxpr(gaussian.evidence)(kernel, y, noise),
                jax.make_jaxpr(gaussian.condition)(kernel, y, noise),
            )
        return [str(jaxpr).count(" cholesky") for jaxpr in each]

    assert factorizations(5) == factorizations(1)
    assert min(factorizations(5)) >= 1


def test_empirical_kernel_with_known_noise():
    noise = np.exp(RNG.uniform(np.log(0.1), 0.0, 12))
    x, new = RNG.standard_normal((12, 3)), RNG.standard_normal((4, 3))
    y = x @ [1.0, -2.0, 0.5] + noise * RNG.standard_normal(12)
    with jax.enable_x64(True):
        layer = eqx.nn.Linear(3, 1, use_bias=False, key=KEY)
        bnn = BNN(oracle.double(layer), Gaussian(0.3), NormalPrior(2.0))
        data = Dataset(x, y, noise_scale=noise)
        posterior = NTKGP(Empirical(), tune=Fixed()).fit(bnn, data, key=KEY)
        precision = x.T @ (x / noise[:, None] ** 2) + 2.0 * np.eye(3)
        weights = np.linalg.solve(precision, x.T @ (y / noise**2))
        joint = posterior.joint(new)
        np.testing.assert_allclose(joint.mean[:, 0], new @ weights, rtol=1e-9)
        expected = new @ np.linalg.solve(precision, new.T)
        np.testing.assert_allclose(joint.covariance, expected, rtol=1e-8, atol=1e-12)
        law = stats.multivariate_normal(np.zeros(12), x @ x.T / 2 + np.diag(noise**2))
        assert posterior.log_marginal_likelihood == pytest.approx(
            law.logpdf(y), rel=1e-9
        )
        assert posterior.diagnostics["converged"] is True
        tuned = NTKGP(Empirical()).fit(bnn, data, key=KEY)
        assert tuned.diagnostics["converged"] is True
        assert [h.name for h in tuned.hyperparameters] == ["prior precision"]
        assert tuned.log_marginal_likelihood >= posterior.log_marginal_likelihood
        tau = tuned.hyperparameters[0].value
        law = stats.multivariate_normal(np.zeros(12), x @ x.T / tau + np.diag(noise**2))
        assert tuned.log_marginal_likelihood == pytest.approx(law.logpdf(y), rel=1e-8)
