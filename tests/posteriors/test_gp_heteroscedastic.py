"""GPs for a mean and a log noise scale: limits, derivatives, sampling, recovery."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkuq.data import Dataset
from ntkuq.kernels import RBF
from ntkuq.models import BNN, Gaussian, HeteroscedasticGaussian, Standardize
from ntkuq.models.hyperparameters import Fixed, LeaveOneOut
from ntkuq.posteriors.gp import GP, EllipticalSlice, latent
from ntkuq.posteriors.gp.elliptical import mixing, run_chains
from ntkuq.posteriors.gp.scoring import Affine, derivatives, find_mode, mean_weights
from ntkuq.posteriors.saving import load, save


RNG = np.random.default_rng(8)
KEY = jax.random.key(0)
SIZE = 14
X = np.linspace(-2.0, 2.0, SIZE)
Y = np.sin(X) + np.exp(0.5 * X - 1.0) * RNG.standard_normal(SIZE)
KERNEL = 1.3 * np.exp(-0.5 * (X[:, None] - X) ** 2)


def network(inputs=1, outputs=2):
    return lambda key: eqx.nn.MLP(inputs, outputs, 8, 1, key=key)


@eqx.filter_jit
def solve(kernel, loc, scale):
    likelihood = Affine(HeteroscedasticGaussian(), loc, scale)
    y, start = jnp.asarray(Y)[:, None], jnp.zeros((SIZE, 2), kernel.dtype)
    mode = find_mode(likelihood, kernel, y, start, 100)
    weights = mean_weights(likelihood, kernel, y, mode)
    found = derivatives(likelihood, kernel, y, mode)
    return mode, weights, found, latent.log_evidence(mode)


def problem():
    loc, scale = jnp.asarray([0.1, -0.9]), jnp.asarray([1.0, 0.6])
    return jnp.asarray(KERNEL), loc, scale


def test_mode_and_evidence_equal_dense():
    with jax.enable_x64(True):
        kernel, loc, scale = problem()
        mode, _, _, evidence = solve(kernel, loc, scale)
        g = np.asarray(kernel @ mode.a)
    mean, log_scale = (np.asarray(loc) + np.asarray(scale) * g).T
    r = Y - mean
    gradient = np.stack(
        [r * np.exp(-2 * log_scale), r**2 * np.exp(-2 * log_scale) - 1], axis=1
    ) * np.asarray(scale)
    assert float(mode.residual) < latent.TOLERANCE
    np.testing.assert_allclose(gradient, mode.a, atol=1e-8)
    fit = stats.norm(mean, np.exp(log_scale)).logpdf(Y).sum()
    w = (
        np.stack([np.exp(-2 * log_scale), np.full(SIZE, 2.0)])
        * np.asarray(scale)[:, None] ** 2
    )
    expected = fit
    for c in range(2):
        expected -= 0.5 * g[:, c] @ np.linalg.solve(KERNEL, g[:, c])
        expected -= 0.5 * np.linalg.slogdet(np.eye(SIZE) + KERNEL * w[c])[1]
    assert float(evidence) == pytest.approx(expected, rel=1e-9)


def test_derivatives_against_refits():
    """Finite differences of the whole procedure, the search for the mode included."""
    # the mode is found to 1e-9; second-order differences err by about 1e-8
    step = 1e-4
    with jax.enable_x64(True):
        kernel, loc, scale = problem()
        _, _, found, _ = solve(kernel, loc, scale)
        half = RNG.standard_normal((SIZE, SIZE))
        direction = jnp.asarray(half @ half.T / SIZE)

        def slope(move):
            ends = [float(solve(*move(s * step))[3]) for s in (1.0, -1.0)]
            return (ends[0] - ends[1]) / (2 * step)

        got = float(jnp.sum(found.kernel * direction))
        expected = slope(lambda s: (kernel + s * direction, loc, scale))
        assert got == pytest.approx(expected, rel=1e-5)
        one = jnp.asarray([0.0, 1.0])
        expected = slope(lambda s: (kernel, loc + s * one, scale))
        assert float(found.loc[1]) == pytest.approx(expected, rel=1e-5)
        expected = slope(lambda s: (kernel, loc, scale * jnp.exp(s * one)))
        assert float(found.log_scale[1]) == pytest.approx(expected, rel=1e-5)


def test_without_changes_of_the_noise_it_is_gp_regression():
    with jax.enable_x64(True):
        kernel, loc, _ = problem()
        mode, weights, _, evidence = solve(kernel, loc, jnp.asarray([1.0, 1e-9]))
    noisy = KERNEL + np.exp(-1.8) * np.eye(SIZE)
    law = stats.multivariate_normal(np.full(SIZE, 0.1), noisy)
    assert float(evidence) == pytest.approx(law.logpdf(Y), rel=1e-9)
    expected = np.linalg.solve(noisy, Y - 0.1)
    np.testing.assert_allclose(mode.a[:, 0], expected, atol=1e-8)
    np.testing.assert_allclose(weights[:, 0], expected, atol=1e-7)


def test_means_are_nearer_to_those_of_sampling_than_the_mode():
    """The correction takes away most of the distance of mode and mean of log-scales."""
    with jax.enable_x64(True):
        kernel, loc, scale = problem()
        mode, weights, _, _ = solve(kernel, loc, scale)
        found = run_chains(
            Affine(HeteroscedasticGaussian(), loc, scale),
            jnp.linalg.cholesky(kernel + 1e-8 * jnp.eye(SIZE)),
            jnp.asarray(Y)[:, None],
            jnp.zeros((4, SIZE, 2)),
            *(500, 500, 20),
            KEY,
        )
        values = np.asarray(found.values)
        corrected, plain = (np.asarray(kernel @ w) for w in (weights, mode.a))
    rhat, _ = mixing(values, 4)
    assert rhat < 1.05
    exact = values.mean(axis=0)
    error, before = (np.sqrt(np.mean((m - exact) ** 2, 0)) for m in (corrected, plain))
    assert error[1] < 0.6 * before[1]
    assert np.all(error < 0.3 * values.std(axis=0).mean(axis=0))


def test_it_finds_the_noise_and_beats_one_noise_scale(tmp_path):
    def draw(size):
        x = RNG.uniform(-2.0, 2.0, (size, 1))
        noise = 5.0 * np.exp(x[:, 0] - 1.0)
        return Dataset(x, 30.0 * np.sin(x[:, 0]) + noise * RNG.standard_normal(size))

    data, test = draw(120), draw(300)
    bnn = BNN(network(), HeteroscedasticGaussian(), scaling=Standardize())
    method = GP(RBF(ard=False))
    posterior = method.fit(bnn, data, key=KEY)
    plain = method.fit(
        BNN(network(1, 1), Gaussian(), scaling=Standardize()), data, key=KEY
    )
    p = posterior.predict(test.x)
    gain = np.asarray(p.log_prob(test.y)) - np.asarray(
        plain.predict(test.x).log_prob(test.y)
    )
    assert gain.mean() > 4 * gain.std() / np.sqrt(300)
    truth = 5.0 * np.exp(test.x[:, 0] - 1.0)
    ratio = np.log(np.sqrt(np.asarray(p.aleatoric)) / truth)
    assert np.sqrt(np.mean(ratio**2)) < 0.35
    names = [h.name for h in posterior.hyperparameters]
    assert names == ["lengthscale", "log-scale std", "noise scale", "output std"]
    assert all(h.se and h.se > 0 for h in posterior.hyperparameters)
    assert posterior.diagnostics["gradient norm"] < 0.1
    assert posterior.log_marginal_likelihood > plain.log_marginal_likelihood
    joint = posterior.joint(test.x[:3])
    np.testing.assert_allclose(joint.mean[:, 0], p.mean[:3], rtol=1e-4)
    spread = np.diagonal(joint.covariance).reshape(3, 2)[:, 0]
    np.testing.assert_allclose(spread, p.epistemic[:3], rtol=1e-4)
    save(tmp_path / "gp.ntkuq", posterior, data=data)
    again = load(tmp_path / "gp.ntkuq", bnn, data=data)
    np.testing.assert_array_equal(again.predict(test.x).mean, p.mean)


def test_two_targets_update_and_refusals():
    x = RNG.standard_normal((12, 2))
    data = Dataset(x, x + 0.1 * RNG.standard_normal((12, 2)))
    bnn = BNN(network(2, 4), HeteroscedasticGaussian())
    method = GP(RBF(ard=False), tune=Fixed())
    posterior = method.fit(bnn, data.take(np.arange(8)), key=KEY)
    more = posterior.update(data.take(np.arange(8, 12)), key=KEY)
    p = more.predict(x)
    assert p.mean.shape == (12, 2)
    assert np.isfinite(p.log_prob(data.y)).all()
    assert len(more.data) == 12
    with pytest.raises(TypeError, match="with a HeteroscedasticGaussian"):
        GP(inference=EllipticalSlice()).fit(bnn, data, key=KEY)
    with pytest.raises(TypeError, match="HeteroscedasticGaussian, got LeaveOneOut"):
        GP(tune=LeaveOneOut()).fit(bnn, data, key=KEY)
