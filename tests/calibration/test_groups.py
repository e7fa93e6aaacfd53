"""Groups, slabs, distances and the worst points: closed forms and simulation."""

import itertools
import json

import jax
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats

from ntkuq.calibration.coverage import exact_interval
from ntkuq.calibration.groups import (
    Groups,
    adversarial_groups,
    confident_errors,
    coverage_by_group,
    distance_to_training,
    nearness,
    quantile_groups,
    reliability_by_group,
    worst_slab,
    worst_slab_of,
)
from ntkuq.calibration.groups.adversarial import LEVELS, worst_errors
from ntkuq.calibration.groups.tables import detectable_gap, simultaneous_level
from ntkuq.posteriors.predictive import Predictive


def unit(n):
    return Predictive.normal(np.zeros(n), np.ones(n))


def test_each_group_has_the_numbers_of_its_points():
    rng = np.random.default_rng(0)
    n = 90
    group = np.array(["b", "a", "c"])[
        np.r_[np.zeros(50), np.ones(35), [2] * 5].astype(int)
    ]
    std = rng.uniform(0.5, 2, n)
    p, y = Predictive.normal(np.zeros(n), std), rng.normal(size=n)
    table = coverage_by_group(p, y, group, level=0.8)
    assert [row.name for row in table.rows] == ["a", "b", "c"]
    half = stats.norm.ppf(0.9) * std
    for row in table.rows:
        at = group == row.name
        inside = np.abs(y[at]) <= half[at]
        assert row.n == at.sum()
        assert row.value.value == pytest.approx(inside.mean())
        assert row.value.interval == exact_interval(int(inside.sum()), row.n)
        assert row.simultaneous == exact_interval(
            int(inside.sum()), row.n, 0.95 ** (1 / 3)
        )
        assert row.others["width"].value == pytest.approx(2 * half[at].mean())
        density = stats.norm.logpdf(y[at], 0, std[at])
        assert row.others["nll"].value == pytest.approx(-density.mean())
        assert row.small == (row.n < 30)
    assert table.columns()["coverage"].shape == (3,)
    assert json.dumps(table.to_dict(), allow_nan=False)
    assert "5 (small)" in str(table)


def test_simultaneous_intervals_hold_together():
    """Interval by interval at every possible count, all groups in one draw."""
    rng = np.random.default_rng(1)
    runs, sizes, truth = 4000, [20, 60, 200, 500], 0.9
    each = simultaneous_level(len(sizes))
    together = np.ones(runs, bool)
    for n in sizes:
        ends = np.array([exact_interval(h, n, each) for h in range(n + 1)])
        hits = rng.binomial(n, truth, runs)
        together &= (ends[hits, 0] <= truth) & (truth <= ends[hits, 1])
    assert together.sum() >= stats.binom.ppf(3e-5, runs, 0.95)


def test_the_interval_of_the_gap_holds_for_unequal_confidences():
    """The number of right ones is then no binomial."""
    rng = np.random.default_rng(2)
    runs, n = 150, 60
    confidence = np.r_[np.full(30, 0.55), np.full(30, 0.99)]
    p = Predictive.probabilities(np.stack([confidence, 1 - confidence], axis=1))
    group = np.repeat(["x", "y"], 30)[rng.permutation(n)]
    hold = 0
    for _ in range(runs):
        y = (rng.uniform(size=n) > confidence).astype(int)
        rows = reliability_by_group(p, y, group).rows
        hold += all(row.gap_interval[0] <= 0 <= row.gap_interval[1] for row in rows)
    assert hold >= stats.binom.ppf(3e-5, runs, 0.95)


@pytest.mark.parametrize(("n", "target"), [(160, 0.9), (30, 0.95), (1000, 0.5)])
def test_the_detectable_gap_is_shown_in_eight_of_ten_cases(n, target):
    level = simultaneous_level(5)
    gap = detectable_gap(n, target, level)
    hits = np.arange(n + 1)
    shown = np.array([exact_interval(h, n, level)[1] < target for h in range(n + 1)])
    power = stats.binom.pmf(hits, n, target - gap)[shown].sum()
    assert power == pytest.approx(0.8, abs=1e-9)
    assert detectable_gap(1, 0.5, 0.95) is None


