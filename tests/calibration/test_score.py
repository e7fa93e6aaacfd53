"""The scores as a whole: what they hold, and whether their claims are true."""

import json

import jax
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats
from scipy.stats import binom

from ntkuq.calibration import score, to_datatree
from ntkuq.calibration.binned import expected_calibration_error
from ntkuq.calibration.binning import EqualWidth
from ntkuq.calibration.coverage import exact_interval
from ntkuq.calibration.means import mean_score, root_mean_square
from ntkuq.calibration.pit import (
    calibration_error,
    ks_test,
    pit_curve,
    simultaneous_band,
)
from ntkuq.calibration.reliability import error_test, off_by, reliability_curve
from ntkuq.posteriors.predictive import Predictive


NAMES = [
    *("nll", "crps", "rmse", "mae", "coverage_50", "coverage_90", "coverage_95"),
    *("width_50", "width_90", "width_95"),
    *("interval_score_50", "interval_score_90", "interval_score_95"),
    *("weighted_interval_score", "pinball", "calibration_error"),
    *("rms_calibration_error", "quantile_calibration_error", "miscalibration_area"),
    *("ence", "pit_ks", "sharpness"),
]


def normal(n, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=n), rng.uniform(0.5, 2, size=n)
    return Predictive.normal(mean, scale * std), mean + std * rng.normal(size=n)


def test_regression_scores_and_their_form():
    p, y = normal(300)
    s = score(p, y)
    assert list(s.values) == NAMES
    assert s.task == "regression"
    assert not s.omitted
    for value in s.values.values():
        assert value.n == 300
        assert value.se >= 0
        assert value.interval[0] <= value.value <= value.interval[1]
    hits = s["coverage_90"].hits
    assert s["coverage_90"].level == 0.9
    assert s["coverage_90"].value == hits / 300
    assert s["coverage_90"].interval == exact_interval(hits, 300)
    assert all(v.shape == (300,) for v in s.pointwise.values())
    for curve in s.curves.values():
        assert len({len(column) for column in curve.values()}) == 1
        assert all(len(column) <= 200 for column in curve.values())
    record = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert record["scores"]["pit_ks"]["p"] == s["pit_ks"].p
    assert str(s).splitlines()[0].split() == [
        *("score", "value", "se", "95", "%", "interval", "n")
    ]
    with pytest.raises(KeyError, match="there is no score 'mse'"):
        s["mse"]


def test_classification_scores_and_their_form():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=200)
    s = score(Predictive.probabilities(probs), rng.integers(0, 3, size=200))
    assert list(s.values) == [
        *("nll", "brier", "accuracy", "overconfidence", "entropy"),
        *("ece", "ece_chance", "ece_equal_count", "ece_equal_count_chance"),
        *("class_ece", "class_ece_chance", "smooth_ece", "smooth_ece_chance"),
        *("miscalibration", "miscalibration_chance", "discrimination"),
    ]
    assert s.task == "classification"
    json.dumps(s.to_dict(), allow_nan=False)


def test_values_by_scipy():
    p, y = normal(200)
    s = score(p, y)
    law = stats.norm(np.asarray(p.observed.loc), np.asarray(p.observed.scale))
    nll = -law.logpdf(y)
    np.testing.assert_allclose(s["nll"].value, nll.mean(), rtol=1e-12)
    np.testing.assert_allclose(s["nll"].se, stats.sem(nll), rtol=1e-12)
    expected = stats.t.interval(0.95, 199, nll.mean(), stats.sem(nll))
    np.testing.assert_allclose(s["nll"].interval, expected, rtol=1e-9)
    np.testing.assert_allclose(
        s["rmse"].value, np.sqrt(np.mean((y - law.mean()) ** 2)), rtol=1e-12
    )
    low, high = law.interval(0.9)
    assert s["coverage_90"].hits == np.sum((low <= y) & (y <= high))
    np.testing.assert_allclose(s["width_90"].value, np.mean(high - low), rtol=1e-9)
    test = stats.kstest(law.cdf(y), "uniform")
    np.testing.assert_allclose(s["pit_ks"].value, test.statistic, rtol=1e-9)
    np.testing.assert_allclose(s["pit_ks"].p, test.pvalue, rtol=1e-6)
    inside = np.abs(2 * law.cdf(y) - 1)
    levels = np.arange(1, 20) / 20
    gaps = [abs(np.mean(inside <= level) - level) for level in levels]
    np.testing.assert_allclose(s["calibration_error"].value, np.mean(gaps), rtol=1e-9)
    np.testing.assert_allclose(
        s.curves["coverage"]["observed"][89], s["coverage_90"].value
    )


