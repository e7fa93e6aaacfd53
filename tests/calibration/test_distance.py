"""Distances against closed forms, and when a reference is refused."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from ntkuq.calibration.distance import distance
from ntkuq.models import BNN, Categorical
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors import Laplace, Predictive
from ntkuq.posteriors.mcmc import NotAReference
from tests.posteriors.test_arviz import data, exact_weights, reference


KEY = jax.random.key(0)


def test_normals_have_closed_forms():
    loc, scale = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.5, 3.0])
    r = Predictive.normal(loc, scale)
    move = np.array([0.3, -1.0, 6.0])
    found = distance(Predictive.normal(loc + move, scale), r)
    # equal shapes: the shift
    np.testing.assert_allclose(found.pointwise["wasserstein"], np.abs(move), rtol=2e-3)
    np.testing.assert_allclose(
        found.pointwise["relative_wasserstein"], np.abs(move) / scale, rtol=2e-3
    )
    assert found["wasserstein"].n == 3
    assert found.task == "regression"
    assert found.floor == {}
    # equal means: E|z| times the difference of the scales
    found = distance(Predictive.normal(loc, scale * [1.1, 2.0, 0.2]), r)
    expected = np.sqrt(2 / np.pi) * scale * [0.1, 1.0, 0.8]
    np.testing.assert_allclose(found.pointwise["wasserstein"], expected, rtol=1e-2)
    same = distance(r, r)
    assert same["wasserstein"].value == 0.0
    assert same["wasserstein"].interval == (0.0, 0.0)


def test_the_score_is_the_mean_over_points():
    rng = np.random.default_rng(0)
    move = rng.exponential(size=40)
    found = distance(
        Predictive.normal(move, np.ones(40)),
        Predictive.normal(np.zeros(40), np.ones(40)),
    )
    each = found.pointwise["wasserstein"]
    score = found["wasserstein"]
    np.testing.assert_allclose(score.value, each.mean())
    np.testing.assert_allclose(score.se, each.std(ddof=1) / np.sqrt(40))
    assert score.interval[0] < score.value < score.interval[1]


def test_draws_against_draws_are_exact():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((70, 5)), 0.3 + 2.0 * rng.standard_normal((120, 5))
    found = distance(Predictive.samples(a), Predictive.samples(b))
    expected = [stats.wasserstein_distance(a[:, i], b[:, i]) for i in range(5)]
    np.testing.assert_allclose(found.pointwise["wasserstein"], expected, rtol=1e-10)
    relative = np.array(expected) / b.std(0)
    np.testing.assert_allclose(found.pointwise["relative_wasserstein"], relative)
    # against a continuous law: the distance of draws to it, by a fine quadrature
    found = distance(Predictive.samples(a), Predictive.normal(np.zeros(5), np.ones(5)))
    fine = np.linspace(-8, 8, 200_001)
    steps = np.mean(a[:, 2][:, None] <= fine, axis=0)
    expected = np.trapezoid(np.abs(steps - stats.norm.cdf(fine)), fine)
    np.testing.assert_allclose(found.pointwise["wasserstein"][2], expected, rtol=5e-3)


def test_counts_are_exact():
    rates = np.array([0.7, 4.0, 11.0])
    p = Predictive(None, dist.Poisson(jnp.asarray(rates, jnp.float32)))
    r = Predictive(None, dist.Poisson(jnp.asarray(1.5 * rates, jnp.float32)))
    grid = np.arange(200)
    f, g = (stats.poisson.cdf(grid, m[:, None]) for m in (rates, 1.5 * rates))
    expected = np.abs(f - g).sum(1)
    found = distance(p, r)
    np.testing.assert_allclose(found.pointwise["wasserstein"], expected, rtol=5e-3)


def test_quantile_tables_and_mixtures():
    def value(p, r):
        return distance(p, r)["wasserstein"].value

    levels = np.linspace(0.005, 0.995, 199)
    table = Predictive.quantiles(levels, stats.norm.ppf(levels)[:, None])
    moved = Predictive.normal(np.array([0.5]), np.array([1.0]))
    np.testing.assert_allclose(value(table, moved), 0.5, rtol=0.02)
    parts = dist.Normal(jnp.array([[-3.0, 3.0]]), jnp.array([[0.1, 0.1]]))
    weights = dist.Categorical(jnp.full(2, 0.5))
    two = Predictive(None, dist.MixtureSameFamily(weights, parts))
    middle = Predictive.normal(np.array([0.0]), np.array([1e-3]))
    # all mass moves by 3
    np.testing.assert_allclose(value(two, middle), 3.0, rtol=1e-3)


def test_several_outputs_are_averaged():
    r = Predictive.normal(np.zeros((4, 2)), np.ones((4, 2)))
    p = Predictive.normal(np.tile([0.2, 0.6], (4, 1)), np.ones((4, 2)))
    found = distance(p, r)
    assert found["wasserstein"].n == 4
    np.testing.assert_allclose(found.pointwise["wasserstein"], 0.4, rtol=2e-3)


def test_classes_by_hand():
    r = Predictive.probabilities(
        np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0, 0, 1]])
    )
    p = Predictive.probabilities(
        np.array([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0, 0, 1]])
    )
    found = distance(p, r)
    assert found.task == "classification"
    np.testing.assert_allclose(found.pointwise["total_variation"], [0.2, 0.2, 0.0])
    np.testing.assert_allclose(found["total_variation"].value, 0.4 / 3)
    agreement = found["agreement"]
    assert (agreement.hits, agreement.n) == (2, 3)
    # Clopper and Pearson, exact
    np.testing.assert_allclose(agreement.interval, (0.0943, 0.9916), atol=1e-4)


def test_the_floor_is_the_distance_of_two_halves():
    d = data()
    r = reference(d, draws=100, chains=4)
    x = data(50, seed=3).x
    exact = exact_prediction(d, x)
    found = distance(exact, r, x)
    first, second = half(r, slice(0, 200)), half(r, slice(200, 400))
    expected = distance(first.predict(x), second.predict(x))["wasserstein"]
    floor = found.floor["wasserstein"]
    np.testing.assert_allclose(floor.value, expected.value, rtol=0.02)
    # the halves have half the draws, and both err: an exact method is below
    assert 0 < found["wasserstein"].value < floor.value
    moved = distance(exact_prediction(d, x, shift=1.0), r, x)
    assert moved["wasserstein"].value > 3 * floor.value
    text = str(found)
    assert "floor" in text
    assert "relative_wasserstein" in text
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["floor"]["wasserstein"]["value"] == floor.value
    with pytest.raises(KeyError, match="there is no distance 'crps'"):
        found["crps"]


def test_predictions_of_chains_are_a_reference_that_nobody_checked():
    d = data()
    r = reference(d, draws=100, chains=4)
    x = data(50, seed=3).x
    p = exact_prediction(d, x, shift=0.3)
    found, checked = distance(p, r.predict_chains(x)), distance(p, r, x)
    assert found.to_dict() == checked.to_dict()
    # two chains that are two apart: to their mixture 1, to each other 2
    apart = [Predictive.normal(np.full(4, m), np.full(4, 1e-3)) for m in (0.0, 2.0)]
    found = distance(apart[0], apart)
    np.testing.assert_allclose(found["wasserstein"].value, 1.0, rtol=1e-2)
    np.testing.assert_allclose(found.floor["wasserstein"].value, 2.0, rtol=1e-2)
    with pytest.raises(TypeError, match="list of the Predictives of chains"):
        distance(p, [])
    with pytest.raises(ValueError, match="same points"):
        distance(apart[0], [apart[1], Predictive.normal(np.zeros(3), np.ones(3))])


def exact_prediction(d, x, shift=0.0):
    mean, cov = exact_weights(d)
    a = np.c_[(x - d.x.mean(0)) / d.x.std(0), np.ones(len(x))]
    sd = np.sqrt(np.einsum("ni,ij,nj->n", a, cov, a) + 0.5**2)
    unit = d.y.std()
    return Predictive.normal((a @ mean + shift) * unit + d.y.mean(), sd * unit)


def half(r, rows):
    return eqx.tree_at(
        lambda p: (p.leaves, p.chains), r, ([leaf[rows] for leaf in r.leaves], 2)
    )


def test_the_standard_error_holds_the_monte_carlo_error():
    """Over 25 references: the spread of the distance at fixed points.

    A variance of 25 values has a relative standard error of 0.29, and their mean
    jackknife variance one of about 0.1: a factor of 2.5 either way is three of them.
    """
    d = data()
    x = np.repeat(data(1, seed=3).x, 6, axis=0)
    exact = exact_prediction(d, x, shift=0.2)
    found = [
        distance(exact, reference(d, draws=12, chains=8, seed=seed), x)["wasserstein"]
        for seed in range(25)
    ]
    spread = np.var([score.value for score in found], ddof=1)
    ratio = np.mean([score.se**2 for score in found]) / spread
    assert 1 / 2.5 < ratio < 2.5
    # the points are one and the same: without chains there is next to no error
    alone = distance(exact, reference(d, draws=12, chains=8).predict(x))
    assert alone["wasserstein"].se < 0.01 * found[0].se


def test_classes_against_chains():
    d = data()
    r = reference(d, draws=100)
    model = eqx.nn.Linear(2, 2, key=KEY)
    rng = np.random.default_rng(0)
    leaves = [
        jnp.float32(rng.standard_normal((400, 2, 2))),
        jnp.float32(rng.standard_normal((400, 2))),
    ]
    bnn = BNN(model, Categorical())
    r = eqx.tree_at(lambda p: (p.bnn, p.model, p.leaves), r, (bnn, model, leaves))
    found = distance(r, r, d.x)
    assert found["agreement"].value == 1.0
    np.testing.assert_allclose(found["total_variation"].value, 0.0, atol=1e-6)
    f = np.einsum("sci,ni->snc", leaves[0], d.x) + np.asarray(leaves[1])[:, None]
    p = np.asarray(jax.nn.softmax(f))
    one, two = p[:200].mean(0), p[200:].mean(0)
    expected = 0.5 * np.abs(one - two).sum(1).mean()
    np.testing.assert_allclose(
        found.floor["total_variation"].value, expected, rtol=1e-4
    )
    agree = np.mean(one.argmax(1) == two.argmax(1))
    np.testing.assert_allclose(found.floor["agreement"].value, agree)


def test_single_precision_is_compared_in_double():
    loc = np.linspace(-1, 1, 9)
    r = Predictive.normal(loc, np.ones(9))
    p = Predictive.normal(jnp.float32(loc + 0.1), jnp.ones(9, jnp.float32))
    found = distance(p, r).pointwise["wasserstein"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 0.1, rtol=2e-3)


def test_refusals():
    d = data()
    r = reference(d, draws=20)
    x = d.x[:3]
    p = r.predict(x)
    poor = eqx.tree_at(lambda q: q.diagnostics, r, {**r.diagnostics, "R-hat": 1.2})
    with pytest.raises(NotAReference, match="asked"):
        distance(p, poor, x)
    with pytest.raises(ValueError, match="expected the inputs x"):
        distance(p, r)
    laplace = Laplace(tune=Fixed()).fit(r.bnn, d)
    with pytest.raises(ValueError, match="expected the inputs x"):
        distance(laplace, p)
    assert distance(laplace, r, x).values
    with pytest.raises(TypeError, match="got LaplacePosterior"):
        distance(p, laplace, x)
    with pytest.raises(ValueError, match="at the same points"):
        distance(p, r, d.x)
    classes = Predictive.probabilities(np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match="got classes of shape"):
        distance(classes, r, x)
    with pytest.raises(ValueError, match="expected the 3 classes"):
        distance(classes, Predictive.probabilities(np.full((3, 3), 1 / 3)))