def test_the_weakest_group_has_the_strongest_sign():
    """Two missed of three say less than 60 missed of 200."""
    miss = np.r_[np.zeros(1), [1, 1], np.ones(60), np.zeros(140), np.zeros(300)]
    group = np.repeat(["few", "many", "good"], [3, 200, 300])
    table = coverage_by_group(unit(503), 10 * miss, group, level=0.9)
    assert table.weakest.name == "many"
    assert table.weakest.gap_interval[1] < 0
    shortfalls = {row.name: row.detectable for row in table.rows}
    assert table.detectable == min(v for v in shortfalls.values() if v is not None)
    assert shortfalls["good"] < shortfalls["many"]


def test_classes_by_group():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    y = np.array([0, 1, 1, 0])
    table = reliability_by_group(Predictive.probabilities(probs), y, [True, False] * 2)
    first, second = table.rows
    assert (first.name, second.name) == ("False", "True")
    assert first.value.value == 0.5
    assert first.target == pytest.approx(0.65)
    assert second.gap == pytest.approx(1 - 0.85)
    assert first.others["nll"].value == pytest.approx(-np.log([0.4, 0.7]).mean())
    assert (table.measure, table.level) == ("accuracy", None)


def test_several_outputs_have_students_intervals():
    rng = np.random.default_rng(3)
    y = rng.normal(size=(200, 4))
    p = Predictive.normal(np.zeros((200, 4)), np.ones((200, 4)))
    row = coverage_by_group(p, y, np.zeros(200, int), level=0.9).rows[0]
    share = (np.abs(y) <= stats.norm.ppf(0.95)).mean(axis=1)
    se = share.std(ddof=1) / np.sqrt(200)
    half = stats.t.ppf(0.975, 199) * se
    assert row.simultaneous == pytest.approx((share.mean() - half, share.mean() + half))
    assert row.detectable is None
    lonely = coverage_by_group(p, y, np.arange(200) == 0, level=0.9)
    assert lonely.rows[1].simultaneous is None
    assert lonely.weakest.name == "False"
    probs = rng.dirichlet(np.ones(3), (20, 5))
    codes = rng.integers(0, 3, (20, 5))
    images = Predictive(None, dist.CategoricalProbs(probs))
    row = reliability_by_group(images, codes, np.zeros(20)).rows[0]
    assert row.value.value == pytest.approx((probs.argmax(-1) == codes).mean())


def test_samples_have_no_density_but_coverage():
    draws = np.random.default_rng(4).normal(size=(99, 30))
    table = coverage_by_group(
        Predictive.samples(draws), np.zeros(30), np.arange(30) % 2, level=0.5
    )
    assert list(table.rows[0].others) == ["width"]


def test_labels_of_every_kind():
    assert Groups.of([2, 10, 2]).names == ("2", "10")
    assert Groups.of(np.array([1.5, 0.5])).code.tolist() == [1, 0]
    assert Groups.of(np.array(["x", 3], object)).names == ("3", "x")
    assert Groups.of(np.array([["a"], ["b"]])).names == ("a", "b")
    assert Groups.of(["<script>", "b"]).names[0] == "<script>"
    with pytest.raises(ValueError, match="got nan at row 1"):
        Groups.of([1.0, np.nan])
    with pytest.raises(ValueError, match="got None at row 0"):
        Groups.of(np.array([None, "a"], object))
    with pytest.raises(ValueError, match="at most 1000 groups, got 1500"):
        Groups.of(np.arange(1500))
    with pytest.raises(ValueError, match="one label for each point"):
        Groups.of(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="each of the 3 points, got 2"):
        coverage_by_group(unit(3), np.zeros(3), ["a", "b"], level=0.9)