def test_single_precision_predictions_are_scored_in_double():
    p, y = normal(100)
    with_jax = Predictive.normal(
        jax.numpy.asarray(p.observed.loc, "float32"),
        jax.numpy.asarray(p.observed.scale, "float32"),
    )
    a, b = score(p, y), score(with_jax, y)
    np.testing.assert_allclose(a["nll"].value, b["nll"].value, rtol=1e-6)
    assert b.pointwise["nll"].dtype == np.float64


@pytest.mark.parametrize("hits", [0, 1, 90, 100])
def test_exact_interval_is_scipy(hits):
    expected = stats.binomtest(hits, 100).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(exact_interval(hits, 100), expected, atol=1e-12)


def test_root_mean_square_error_bar_by_simulation():
    rng = np.random.default_rng(0)
    roots = [root_mean_square(rng.normal(size=400) ** 2) for _ in range(500)]
    true = np.std([r.value for r in roots])
    # The sd of 500 values is known within 1 / sqrt(1000) = 3 %, three times over.
    np.testing.assert_allclose(np.mean([r.se for r in roots]), true, rtol=0.1)


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_sets(n):
    p, y = normal(n)
    s = score(p, y)
    assert (s["nll"].se is None) == (n == 1)
    assert (s["pit_ks"].se is None) == (n == 1)
    json.dumps(s.to_dict(), allow_nan=False)
    str(s)
    c = score(Predictive.probabilities(np.full((n, 2), 0.5)), np.zeros(n, int))
    assert (c["ece"].se is None) == (n == 1)


def test_infinite_values_are_reported():
    s = score(Predictive.probabilities(np.eye(2)), np.array([0, 0]))
    assert s["nll"].value == np.inf
    assert s["nll"].se is None
    assert s["nll"].interval is None
    np.testing.assert_array_equal(s.pointwise["nll"], [0, np.inf])
    assert s.to_dict()["scores"]["nll"]["value"] is None
    assert s["brier"].value == 1.0
    assert np.isnan(mean_score(np.array([np.inf, -np.inf])).value)


def test_equal_values_have_no_spread():
    assert mean_score(np.full(7, 0.1)).se == 0.0


def test_refusals():
    p, y = normal(5)
    with pytest.raises(ValueError, match=r"shape \(5,\), got \(4,\)"):
        score(p, y[:4])
    with pytest.raises(ValueError, match="finite y, got a non-finite one at row 1"):
        score(p, np.array([0, np.nan, 0, 0, 0]))
    with pytest.raises(ValueError, match="levels between 0 and 1"):
        score(p, y, levels=(90,))


def test_column_of_targets():
    p, y = normal(50)
    wide = Predictive.normal(
        np.asarray(p.observed.loc)[:, None], np.asarray(p.observed.scale)[:, None]
    )
    a, b = score(p, y), score(wide, y[:, None])
    assert a.to_dict() == b.to_dict()


def test_several_outputs_average_over_points():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 3))
    s = score(Predictive.normal(np.zeros((200, 3)), np.ones((200, 3))), y)
    law = stats.norm()
    np.testing.assert_allclose(s["nll"].value, -law.logpdf(y).sum(1).mean(), rtol=1e-9)
    np.testing.assert_allclose(s["rmse"].value, np.sqrt(np.mean(y**2)), rtol=1e-9)
    inside = np.abs(y) <= law.ppf(0.95)
    np.testing.assert_allclose(s["coverage_90"].value, inside.mean())
    assert s["coverage_90"].hits is None
    assert s["coverage_90"].n == 200


def test_samples_and_quantiles_say_what_they_leave_out():
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    s = score(Predictive.samples(rng.normal(size=(200, 400))), y)
    assert "no density" in s.omitted["nll"]
    assert s["pit_ks"].p > 1e-3
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    table = np.tile(stats.norm.ppf(levels)[:, None], (1, 400))
    s = score(Predictive.quantiles(levels, table), y)
    assert "central 90 %" in s.omitted["coverage_95"]
    assert s["coverage_90"].hits == np.sum(np.abs(y) <= stats.norm.ppf(0.95))
    assert s.curves["coverage"]["level"].max() == 0.9
    counts = score(
        Predictive(None, dist.Poisson(np.full(400, 3.0))), rng.poisson(3, 400)
    )
    assert "no quantile function" in counts.omitted["width_90"]
    assert counts["pit_ks"].p > 1e-3


