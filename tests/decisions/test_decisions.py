"""Acquisition functions against closed forms, Monte Carlo and other precisions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, special

from ntkuq.data import Dataset
from ntkuq.decisions import (
    BALD,
    UCB,
    ExpectedImprovement,
    LogEI,
    Random,
    Thompson,
    log_improvement,
    select,
)
from ntkuq.models import BNN, Categorical, Gaussian, NormalPrior
from ntkuq.posteriors.laplace import Laplace
from ntkuq.posteriors.map import MAP
from ntkuq.posteriors.predictive import Predictive


def normal(mean, std, noise=0.1) -> Predictive:
    mean, std = jnp.asarray(mean), jnp.asarray(std)
    return Predictive(
        latent=dist.Normal(mean, std),
        observed=dist.Normal(mean, jnp.sqrt(std**2 + noise**2)),
        epistemic=std**2,
        aleatoric=jnp.full(mean.shape, noise**2),
    )


def exact_log_improvement(z: float) -> float:
    """log E[max(z + e, 0)] = log of an integral, with phi(z) taken out."""
    t = -z
    tail, _ = integrate.quad(
        lambda u: u * np.exp(-0.5 * u**2 - t * u), 0, 40, epsabs=0, epsrel=1e-12
    )
    return np.log(tail) - 0.5 * (t**2 + np.log(2 * np.pi))


@pytest.mark.parametrize("z", [2.0, 0.0, -1.0, -2.999, -3.0, -3.001, -5.0, -12.0, -30])
def test_log_improvement_equals_its_integral(z):
    expected = exact_log_improvement(float(z))
    single = log_improvement(jnp.float32(z))
    assert np.isclose(single, expected, rtol=2e-6, atol=2e-6)
    with jax.enable_x64(True):
        assert np.isclose(log_improvement(jnp.float64(z)), expected, rtol=1e-11)


@pytest.mark.parametrize("z", [-1e2, -1e4, -1e8, -1e15])
def test_log_improvement_far_below_follows_its_asymptote(z):
    leading = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(-z)
    assert np.isclose(log_improvement(jnp.float32(z)), leading, rtol=1e-6)
    slope = jax.grad(log_improvement)(jnp.float32(z))
    assert np.isclose(slope, -z, rtol=1e-3)


def test_slope_of_log_improvement_is_the_inverse_of_its_ratio():
    # h'(z) = Phi(z), so (log h)' = Phi / h
    with jax.enable_x64(True):
        z = jnp.linspace(-8.0, 4.0, 61)
        slope = jax.vmap(jax.grad(log_improvement))(z)
        expected = np.exp(special.log_ndtr(z) - np.asarray(log_improvement(z)))
        assert np.allclose(slope, expected, rtol=1e-10)


def test_expected_improvement_equals_monte_carlo(getkey):
    mean = jnp.array([-1.0, 0.0, 0.5, 2.0])
    std = jnp.array([1.0, 0.5, 2.0, 0.1])
    draws = mean + std * jax.random.normal(getkey(), (200_000, 4))
    gain = np.maximum(np.asarray(draws) - 0.3, 0.0)
    error = gain.std(axis=0) / np.sqrt(len(gain))
    found = np.asarray(ExpectedImprovement()(normal(mean, std), best=0.3))
    assert (np.abs(found - gain.mean(axis=0)) < 4 * error + 1e-6).all()


def test_log_ei_ranks_where_ei_is_zero():
    p = normal([-60.0, -50.0, -50.0], [1.0, 1.0, 2.0])
    assert (np.asarray(ExpectedImprovement()(p, best=0.0))[:2] == 0).all()
    values = np.asarray(LogEI()(p, best=0.0))
    assert np.isfinite(values).all()
    assert values[0] < values[1] < values[2]


def test_ei_of_a_known_function_value_is_the_gain():
    p = Predictive(
        latent=dist.Delta(jnp.array([2.0, 0.0])),
        observed=normal([2.0, 0.0], [1.0, 1.0]).observed,
    )
    assert np.allclose(ExpectedImprovement()(p, best=0.5), [1.5, 0.0])
    assert np.asarray(LogEI()(p, best=0.5))[1] == -np.inf


def test_ei_scales_with_the_units():
    one = ExpectedImprovement()(normal([0.1, 1.0], [1.0, 0.3]), best=0.2)
    ten = ExpectedImprovement()(normal([1.0, 10.0], [10.0, 3.0]), best=2.0)
    assert np.allclose(10 * one, ten, rtol=1e-5)


def test_ucb_is_a_quantile_and_greedy_at_zero_width():
    p = normal([0.0, 1.0], [2.0, 0.5])
    width = float(special.ndtri(0.95))
    assert np.allclose(UCB(width)(p), p.latent.icdf(0.95), rtol=1e-5)
    assert np.allclose(UCB(0.0)(p), p.mean)
    with pytest.raises(ValueError, match="width >= 0"):
        UCB(-1.0)


def test_thompson_draws_the_function_value(getkey):
    p = normal([0.0, 3.0], [2.0, 0.5], noise=10.0)
    draws = jax.vmap(lambda key: Thompson()(p, key=key))(
        jax.random.split(getkey(), 20_000)
    )
    assert np.allclose(draws.mean(axis=0), [0.0, 3.0], atol=4 * 2 / np.sqrt(20_000))
    assert np.allclose(draws.std(axis=0), [2.0, 0.5], rtol=0.03)
    assert np.abs(np.corrcoef(draws.T)[0, 1]) < 0.03


def test_bald_for_regression_is_the_mutual_information_of_normals():
    p = normal([0.0, 0.0], [0.3, 0.01])
    entropy = np.asarray(p.observed.entropy())
    noise = dist.Normal(0.0, 0.1).entropy()
    assert np.allclose(BALD()(p), entropy - np.asarray(noise), atol=1e-5)


def test_bald_for_classes_equals_monte_carlo(getkey):
    logits = 2.0 * jax.random.normal(getkey(), (4000, 5, 3))
    members = np.asarray(jax.nn.softmax(logits), np.float64)

    def entropy(q):
        return -(q * np.log(q)).sum(axis=-1)

    marginal = Categorical().mixture(logits)
    p = Predictive(None, marginal.observed, marginal.epistemic, marginal.aleatoric)
    expected = entropy(members.mean(axis=0)) - entropy(members).mean(axis=0)
    assert np.allclose(BALD()(p), expected, atol=1e-5)


@pytest.mark.parametrize("acquisition", [UCB(), LogEI(), ExpectedImprovement()])
def test_acquisitions_work_under_jit_and_grad(acquisition):
    @eqx.filter_jit
    def total(mean):
        return jnp.sum(acquisition(normal(mean, jnp.ones(3)), best=0.5))

    slope = jax.grad(total)(jnp.array([0.0, -40.0, 3.0]))
    assert np.isfinite(slope).all()
    assert (slope >= 0).all()


def test_what_does_not_fit_is_refused():
    classes = Predictive.probabilities(np.array([[0.2, 0.8]]))
    outside = Predictive.normal(np.zeros(2), np.ones(2))
    two = normal(np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match="got classes"):
        UCB()(classes)
    with pytest.raises(ValueError, match="latent="):
        UCB()(outside)
    with pytest.raises(ValueError, match="one outcome"):
        UCB()(two)
    with pytest.raises(ValueError, match="best="):
        LogEI()(normal([0.0], [1.0]))
    with pytest.raises(ValueError, match="key="):
        Thompson()(normal([0.0], [1.0]))
    with pytest.raises(ValueError, match="epistemic"):
        BALD()(outside)


@pytest.fixture(scope="module")
def posterior():
    x = np.linspace(-1.0, 1.0, 20, dtype=np.float32)[:, None]
    data = Dataset(x, 2.0 * x[:, 0])
    bnn = BNN(eqx.nn.Linear(1, 1, key=jax.random.key(0)), Gaussian(0.1), NormalPrior())
    bnn = bnn.with_model(
        eqx.tree_at(lambda m: m.weight, bnn.model, jnp.full((1, 1), 2.0))
    )
    return Laplace().fit(bnn, data, key=jax.random.key(1))


def test_select_takes_the_best_points(posterior, getkey):
    pool = np.array([[0.0], [3.0], [-4.0], [1.0]], np.float32)
    chosen = select(BALD(), posterior, pool, 2, key=getkey())
    assert chosen.indices.tolist() == [2, 1]
    assert chosen.values[0] > chosen.values[1]
    upper = select(UCB(), posterior, pool, 1, key=getkey())
    assert upper.indices.tolist() == [1]
    best = select(LogEI(), posterior, pool, 4, best=1.0, key=getkey())
    assert best.indices[0] == 1


def test_select_is_determined_by_the_key(posterior, getkey):
    pool = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
    key, other = getkey(), getkey()
    first = select(Random(), posterior, pool, 5, key=key)
    again = select(Random(), posterior, pool, 5, key=key)
    assert first.indices.tolist() == again.indices.tolist()
    drawn = select(Random(), posterior, pool, 5, key=other)
    assert first.indices.tolist() != drawn.indices.tolist()


@pytest.mark.parametrize("n", [0, 5])
def test_select_refuses_an_impossible_number(posterior, n, getkey):
    pool = np.zeros((4, 1), np.float32)
    with pytest.raises(ValueError, match="from 1 to 4"):
        select(BALD(), posterior, pool, n, key=getkey())


def test_select_works_with_a_network_that_has_no_uncertainty(posterior, getkey):
    map_posterior = MAP(train=None).fit(
        posterior.bnn,
        Dataset(np.linspace(-1, 1, 9)[:, None], np.linspace(-2, 2, 9)),
        key=getkey(),
    )
    pool = np.array([[0.0], [1.0]], np.float32)
    assert select(UCB(), map_posterior, pool, 1, key=getkey()).indices.tolist() == [1]