def test_quantile_groups_are_even_and_keep_ties_together():
    values = np.random.default_rng(5).normal(size=1000)
    groups = quantile_groups(values, bins=4, by="mean")
    assert np.bincount(groups.code).tolist() == [250] * 4
    assert (np.diff([values[groups.code == k].max() for k in range(4)]) > 0).all()
    # The quantiles at 0.2, 0.4, 0.6 are 0, those at 0.8 and 1 are 0.2 and 2.
    tied = quantile_groups([0.0] * 80 + [1.0] * 10 + [2.0] * 10, bins=5)
    assert np.bincount(tied.code).tolist() == [80, 20]
    assert len(quantile_groups(np.ones(10)).names) == 1
    close = quantile_groups(1e6 + np.arange(10.0), bins=2)
    assert close.names == ("value to 1e+06", "value 1e+06 to 1.00001e+06")
    named = quantile_groups(values, bins=2, names=["near", "far"])
    assert named.names == ("near", "far")
    with pytest.raises(ValueError, match="2 different names"):
        quantile_groups(values, bins=2, names=["near"])
    with pytest.raises(ValueError, match="finite values"):
        quantile_groups([0.0, np.inf])
    with pytest.raises(ValueError, match="at least 2 bins"):
        quantile_groups(values, bins=1)


@pytest.mark.parametrize("features", [3, 20])
def test_distances_are_those_of_brute_force(features, monkeypatch):
    monkeypatch.setattr(nearness, "BLOCK", 1000)  # several blocks
    rng = np.random.default_rng(6)
    train = rng.normal(size=(150, features)) * np.arange(1, features + 1)
    x = np.concatenate([train[:5], rng.normal(size=(20, features))])
    got = distance_to_training(x, train, k=3)
    scaled = (x[:, None] - train) / train.std(axis=0)
    expected = np.sort(np.linalg.norm(scaled, axis=2), axis=1)[:, 2]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert distance_to_training(train[:5], train, k=1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rows", [40, 500])
def test_many_features_are_measured_along_principal_components(rows):
    rng = np.random.default_rng(7)
    train = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, 80))
    x = train[:10] + 0.1 * rng.normal(size=(10, 80))
    center, scale = train.mean(axis=0), train.std(axis=0)
    z, points = (train - center) / scale, (x - center) / scale
    # Training inputs span 3 directions: the distance is that within them.
    basis = np.linalg.svd(z, full_matrices=False)[2][:3].T
    apart = (points @ basis)[:, None] - z @ basis
    expected = np.linalg.norm(apart, axis=2).min(axis=1)
    got = distance_to_training(x.reshape(10, 8, 10), train.reshape(rows, 8, 10), k=1)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_distance_refuses_what_it_cannot_measure():
    train = np.zeros((3, 2))
    assert distance_to_training(np.ones((1, 2)), train, k=1) == pytest.approx(2**0.5)
    with pytest.raises(ValueError, match="2 features like x_train, got 3"):
        distance_to_training(np.zeros((1, 3)), train)
    with pytest.raises(ValueError, match="k between 1 and the 3"):
        distance_to_training(np.zeros((1, 2)), train, k=4)
    with pytest.raises(ValueError, match="finite x, got"):
        distance_to_training(np.array([[0.0, np.nan]]), train, k=1)
    with pytest.raises(ValueError, match="one array of numbers"):
        distance_to_training(np.array([["a", "b"]]), train, k=1)


def worst_by_hand(x, covered, least):
    """The lowest coverage of a slab along the only feature."""
    ends = np.unique(x)
    shares = []
    for a, b in itertools.combinations_with_replacement(ends, 2):
        inside = (a <= x) & (x <= b)
        if inside.sum() >= least:
            shares.append(covered[inside].mean())
    return min(shares)


@pytest.mark.parametrize("distinct", [7, 1000])
def test_the_slab_of_the_fit_half_is_the_worst(distinct):
    rng = np.random.default_rng(8)
    x = rng.integers(0, distinct, 240) * 1.0
    covered = rng.uniform(size=240) < 0.8
    key = jax.random.key(1)
    slab = worst_slab_of(covered, x, level=0.8, share=0.2, key=key)
    seed = np.ravel(jax.random.key_data(key)).tolist()
    order = np.random.default_rng(seed).permutation(240)
    fit, held = order[:120], order[120:]
    expected = worst_by_hand(x[fit], covered[fit], 24)
    assert slab.fit_coverage == pytest.approx(expected)
    z = (x - x[fit].mean()) / x[fit].std()
    rows = [i for i in held if slab.lower - 1e-9 <= z[i] <= slab.upper + 1e-9]
    assert slab.rows.tolist() == sorted(rows)
    assert slab.coverage.value == pytest.approx(covered[rows].mean())
    assert slab.coverage.hits == covered[rows].sum()
    p = stats.binom.cdf(covered[rows].sum(), len(rows), 0.8)
    assert slab.coverage.p == pytest.approx(p)
    assert slab.share == len(rows) / 120
    assert json.dumps(slab.to_dict(), allow_nan=False)