def test_calibrated_predictions_pass_as_often_as_promised():
    p_values, inside, covers, exact = [], 0, 0, 0
    runs = 150
    for seed in range(runs):
        p, y = normal(150, seed=seed)
        s = score(p, y)
        p_values.append(s["pit_ks"].p)
        curve = s.curves["pit"]
        inside += np.all(
            (curve["lower"] <= curve["ecdf"]) & (curve["ecdf"] <= curve["upper"])
        )
        level = s["coverage_90"]
        exact += level.interval[0] <= 0.9 <= level.interval[1]
        band = s.curves["coverage"]
        covers += band["lower"][49] <= band["observed"][49] <= band["upper"][49]
    # Each check fails by chance once in 10^4 or less.
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    low = stats.binom.ppf(1e-4, runs, 0.95)
    assert inside >= low
    assert exact >= low
    assert covers >= low


def test_wrong_widths_are_detected():
    for factor in (0.5, 2.0):
        p, y = normal(500, scale=factor)
        s = score(p, y)
        assert s["pit_ks"].p < 1e-6
        assert not s["coverage_90"].interval[0] <= 0.9 <= s["coverage_90"].interval[1]
        assert s["calibration_error"].interval[0] > 0.05
        assert s["nll"].value > score(*normal(500))["nll"].value


def test_the_band_is_simultaneous():
    lower, upper = simultaneous_band(60)
    rng = np.random.default_rng(1)
    grid = np.linspace(0, 1, 61)
    draws = rng.uniform(size=(2000, 60, 1))
    ecdf = (draws <= grid).mean(axis=1)
    share = np.mean(np.all((lower <= ecdf) & (ecdf <= upper), axis=1))
    # 95 % is promised at least; simulated twice with 2000 sets, sd 0.5 % each.
    assert 0.93 < share < 0.995
    assert np.all(lower <= grid + 1e-12)
    assert np.all(grid <= upper + 1e-12)


def test_distances_from_perfection():
    pit = (np.arange(1000) + 0.5) / 1000
    assert calibration_error(pit).value < 1e-3
    np.testing.assert_allclose(ks_test(pit).value, 0.0005)
    assert ks_test(pit).p == 1.0
    curve = pit_curve(pit)
    np.testing.assert_allclose(curve["ecdf"], curve["grid"], atol=1e-3)
    assert calibration_error(pit) == calibration_error(pit)


def test_ece_by_hand():
    confidence = np.array([0.9, 0.9, 0.9, 0.62, 0.62])
    correct = np.array([True, True, False, False, True])
    s = expected_calibration_error(confidence, correct)
    by_hand = 3 / 5 * abs(2 / 3 - 0.9) + 2 / 5 * abs(0.5 - 0.62)
    np.testing.assert_allclose(s.value, by_hand)
    curve = reliability_curve(confidence, correct)
    np.testing.assert_allclose(curve["confidence"], [0.62, 0.9])
    np.testing.assert_allclose(curve["accuracy"], [1 / 2, 2 / 3])
    assert curve["count"].tolist() == [2, 3]
    np.testing.assert_allclose(
        curve["upper"], stats.binom.ppf(0.975, [2, 3], [0.62, 0.9]) / [2, 3]
    )


def test_edges_belong_to_the_bin_below():
    edges = np.arange(16) / 15
    assert EqualWidth().index(edges).tolist() == [0, *range(15)]
    above = np.nextafter(edges[:-1], 1)
    assert EqualWidth().index(above).tolist() == list(range(15))
    # Rounding may push a confidence past one: still the last bin.
    assert EqualWidth().index(np.array([1.0 + 1e-7])).tolist() == [14]


def test_sure_predictions_are_inside_the_last_bin():
    # With a bin of its own for confidence 1, the errors below would not cancel.
    confidence, correct = np.array([1.0, 0.95]), np.array([True, True])
    s = expected_calibration_error(confidence, correct)
    np.testing.assert_allclose(s.value, 0.025)
    confidence, correct = np.array([1.0, 0.94]), np.array([False, True])
    s = expected_calibration_error(confidence, correct)
    np.testing.assert_allclose(s.value, abs(0.5 - 0.97))


