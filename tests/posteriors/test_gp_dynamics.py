"""Laws of wide networks at a time: ODE, limits, and neural-tangents as oracle."""

import math
from collections import namedtuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from ntkuq.data import Dataset
from ntkuq.kernels import Analytic, Empirical, StandardParametrization, bridge
from ntkuq.models import BNN, Bernoulli, Gaussian, Standardize
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors.gp import NTKGP, WideEnsemble
from ntkuq.posteriors.saving import load, save


RNG = np.random.default_rng(5)
KEY = jax.random.key(0)
X, NEW = RNG.standard_normal((10, 2)), RNG.standard_normal((4, 2))
Y = np.sin(2 * X[:, 0]) + 0.1 * RNG.standard_normal(10)
DATA = Dataset(X, Y)


def build(key):
    return eqx.nn.MLP(2, 1, 8, 2, jax.nn.relu, key=key)


PROBLEM = BNN(build, Gaussian(0.3))


@eqx.filter_jit
def grams(covariance, params, train, new):
    gram = covariance.gram
    return gram(params, train), gram(params, new, train), gram(params, new)


def pieces(law):
    """Theta and P: of the training inputs, between, and of the new inputs."""
    with jax.enable_x64(True):
        x, new = jnp.asarray(X), jnp.asarray(NEW)
        return [
            [np.asarray(a) for a in grams(kernel, law.params, x, new)]
            for kernel in (law.tangent, law.initial)
        ]


def dense(law, time, variance):
    """The linear flow u' = y - f_0 - (Theta + s^2) u, solved by a matrix exponential.

    f(x) = f_0(x) + Theta_*X u(t) with f_0 ~ N(m, P) and y randomized by N(0, s^2).
    """
    (theta, across, _), (p, own, prior) = pieces(law)
    size = len(theta)
    rate = theta + variance * np.eye(size)
    flow = np.zeros((2 * size, 2 * size))
    flow[:size, :size], flow[:size, size:] = -rate, np.eye(size)
    a = expm(time * flow)[:size, size:]
    mean = Y.mean() + across @ a @ (Y - Y.mean())
    # f is linear in (f_0(new), f_0(X), noise)
    map_ = np.concatenate([np.eye(len(NEW)), -across @ a, across @ a], axis=1)
    zero = np.zeros((len(NEW), size))
    joint = np.block(
        [
            [prior, own, zero],
            [own.T, p, np.zeros((size, size))],
            [zero.T, np.zeros((size, size)), variance * np.eye(size)],
        ]
    )
    return mean, map_ @ joint @ map_.T


def close(law, mean, covariance, tolerance=1e-9):
    with jax.enable_x64(True):
        joint = law.joint(NEW)
        size = np.abs(covariance).max()
        np.testing.assert_allclose(joint.mean[:, 0], mean, atol=tolerance)
        np.testing.assert_allclose(
            joint.covariance, covariance, atol=tolerance * size, rtol=0
        )
    p = law.predict(NEW)
    np.testing.assert_allclose(p.mean, mean, atol=1e-5)
    np.testing.assert_allclose(p.epistemic, np.diagonal(covariance), rtol=1e-4)


@pytest.mark.parametrize("time", [0.0, 0.05, 3.0])
@pytest.mark.parametrize("method", [NTKGP, WideEnsemble], ids=lambda m: m.__name__)
def test_law_solves_the_flow(method, time):
    law = method(time=time, tune=Fixed()).fit(PROBLEM, DATA, key=KEY)
    variance = 0.09 if method is NTKGP else 0.0
    close(law, *dense(law, time, variance))
    assert law.log_marginal_likelihood is None
    if time == 0.0:
        _, (_, _, prior) = pieces(law)
        close(law, np.full(4, Y.mean()), prior)


def test_ntkgp_at_the_end_is_the_posterior():
    posterior = NTKGP(tune=Fixed()).fit(PROBLEM, DATA, key=KEY)
    with jax.enable_x64(True):
        expected = posterior.joint(NEW)
    for time in (math.inf, 1e5):
        law = NTKGP(time=time, tune=Fixed()).fit(PROBLEM, DATA, key=KEY)
        close(law, expected.mean[:, 0], np.asarray(expected.covariance))
    assert "the posterior" in law.diagnostics["law"]


def test_wide_ensemble_at_the_end_interpolates():
    law = WideEnsemble(tune=Fixed()).fit(PROBLEM, DATA, key=KEY)
    (theta, across, _), (p, own, prior) = pieces(law)
    a = across @ np.linalg.inv(theta)
    covariance = prior - own @ a.T - a @ own.T + a @ p @ a.T
    close(law, Y.mean() + a @ (Y - Y.mean()), covariance, 1e-8)
    assert "not a posterior" in law.diagnostics["law"]
    at_data = law.predict(X)
    np.testing.assert_allclose(at_data.mean, Y, atol=1e-5)
    assert np.all(np.asarray(at_data.epistemic) < 1e-6)
    assert np.all(np.asarray(at_data.epistemic) > 0)
    # its spread is below that of the posterior with the same tangent kernel
    posterior = NTKGP(tune=Fixed()).fit(PROBLEM, DATA, key=KEY)
    assert np.all(law.predict(NEW).epistemic < posterior.predict(NEW).epistemic)