def test_held_out_coverage_of_the_worst_slab_is_unbiased():
    rng = np.random.default_rng(9)
    runs, n, level = 100, 400, 0.9
    fitted, total, hits, rejected = [], 0, 0, 0
    for key in jax.random.split(jax.random.key(2), runs):
        covered, x = rng.uniform(size=n) < level, rng.normal(size=(n, 3))
        slab = worst_slab_of(covered, x, level=level, directions=20, key=key)
        fitted.append(slab.fit_coverage)
        total, hits = total + slab.coverage.n, hits + slab.coverage.hits
        rejected += slab.coverage.p <= 0.05
    # All covered independently of the slab: one binomial over all runs.
    limit = 4 * np.sqrt(level * (1 - level) / total)
    assert hits / total == pytest.approx(level, abs=limit)
    assert np.mean(fitted) < level - 0.1
    assert rejected <= stats.binom.isf(3e-5, runs, 0.05)


def test_a_slab_that_fails_is_found():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(3000, 5))
    along = (x[:, 0] + x[:, 1]) / np.sqrt(2)
    y = np.where(np.abs(along - 1) < 0.4, 3, 0.9) * rng.normal(size=3000)
    slab = worst_slab(
        unit(3000), y, x, level=0.9, directions=300, key=jax.random.key(3)
    )
    assert slab.coverage.interval[1] < 0.8
    assert slab.coverage.p < 1e-6
    assert np.abs(slab.direction[:2].sum() / np.sqrt(2)) > 0.8


def test_all_covered_leaves_the_whole_space():
    x = np.random.default_rng(11).normal(size=(300, 2))
    slab = worst_slab(unit(300), np.zeros(300), x, level=0.9, key=jax.random.key(4))
    assert (slab.fit_coverage, slab.share, slab.coverage.value) == (1, 1, 1)


def test_slabs_refuse_what_they_cannot_use():
    key, hit = jax.random.key(0), np.ones(300, bool)
    x = np.arange(300.0)
    with pytest.raises(ValueError, match="at least 200 points"):
        worst_slab_of(hit[:100], x[:100], level=0.9, key=key)
    with pytest.raises(ValueError, match="same input everywhere"):
        worst_slab_of(hit, np.ones((300, 2)), level=0.9, key=key)
    with pytest.raises(ValueError, match="booleans of shape"):
        worst_slab_of(hit * 1.0, x, level=0.9, key=key)
    with pytest.raises(ValueError, match="share between 0 and 1"):
        worst_slab_of(hit, x, level=0.9, share=1.0, key=key)
    with pytest.raises(ValueError, match="finite x"):
        worst_slab_of(hit, np.r_[x[1:], np.nan], level=0.9, key=key)
    classes = Predictive.probabilities(np.full((300, 2), 0.5))
    with pytest.raises(TypeError, match="use worst_slab_of"):
        worst_slab(classes, np.zeros(300, int), x, level=0.9, key=key)


def test_the_whole_set_as_a_group_has_the_error_of_the_set():
    rng = np.random.default_rng(12)
    y = 1.5 * rng.normal(size=400)
    table = adversarial_groups(unit(400), y, share=1.0, key=jax.random.key(0))
    inside = np.abs(2 * stats.norm.cdf(y) - 1)[:, None] <= LEVELS
    expected = np.abs(inside.mean(axis=0) - LEVELS).mean()
    assert table.columns["error"] == pytest.approx(expected)
    assert table.columns["se"] == pytest.approx(0, abs=1e-12)
    assert table.columns["error"][0] > table.columns["upper"][0]