def test_calibrated_classes_have_small_ece():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), size=3000)
    codes = (probs.cumsum(1) < rng.uniform(size=(3000, 1))).sum(1)
    s = score(Predictive.probabilities(probs), codes)
    # E[ECE] <= sum_b sqrt(var_b n_b) / n <= sqrt(bins) / (2 sqrt(n)).
    assert s["ece"].value < 2 * np.sqrt(15) / (2 * np.sqrt(3000))
    assert s["ece"].interval[0] == 0.0
    sharp = probs**3 / np.sum(probs**3, axis=1, keepdims=True)
    assert score(Predictive.probabilities(sharp), codes)["ece"].interval[0] > 0.1


def test_the_curve_holds_the_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1.0, 400)
    correct = rng.uniform(size=400) < confidence
    curve = reliability_curve(confidence, correct)
    gap = np.abs(curve["accuracy"] - curve["confidence"])
    value = expected_calibration_error(confidence, correct).value
    np.testing.assert_allclose(gap @ curve["count"] / 400, value)


def test_the_hardest_errors_have_the_size_asked_for():
    confidence, count = np.array([0.4, 0.8, 0.99, 1.0]), np.array([1, 50, 200, 30])
    found = list(off_by(confidence, count, 0.03))
    assert len(found) == 4
    for probability in found:
        assert np.all((probability >= 0) & (probability <= 1))
        size = np.abs(probability - confidence) @ count / count.sum()
        np.testing.assert_allclose(size, 0.03, rtol=1e-9)
    # No room upwards; sure predictions have no standard error to be in proportion to.
    assert len(list(off_by(np.array([0.99]), np.array([9]), 0.03))) == 2
    assert len(list(off_by(np.array([1.0]), np.array([9]), 0.03))) == 1


def test_p_values_of_one_bin_are_binomial():
    # One bin of 100 at 0.9: 82 right are 8 points off.
    test = error_test(np.array([0.9]), np.array([0.82]), np.array([100]), 0.03)
    off = np.abs(np.arange(101) / 100 - 0.9) >= 0.08 - 1e-12
    for value, p in ((test.calibrated, 0.9), (test.within, 0.87)):
        exact = binom.pmf(np.arange(101), 100, p)[off].sum()
        # Three standard errors of 1000 draws.
        assert abs(value - exact) < 3 * np.sqrt(exact * (1 - exact) / 1000)


def test_the_order_of_the_classes_does_not_matter():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), size=300)
    codes = rng.integers(0, 4, size=300)
    order = np.array([2, 0, 3, 1])
    a = score(Predictive.probabilities(probs), codes)
    b = score(Predictive.probabilities(probs[:, order]), np.argsort(order)[codes])
    for name in a.values:
        np.testing.assert_allclose(a[name].value, b[name].value, rtol=1e-12)
        if a[name].interval is not None:
            np.testing.assert_allclose(a[name].interval, b[name].interval, rtol=1e-9)


def test_datatree():
    key = jax.random.key(0)
    p, y = normal(5)
    tree = to_datatree(p, y, key=key, samples=20)
    assert tree["posterior_predictive"]["y"].shape == (1, 20, 5)
    np.testing.assert_allclose(tree["observed_data"]["y"], y, rtol=1e-6)
    np.testing.assert_allclose(tree["log_likelihood"]["y"][0, 0], p.log_prob(y))
    tree = to_datatree(Predictive.samples(np.zeros((4, 5))), y, key=key, samples=20)
    assert "log_likelihood" not in tree.children
    parts = dist.Normal(np.zeros((5, 3)), np.ones((5, 3)))
    mixed = dist.MixtureSameFamily(dist.Categorical(probs=np.ones(3) / 3), parts)
    tree = to_datatree(Predictive(None, mixed), y, key=key, samples=20)
    assert tree["log_likelihood"]["y"].shape == (1, 3, 5)
    classes = Predictive.probabilities(np.full((5, 2), 0.5))
    tree = to_datatree(classes, np.zeros(5, int), key=key, samples=20)
    assert tree["posterior_predictive"]["y"].shape == (1, 20, 5)


def test_a_transform_that_exceeds_one_by_rounding_counts_as_one():
    pit = np.linspace(0, 1, 23).astype(np.float32)
    over = np.where(pit == 1, np.float32(1) + np.finfo(np.float32).eps, pit)
    assert ks_test(over).value == ks_test(pit).value
    assert ks_test(over).interval == ks_test(pit).interval
