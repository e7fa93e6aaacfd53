"""Ratios of errors to predicted spread, widths, and single classes."""

import numpy as np
import pytest
from scipy import stats

from ntkuq.calibration.classwise import class_table
from ntkuq.calibration.spread import spread_curve, width_curve


def test_ratio_by_brute_force():
    rng = np.random.default_rng(0)
    std, error = rng.gamma(3.0, size=95), rng.normal(size=95)
    curve = spread_curve(std, error)
    assert curve["count"].tolist() == [32, 32, 31]
    order = np.argsort(std)
    for place, part in enumerate(np.array_split(order, 3)):
        ratio = np.sqrt(np.mean(error[part] ** 2) / np.mean(std[part] ** 2))
        np.testing.assert_allclose(curve["ratio"][place], ratio, rtol=1e-12)
        square = np.mean(std[part] ** 2)
        np.testing.assert_allclose(curve["std"][place] ** 2, square, rtol=1e-12)


def test_a_calibrated_prediction_stays_in_the_band():
    """95 % of the bins, within four standard deviations of a binomial."""
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(50):
        std = np.repeat(np.linspace(1.0, 3.0, 20), 50)  # one spread in each bin
        curve = spread_curve(std, std * rng.normal(size=1000))
        inside.append(
            (curve["lower"] <= curve["ratio"]) & (curve["ratio"] <= curve["upper"])
        )
    hits = int(np.sum(inside))
    low, high = stats.binom.ppf([3e-5, 1 - 3e-5], 1000, 0.95)
    assert low <= hits <= high


def test_spread_that_says_nothing_is_seen():
    rng = np.random.default_rng(2)
    std = rng.uniform(0.2, 2.0, size=2000)
    curve = spread_curve(std, rng.normal(size=2000))
    assert curve["ratio"][0] > curve["upper"][0]
    assert curve["ratio"][-1] < curve["lower"][-1]


@pytest.mark.parametrize("n", [1, 29, 30, 61])
def test_few_points_make_few_bins(n):
    assert len(spread_curve(np.ones(n), np.ones(n))["ratio"]) == max(n // 30, 1)


def test_widths():
    curve = width_curve(np.full(7, 2.5))
    assert set(curve["width"]) == {2.5}
    assert len(curve["level"]) == 19


def test_classes_by_brute_force():
    rng = np.random.default_rng(3)
    probs, codes = rng.dirichlet(np.ones(3), size=40), rng.integers(0, 3, 40)
    rows = class_table(probs, codes, ["a", "b", "c"])
    for k, row in enumerate(rows):
        gaps = [probs[i, k] - (codes[i] == k) for i in range(40)]
        found = row["scores"]["difference"]
        np.testing.assert_allclose(found.value, np.mean(gaps), atol=1e-15)
        np.testing.assert_allclose(found.se, np.std(gaps, ddof=1) / 40**0.5)
        assert row["n"] == list(codes).count(k)


def test_names_must_fit():
    with pytest.raises(ValueError, match="3 names"):
        class_table(np.full((2, 3), 1 / 3), np.zeros(2, int), ["a"])
