"""Paired differences: Holm by hand, ties, groups, and error rates."""

import json

import numpy as np
import pytest
from scipy import stats

from ntkuq.calibration import paired
from ntkuq.calibration.pairs import holm


RNG = np.random.default_rng(0)


def by_label(differences):
    return {d.label: d for d in differences}


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 = 0.06 and 0.9: not below the one before.
    adjusted = holm({"d": 0.9, "a": 0.01, "c": 0.03, "b": 0.02})
    assert {k: round(v[0], 10) for k, v in adjusted.items()} == {
        "a": 0.04,
        "b": 0.06,
        "c": 0.06,
        "d": 0.9,
    }
    # After the first that is not rejected (b, at step 2) all have its share.
    assert [round(1 / v[1]) for v in adjusted.values()] == [4, 3, 3, 3]


def test_two_methods_are_a_paired_t_test():
    a = RNG.normal(size=150)
    b = a + 0.2 + 0.5 * RNG.normal(size=150)
    d = by_label(paired({"b": b, "a": a}))["b"]
    test = stats.ttest_rel(b, a)
    np.testing.assert_allclose(d.p, test.pvalue)
    np.testing.assert_allclose(d.value, np.mean(b - a))
    np.testing.assert_allclose(d.interval, test.confidence_interval(0.95))
    assert d.distinguishable == (test.pvalue <= 0.05)
    assert d.n == 150
    assert d.caution is None
    best = by_label(paired({"b": b, "a": a}))["a"]
    assert best.is_best
    assert best.value == 0.0
    assert not best.distinguishable
    assert set(json.loads(json.dumps(d.to_dict(), allow_nan=False))) == {
        *("label", "value", "se", "interval", "p", "n", "distinguishable", "caution")
    }


def test_identical_methods_are_not_told_apart():
    a = RNG.normal(size=200)
    d = by_label(paired({"a": a, "b": a.copy()}))["b"]
    assert (d.value, d.se, d.p, d.distinguishable) == (0.0, 0.0, 1.0, False)
    assert d.interval == (0.0, 0.0)


def test_the_order_of_the_labels_does_not_matter():
    a = RNG.normal(size=120)
    scores = {f"m{i}": a + 0.1 * i + RNG.normal(size=120) for i in range(5)}
    there = by_label(paired(scores))
    back = by_label(paired(dict(reversed(scores.items()))))
    assert there == back
    assert list(there) == list(scores)


def test_intervals_and_tests_agree():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=60)
        scores = {f"m{i}": a + 0.1 * i + 0.5 * rng.normal(size=60) for i in range(6)}
        for d in paired(scores):
            if not d.is_best:
                low, high = d.interval
                assert d.distinguishable == (not low <= 0 <= high)


def test_cautions():
    a = RNG.normal(size=50)
    d = by_label(paired({"a": a, "b": a + 0.001}))["b"]
    assert "n < 100" in d.caution
    assert "total difference below 4" in d.caution
    assert "n < 100" in by_label(paired({"a": a, "b": a + 1}))["b"].caution
    off = by_label(paired({"a": a, "b": a + 0.001}, small=0.0))["b"]
    assert "total" not in off.caution
    spike = np.zeros(200)
    spike[3] = 1e3
    d = by_label(paired({"a": np.zeros(200), "b": spike}))["b"]
    assert "one point" in d.caution


def test_infinite_scores():
    a = np.zeros(200)
    b = np.r_[np.inf, np.zeros(199)]
    d = by_label(paired({"b": b, "a": a}))["b"]
    assert d.value == np.inf
    assert d.interval is None
    assert d.distinguishable
    assert "no finite score at 1 of 200 points" in d.caution
    assert d.to_dict()["value"] is None
    both = by_label(paired({"b": b, "c": b.copy()}))["c"]
    assert not both.distinguishable
    assert np.isnan(both.value)


def test_one_point():
    d = by_label(paired({"a": np.zeros(1), "b": np.ones(1)}))["b"]
    assert d.se is None
    assert d.p is None
    assert not d.distinguishable


def test_groups_widen_the_interval():
    group = np.repeat(np.arange(40), 25)
    shift = np.repeat(RNG.normal(size=40), 25)
    a = RNG.normal(size=1000)
    b = a + 0.05 + shift
    alone = by_label(paired({"a": a, "b": b}))
    grouped = by_label(paired({"a": a, "b": b}, group=group))
    one, many = (next(d for d in x.values() if not d.is_best) for x in (alone, grouped))
    expected = stats.sem((b - a).reshape(40, 25).mean(1))
    np.testing.assert_allclose(many.se, expected, rtol=0.1)
    assert many.se > 3 * one.se
    names = np.array([f"g{i}" for i in group])
    assert by_label(paired({"a": a, "b": b}, group=names)).keys() == grouped.keys()


def test_single_points_as_groups_agree_with_none():
    a = RNG.normal(size=300)
    b = a + RNG.normal(size=300)
    one = next(d for d in paired({"a": a, "b": b}) if not d.is_best)
    each = [d for d in paired({"a": a, "b": b}, group=np.arange(300)) if not d.is_best]
    # Bootstrap with 2000 draws: the sd is known within 1.6 %, three times over.
    np.testing.assert_allclose(each[0].se, one.se, rtol=0.06)


def test_error_rate_when_all_methods_are_equal():
    wrong = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        fixed = rng.normal(size=100)
        # The reference is best by design: its noise has a smaller mean by a hair.
        scores = {f"m{i}": fixed + rng.normal(size=100) for i in range(2)}
        wrong += any(d.distinguishable for d in paired(scores))
    # Two methods: the choice of the best does not change |d|, so 5 % exactly.
    assert stats.binomtest(wrong, 300, 0.05).pvalue > 1e-3


def test_refusals():
    with pytest.raises(ValueError, match="at least one method"):
        paired({})
    with pytest.raises(ValueError, match=r"shape \(3,\) for 'b' like 'a', got \(2,\)"):
        paired({"a": np.zeros(3), "b": np.zeros(2)})
    with pytest.raises(ValueError, match="expected scores of shape"):
        paired({"a": np.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"group of shape \(3,\)"):
        paired({"a": np.zeros(3)}, group=np.zeros(2))
