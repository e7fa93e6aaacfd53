"""Proper scores against scoringrules, scikit-learn and integrals."""

import jax
import numpy as np
import pytest
import scipy
from numpyro import distributions as dist

from ntkuq.calibration.proper import (
    brier,
    crps,
    crps_mixture,
    crps_normal,
    crps_quantiles,
    crps_samples,
)
from ntkuq.calibration.scores import score
from ntkuq.posteriors.distributions import QuantileTable
from ntkuq.posteriors.predictive import Predictive


RNG = np.random.default_rng(0)
N, M = 40, 5
MEAN, STD = RNG.normal(size=(N, M)), RNG.uniform(0.1, 2, size=(N, M))
WEIGHTS = RNG.dirichlet(np.ones(M), size=N)
Y = 2 * RNG.normal(size=N)


def test_crps_normal_is_scoringrules(need):
    oracle = need("scoringrules").crps_normal(Y, MEAN[:, 0], STD[:, 0])
    np.testing.assert_allclose(
        crps_normal(MEAN[:, 0], STD[:, 0], Y), oracle, rtol=1e-10
    )


def test_crps_mixture_is_scoringrules(need):
    oracle = need("scoringrules").crps_mixnorm(Y, MEAN, STD, WEIGHTS)
    np.testing.assert_allclose(crps_mixture(WEIGHTS, MEAN, STD, Y), oracle, rtol=1e-10)


def test_crps_samples_is_the_fair_ensemble_score(need):
    draws = np.round(RNG.normal(size=(N, 30)), 1)  # with ties
    oracle = need("scoringrules").crps_ensemble(Y, draws, estimator="fair")
    np.testing.assert_allclose(crps_samples(draws, Y), oracle, rtol=1e-10)
    far = crps_samples(draws + 1e6, Y + 1e6)
    np.testing.assert_allclose(far, oracle, atol=1e-7)


def test_brier_and_log_loss_are_scikit_learn(need):
    metrics = need("sklearn.metrics")
    probs = RNG.dirichlet(np.ones(4), size=N)
    codes = RNG.integers(0, 4, size=N)
    s = score(Predictive.probabilities(probs), codes)
    np.testing.assert_allclose(
        s["nll"].value, metrics.log_loss(codes, probs, labels=range(4)), rtol=1e-10
    )
    by_hand = np.mean(np.sum((probs - np.eye(4)[codes]) ** 2, axis=1))
    np.testing.assert_allclose(s["brier"].value, by_hand, rtol=1e-10)
    two = probs[:, :2] / probs[:, :2].sum(1, keepdims=True)
    half = metrics.brier_score_loss(codes % 2, two[:, 1])
    np.testing.assert_allclose(brier(two, codes % 2).mean(), 2 * half, rtol=1e-10)


def test_a_sure_and_right_prediction_costs_nothing():
    assert brier(np.array([[0.0, 1.0]]), np.array([1]))[0] == 0.0
    assert brier(np.array([[0.0, 1.0]]), np.array([0]))[0] == 2.0


def laws():
    mixing = dist.Categorical(probs=WEIGHTS)
    levels = np.array([0.1, 0.3, 0.5, 0.9])
    values = np.sort(RNG.normal(size=(4, N)), axis=0)
    values[2] = values[1]  # quantiles that stand still
    return {
        "normal": dist.Normal(MEAN[:, 0], STD[:, 0]),
        "mixture": dist.MixtureSameFamily(mixing, dist.Normal(MEAN, STD)),
        "quantiles": QuantileTable(levels, values),
    }


@pytest.mark.parametrize("name", ["normal", "mixture", "quantiles"])
def test_crps_is_twice_the_integrated_pinball_loss(name):
    law = laws()[name]
    with jax.enable_x64(True):
        # Gauss-Legendre on pieces; the quantile table bends at its levels.
        edges = np.r_[0, np.geomspace(1e-6, 0.05, 12), np.linspace(0.1, 0.9, 33)]
        edges = np.r_[edges, 1 - np.geomspace(1e-6, 0.05, 12)[::-1], 1]
        node, weight = np.polynomial.legendre.leggauss(40)
        half = np.diff(edges)[:, None] / 2
        q = (edges[:-1, None] + half * (node + 1)).reshape(-1)
        if name == "quantiles":
            at = np.asarray(law.icdf(np.tile(q[:, None], (1, N))))
        else:
            at = np.asarray(Predictive(None, law).quantile(q))
        gap = Y - at
        loss = np.where(gap > 0, q[:, None] * gap, (q[:, None] - 1) * gap)
        integral = 2 * (half * weight).reshape(-1) @ loss
        # The loss bends where the quantile passes y: second order there.
        np.testing.assert_allclose(crps(law, Y), integral, rtol=2e-3, atol=2e-5)


def test_quantile_table_by_hand():
    # Uniform on (0, 1) between the levels, atoms of 0.25 at both ends; y = 2.
    levels, values = np.array([0.25, 0.75]), np.array([[0.0, 1.0]])
    inside = scipy.integrate.quad(lambda z: (0.25 + 0.5 * z) ** 2, 0, 1)[0]
    np.testing.assert_allclose(
        crps_quantiles(levels, values, np.array([2.0])), inside + 1.0
    )


def test_any_other_distribution_is_scored_by_draws(need):
    rate = np.full(500, 3.0)
    y = np.random.default_rng(1).poisson(3.0, size=500).astype(float)
    oracle = need("scoringrules").crps_poisson(y, rate)
    found = crps(dist.Poisson(rate), y)
    # sd of the estimate of one point is below 0.1; of the mean below 0.01.
    assert abs(found.mean() - oracle.mean()) < 0.03


def test_one_sample_has_no_fair_score():
    s = score(Predictive.samples(np.zeros((1, 5))), np.zeros(5))
    assert "two samples" in s.omitted["crps"]
    with pytest.raises(KeyError, match="left out"):
        s["crps"]