def test_random_groups_have_the_law_of_drawn_points():
    """The worst of 5 groups of 40 among 200, against drawing the points themselves."""
    rng = np.random.default_rng(13)
    inside = np.abs(2 * rng.uniform(size=200) - 1)[:, None] <= LEVELS
    counts = np.diff(inside.sum(axis=0), prepend=0)[None]
    trials = 400
    got = worst_errors(rng, counts, (40,), 5, trials)[0, 0]
    drawn = [
        np.abs(inside[rng.permutation(200)[:40]].mean(axis=0) - LEVELS).mean()
        for _ in range(5 * trials)
    ]
    assert stats.ks_2samp(got, np.reshape(drawn, (trials, 5)).max(axis=1)).pvalue > 1e-4


def test_a_calibrated_model_stays_in_the_band():
    rng = np.random.default_rng(14)
    runs, inside = 40, 0
    for key in jax.random.split(jax.random.key(1), runs):
        c = adversarial_groups(
            unit(300), rng.normal(size=300), share=0.1, key=key
        ).columns
        inside += c["lower"][0] <= c["error"][0] <= c["upper"][0]
    # The band comes from 100 simulated sets: its own 95 % may be 90 %.
    assert inside >= stats.binom.ppf(3e-5, runs, 0.9)


def test_adversarial_groups_refuse_what_they_cannot_use():
    key = jax.random.key(0)
    wide = Predictive.normal(np.zeros((5, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="one output, got 2"):
        adversarial_groups(wide, np.zeros((5, 2)), key=key)
    with pytest.raises(ValueError, match="shares above 0"):
        adversarial_groups(unit(5), np.zeros(5), share=[0.0, 1.0], key=key)
    with pytest.raises(ValueError, match="at least 2 points"):
        adversarial_groups(unit(1), np.zeros(1), key=key)
    classes = Predictive.probabilities(np.full((5, 2), 0.5))
    with pytest.raises(TypeError, match="reliability_by_group"):
        adversarial_groups(classes, np.zeros(5, int), key=key)


def test_the_worst_errors_come_first():
    y = np.array([0.1, -40.0, 3.0, 50.0, 0.0])
    worst = confident_errors(unit(5), y, n=3)
    assert worst["row"].tolist() == [3, 1, 2]  # 40 and 50 std, told apart by |z|
    np.testing.assert_allclose(worst["z"], [50, -40, 3])
    assert worst["tail"][2] == pytest.approx(2 * stats.norm.sf(3))
    draws = Predictive.samples(np.arange(10.0)[:, None] * np.ones(2))
    worst = confident_errors(draws, np.array([8.0, 2.0]))
    assert worst["row"].tolist() == [0, 1]
    np.testing.assert_allclose(worst["tail"], [0.4, 0.6])
    counts = Predictive(None, dist.Poisson(np.array([2.0, 2.0])))
    worst = confident_errors(counts, np.array([0.0, 9.0]))
    law = stats.poisson(2)
    np.testing.assert_allclose(
        worst["tail"], [2 * law.sf(8), 2 * law.cdf(0)], rtol=1e-5
    )
    two = Predictive.normal(np.zeros((2, 2)), np.ones((2, 2)))
    worst = confident_errors(two, np.array([[0.0, 1.0], [5.0, 2.0]]), n=2)
    assert (worst["row"].tolist(), worst["output"].tolist()) == ([1, 1], [0, 1])


def test_sure_and_wrong_classes_come_first():
    probs = np.array([[0.9, 0.1], [1.0, 0.0], [0.4, 0.6], [0.2, 0.8]])
    worst = confident_errors(Predictive.probabilities(probs), np.array([1, 1, 0, 1]))
    assert worst["row"].tolist() == [1, 0, 2]
    assert worst["confidence"].tolist() == [1.0, 0.9, 0.6]
    assert worst["predicted"].tolist() == [0, 0, 1]
    assert worst["probability"].tolist() == [0.0, 0.1, 0.4]
    right = confident_errors(Predictive.probabilities(probs), np.array([0, 0, 1, 1]))
    assert right["row"].size == 0
    with pytest.raises(ValueError, match="at least 1 row"):
        confident_errors(unit(2), np.zeros(2), n=0)
    with pytest.raises(ValueError, match="got nan at row 1"):
        confident_errors(unit(2), np.array([0, np.nan]))