def test_neural_tangents_has_the_same_law(need):
    need("frozendict")
    nt = bridge.load()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for time in (0.0, 0.4, None):
            law = WideEnsemble(time=time, tune=Fixed()).fit(PROBLEM, DATA, key=KEY)

            def kernel_fn(x1, x2, get, law=law):
                found = {
                    "ntk": law.tangent.gram(law.params, x1, x2),
                    "nngp": law.initial.gram(law.params, x1, x2),
                }
                if isinstance(get, str):
                    return found[get]
                return namedtuple("Kernel", get)(*[found[g] for g in get])

            predict = nt.predict.gradient_descent_mse_ensemble(
                kernel_fn, jnp.asarray(X), jnp.asarray(Y - Y.mean())[:, None]
            )
            # its loss is the mean over data
            then = None if time is None else time * len(Y)
            got = predict(t=then, x_test=jnp.asarray(NEW), get="ntk", compute_cov=True)
            mean, covariance = np.asarray(got.mean)[:, 0], np.asarray(got.covariance)
            with jax.numpy_dtype_promotion("strict"):
                close(law, mean + Y.mean(), covariance, 1e-8)


def test_the_parametrization_of_the_network_sets_its_pace():
    """In the standard parametrization other weights move, from the same start."""
    kernel = Analytic(parametrization=StandardParametrization())
    law = WideEnsemble(kernel, time=0.02, tune=Fixed()).fit(PROBLEM, DATA, key=KEY)
    close(law, *dense(law, 0.02, 0.0))
    plain = WideEnsemble(time=0.02, tune=Fixed()).fit(PROBLEM, DATA, key=KEY)
    (theta, *_), (start, *_) = pieces(law)
    (other, *_), (same, *_) = pieces(plain)
    np.testing.assert_allclose(start, same, rtol=1e-12)
    assert not np.allclose(theta / theta[0, 0], other / other[0, 0], rtol=0.05)


def test_directions_that_only_rounding_knows_are_not_learned():
    """Duplicates make Theta singular; at the end the mean is that of least squares."""
    x, y = np.concatenate([X, X[:3]]), np.concatenate([Y, Y[:3] + 1.0])
    law = WideEnsemble(tune=Fixed()).fit(PROBLEM, Dataset(x, y), key=KEY)
    assert law.diagnostics["directions not learned"] == 3
    expected = np.concatenate([Y[:3] + 0.5, Y[3:]])
    np.testing.assert_allclose(law.predict(X).mean, expected, atol=1e-4)


def test_tuned_and_scaled_problem_and_round_trip(tmp_path):
    bnn = BNN(build, Gaussian(), scaling=Standardize())
    data = Dataset(100 * X, 50 * Y + 7)
    method = NTKGP(Analytic(ard=False), time=1e7)
    law = method.fit(bnn, data, key=KEY)
    posterior = NTKGP(Analytic(ard=False)).fit(bnn, data, key=KEY)
    assert law.hyperparameters == posterior.hyperparameters
    one, two = law.predict(100 * NEW), posterior.predict(100 * NEW)
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(one.epistemic, two.epistemic, rtol=1e-3)
    save(tmp_path / "law.ntkuq", law, data=data)
    again = load(tmp_path / "law.ntkuq", bnn, data=data)
    np.testing.assert_array_equal(again.predict(data.x).mean, law.predict(data.x).mean)
    assert again.time == law.time


def test_refusals():
    with pytest.raises(ValueError, match="NTKGP: expected time >= 0"):
        NTKGP(time=-1.0)
    with pytest.raises(ValueError, match="WideEnsemble: expected time >= 0"):
        WideEnsemble(time=math.nan)
    with pytest.raises(TypeError, match="expected time=None with kernel=Empirical"):
        NTKGP(Empirical(), time=1.0).fit(PROBLEM, DATA, key=KEY)
    labels = Dataset(X, (Y > 0).astype(int))
    with pytest.raises(TypeError, match="expected a Gaussian likelihood"):
        WideEnsemble().fit(BNN(build, Bernoulli()), labels, key=KEY)
    noisy = Dataset(X, Y, noise_scale=np.ones(10))
    with pytest.raises(TypeError, match="without noise_scale"):
        NTKGP(time=1.0).fit(PROBLEM, noisy, key=KEY)
