"""Regression on labels: its targets, its probabilities, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.models import BNN, Categorical, Gaussian, Standardize
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors import estimate
from ntkuq.posteriors.gp import GP, NNGP, LabelRegression, LatentLaplace
from ntkuq.posteriors.gp.labels import largest
from ntkuq.posteriors.saving import load, save


RNG = np.random.default_rng(9)
KEY = jax.random.key(0)


def build(key):
    return eqx.nn.MLP(2, 3, 8, 1, key=key)


def blobs(size):
    centers = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    y = RNG.integers(0, 3, size)
    return Dataset(centers[y] + RNG.standard_normal((size, 2)), y)


PROBLEM = BNN(build, Categorical(), scaling=Standardize())


def test_probability_of_the_largest_against_draws():
    """Binomial error of 10^6 draws: 0.0005; allowed is 5 times that."""
    mean = np.array([[0.0, 0.3, -1.0], [2.0, 2.0, 2.0], [0.0, 9.0, 0.0]])
    variance = np.array([[1.0, 0.2, 4.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])
    with jax.enable_x64(True):
        got = np.asarray(largest(jnp.asarray(mean), jnp.asarray(variance)))
    draws = mean + np.sqrt(variance) * RNG.standard_normal((10**6, 3, 3))
    first = np.argmax(draws, axis=2)
    expected = np.stack([(first == c).mean(axis=0) for c in range(3)], axis=1)
    np.testing.assert_allclose(got, expected, atol=2.5e-3)
    np.testing.assert_allclose(got[1], 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=1e-12)
    assert np.all(got > 0)


def test_two_classes_have_a_closed_form():
    from scipy.stats import norm

    mean, variance = np.array([[0.3, -0.4]]), np.array([[0.5, 1.5]])
    with jax.enable_x64(True):
        got = largest(jnp.asarray(mean), jnp.asarray(variance))
    np.testing.assert_allclose(got[0, 0], norm.cdf(0.7 / np.sqrt(2.0)), rtol=1e-10)


def test_it_is_the_regression_on_one_hot_labels():
    data, new = blobs(40), RNG.standard_normal((6, 2))
    method = NNGP(tune=Fixed())
    posterior = LabelRegression(method, noise_scale=0.3).fit(PROBLEM, data, key=KEY)
    scaling = posterior.bnn.scaling
    y = np.eye(3)[data.y] - 1 / 3
    by_hand = method.fit(
        BNN(build, Gaussian(0.3)), Dataset(scaling.inputs(data.x), y), key=KEY
    ).predict(scaling.inputs(new))
    p = posterior.predict(new)
    np.testing.assert_array_equal(np.argmax(p.mean, 1), np.argmax(by_hand.mean, 1))
    with jax.enable_x64(True):
        variance = np.asarray(by_hand.observed.variance, np.float64)
        mean = np.asarray(by_hand.mean, np.float64)
        expected = largest(jnp.asarray(mean), jnp.asarray(variance))
    np.testing.assert_allclose(p.mean, expected, rtol=1e-4, atol=1e-7)
    assert p.latent is None
    assert p.epistemic is None
    assert p.mean.dtype == jnp.float32
    assert posterior.log_marginal_likelihood is None
    assert np.isfinite(p.log_prob(np.zeros(6, int))).all()


def test_tuned_it_classifies_updates_and_comes_back_from_a_file(tmp_path):
    data, test = blobs(60), blobs(60)
    method = LabelRegression(GP())
    posterior = method.fit(PROBLEM, data, key=KEY)
    p = posterior.predict(test.x)
    assert np.mean(np.argmax(p.mean, axis=1) == test.y) > 0.8
    assert [h.name for h in posterior.hyperparameters][:2] == [
        "lengthscale [0]",
        "lengthscale [1]",
    ]
    more = posterior.update(test, key=KEY)
    assert len(more.regression.data) == 120
    save(tmp_path / "labels.ntkuq", posterior, data=data)
    again = load(tmp_path / "labels.ntkuq", PROBLEM, data=data)
    np.testing.assert_array_equal(again.predict(test.x).mean, p.mean)
    assert estimate(method, PROBLEM, data).seconds > 0


def test_refusals():
    data = blobs(10)
    with pytest.raises(TypeError, match="expected a Categorical likelihood"):
        LabelRegression(GP()).fit(
            BNN(lambda key: eqx.nn.MLP(2, 1, 4, 1, key=key), Gaussian()),
            Dataset(data.x, data.x[:, 0]),
            key=KEY,
        )
    with pytest.raises(ValueError, match="noise_scale > 0"):
        LabelRegression(GP(), noise_scale=0.0)
    with pytest.raises(ValueError, match="tune_points >= 1"):
        LatentLaplace(tune_points=0)
