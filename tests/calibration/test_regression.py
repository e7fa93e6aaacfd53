"""Regression scores: closed forms, brute force, groups, and simulation."""

import jax
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import special, stats

from experiments.scores import class_core, core
from ntkuq.calibration import score
from ntkuq.calibration.bootstrap import group_means
from ntkuq.calibration.coverage import binomial_quantile
from ntkuq.calibration.draws import SampleLaw
from ntkuq.calibration.ence import ence, equal_count
from ntkuq.calibration.energy import energy_mixture, energy_samples
from ntkuq.calibration.interval_score import QUANTILES, pinball, pinball_normal
from ntkuq.calibration.laws import law
from ntkuq.calibration.miscalibration import area, miscalibration_area
from ntkuq.calibration.mixture_quantiles import Rows
from ntkuq.calibration.pit import kolmogorov, pit_values
from ntkuq.calibration.proper import crps_mixture
from ntkuq.calibration.resampled import Resampled
from ntkuq.calibration.sampling import Cells, Groups, Points
from ntkuq.calibration.transform import Pit
from ntkuq.posteriors.predictive import Predictive


def normal(n, seed=0):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=n), rng.uniform(0.5, 2, size=n)
    return mean, std, mean + std * rng.normal(size=n)


def mixture(n, parts=3, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(parts), size=n)
    loc, scale = 3 * rng.normal(size=(n, parts)), rng.uniform(0.05, 2, (n, parts))
    return weights, loc, scale


def mixed(weights, loc, scale):
    parts = dist.Normal(loc, scale)
    return Predictive(
        None, dist.MixtureSameFamily(dist.Categorical(probs=weights), parts)
    )


def loss(q, gap):
    return np.where(gap >= 0, q * gap, (q - 1) * gap)


def kinds(n):
    """The same Normal predictions in all forms that reach every level."""
    mean, std, y = normal(n)
    grid = np.arange(1, 2000) / 2000
    table = mean + std * special.ndtri(grid)[:, None]
    twice = np.stack([mean, mean], axis=1), np.stack([std, std], axis=1)
    return y, {
        "normal": Predictive.normal(mean, std),
        "mixture": mixed(np.full((n, 2), 0.5), *twice),
        "student": Predictive(None, dist.StudentT(1e7, mean, std)),
        "samples": Predictive.samples(table),
        "table": Predictive.quantiles(grid, table),
    }


def test_every_kind_of_prediction_gives_the_same_scores():
    y, forms = kinds(300)
    found = {name: score(p, y) for name, p in forms.items()}
    exact = found["normal"]
    for kind, s in found.items():
        # Discretization to 1999 quantiles: the tails of the density are cut.
        rough = kind in ("samples", "table")
        for name, value in s.values.items():
            if name == "pit_ks" and kind == "samples":
                continue
            tolerance = {"rtol": 5e-3, "atol": 2e-3} if rough else {"rtol": 1e-10}
            if kind == "student":  # with 10^7 degrees of freedom
                tolerance = {"rtol": 1e-4, "atol": 1e-4}
            np.testing.assert_allclose(
                value.value, exact[name].value, err_msg=f"{kind} {name}", **tolerance
            )
        missing = {"nll"} if rough else set()
        assert set(s.omitted) == missing


def test_mean_scores_by_hand():
    mean, std, y = normal(50)
    s = score(Predictive.normal(mean, std), y, levels=(0.5, 0.8))
    np.testing.assert_allclose(s["mae"].value, np.mean(np.abs(y - mean)), rtol=1e-12)
    np.testing.assert_allclose(s["sharpness"].value, np.sqrt(np.mean(std**2)))
    total = 0.5 * np.abs(y - mean)
    for level in (0.5, 0.8):
        low, high = stats.norm(mean, std).interval(level)
        alpha = 1 - level
        each = (
            high - low + 2 / alpha * ((low - y) * (y < low) + (y - high) * (y > high))
        )
        found = s.pointwise[f"interval_score_{100 * level:g}"]
        np.testing.assert_allclose(found, each, rtol=1e-12)
        total += alpha / 2 * each
    np.testing.assert_allclose(
        s.pointwise["weighted_interval_score"], total / 2.5, rtol=1e-12
    )
    at = stats.norm(mean, std).ppf(QUANTILES[:, None])
    by_hand = np.mean(loss(QUANTILES[:, None], y - at), axis=0)
    np.testing.assert_allclose(s.pointwise["pinball"], by_hand, rtol=1e-12)


def test_interval_scores_are_scoringrules(need):
    oracle = need("scoringrules")
    mean, std, y = normal(50)
    levels = (0.2, 0.5, 0.9)
    s = score(Predictive.normal(mean, std), y, levels=levels)
    alpha = 1 - np.array(levels)
    low, high = stats.norm(mean[:, None], std[:, None]).interval(np.array(levels))
    for k, level in enumerate(levels):
        each = oracle.interval_score(y, low[:, k], high[:, k], alpha[k])
        found = s.pointwise[f"interval_score_{100 * level:g}"]
        np.testing.assert_allclose(found, each, rtol=1e-10)
    # Version 0.11 adds half the median itself on its NumPy path: leave that part out.
    each = oracle.weighted_interval_score(y, mean, low, high, alpha, w_median=0.0)
    each += 0.5 * np.abs(y - mean) / 3.5
    found = s.pointwise["weighted_interval_score"]
    np.testing.assert_allclose(found, each, rtol=1e-10)


def test_twice_the_pinball_loss_is_nearly_the_crps():
    mean, std, y = normal(4000)
    s = score(Predictive.normal(mean, std), y)
    # The mean over 99 levels leaves out the ends: below 1 + 1/99 of the integral, and
    # the integral of the loss over the two outer half steps is below 1 % of it.
    ratio = 2 * s["pinball"].value / s["crps"].value
    assert 0.99 < ratio < 1 + 1 / 99 + 0.002
    fine = (np.arange(20_000) + 0.5) / 20_000
    z = np.array([-3.0, 0.2, 5.0])
    crps = z * special.erf(z / np.sqrt(2)) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    np.testing.assert_allclose(2 * pinball_normal(z, fine), crps, rtol=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_mixture_quantiles_solve_their_equation(spread):
    weights, loc, scale = mixture(300)
    rows = Rows(weights, spread * loc, scale)
    q = np.r_[0.975, QUANTILES, 0.025, 1e-6]  # in no order
    at = rows.quantiles(q)
    z = (at[..., None] - rows.loc) / scale
    reached = np.sum(weights * special.ndtr(z), axis=-1)
    # Rounding of z at 100 standard deviations of a component from 0.
    np.testing.assert_allclose(
        reached, np.broadcast_to(q[:, None], at.shape), atol=2e-11
    )
    solved = rows.solve(np.full(300, 0.3))
    np.testing.assert_allclose(solved, at[30], rtol=1e-9, atol=1e-9)


def test_mixture_pinball_and_density_by_hand():
    weights, loc, scale = mixture(40)
    y = 3 * np.random.default_rng(1).normal(size=40)
    s = score(mixed(weights, loc, scale), y)
    at = Rows(weights, loc, scale).quantiles(QUANTILES)
    by_hand = np.mean(loss(QUANTILES[:, None], y - at), axis=0)
    np.testing.assert_allclose(s.pointwise["pinball"], by_hand, rtol=1e-10)
    density = np.sum(weights * stats.norm(loc, scale).pdf(y[:, None]), axis=1)
    np.testing.assert_allclose(s.pointwise["nll"], -np.log(density), rtol=1e-10)
    draws = np.sum(weights * (loc**2 + scale**2), 1) - np.sum(weights * loc, 1) ** 2
    np.testing.assert_allclose(s["sharpness"].value, np.sqrt(draws.mean()), rtol=1e-10)


def test_laws_agree_with_the_predictive():
    rng = np.random.default_rng(0)
    y, q = rng.normal(size=30), np.array([0.1, 0.5, 0.83])
    levels = np.array([0.05, 0.3, 0.6, 0.95])
    table = np.sort(rng.normal(size=(4, 30)), axis=0)
    forms = [
        Predictive.normal(rng.normal(size=30), rng.uniform(0.5, 1, 30)),
        mixed(*mixture(30)),
        Predictive.samples(rng.normal(size=(7, 30))),
        Predictive.quantiles(levels, table),
    ]
    with jax.enable_x64(True):
        for p in forms:
            one, d = law(p), p.observed
            if not isinstance(d, dist.MixtureSameFamily):  # tested by their equation
                np.testing.assert_allclose(one.quantiles(q), p.quantile(q), rtol=1e-9)
            np.testing.assert_allclose(one.mean, d.mean, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(one.variance, d.variance, rtol=1e-11)
        by_hand = pinball(table, y, levels)
        np.testing.assert_allclose(law(forms[3]).pinball(y), by_hand, rtol=1e-10)


def test_samples_in_blocks_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    y, values = rng.normal(size=(50, 2)), np.round(rng.normal(size=(50, 2, 9)), 1)
    whole = SampleLaw(values)
    found = [whole.crps(y), whole.pinball(y), whole.pit(y), whole.variance]
    monkeypatch.setattr("ntkuq.calibration.draws.BLOCK", 40)
    parts = SampleLaw(values)
    again = [parts.crps(y), parts.pinball(y), parts.pit(y), parts.variance]
    for one, two in zip(found, again, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    by_hand = loss(
        QUANTILES, y[..., None] - np.quantile(values, QUANTILES, -1).T.swapaxes(0, 1)
    )
    np.testing.assert_allclose(found[1], by_hand.mean(-1), rtol=1e-11)


def test_calibration_distances_by_brute_force():
    mean, std, y = normal(200)
    y = y + 0.3 * std
    s = score(Predictive.normal(mean, std), y)
    u = stats.norm(mean, std).cdf(y)
    levels = np.linspace(0, 1, 100)
    central = np.mean(np.abs(2 * u - 1)[:, None] <= levels, axis=0) - levels
    below = np.mean(u[:, None] <= levels, axis=0) - levels
    expected = {
        "rms_calibration_error": np.sqrt(np.mean(central**2)),
        "quantile_calibration_error": np.sqrt(np.mean(below**2)),
    }
    fine = np.linspace(0, 1, 1_000_001)
    line = np.abs(np.interp(fine, levels, central))
    for name, value in expected.items():
        np.testing.assert_allclose(s[name].value, value, rtol=1e-10)
    found = s["miscalibration_area"].value
    np.testing.assert_allclose(found, np.trapezoid(line, fine), rtol=1e-6)
    assert s["quantile_calibration_error"].interval[0] > 0.05


def test_the_area_of_crossing_lines():
    at = np.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(area(np.array([-1.0, 1.0, 1.0]), at), 0.5 + 2.0)
    np.testing.assert_allclose(area(np.zeros(3), at), 0.0)
    assert miscalibration_area(np.full(10, 0.5)).value == pytest.approx(0.5)


def test_ence_by_hand():
    rng = np.random.default_rng(0)
    variance = rng.permutation(np.linspace(1, 4, 90))
    squares = 2 * variance * rng.chisquare(1, 90)
    ranks = np.argsort(np.argsort(variance)) // 30
    ratio = [
        np.sqrt(squares[ranks == b].mean() / variance[ranks == b].mean())
        for b in range(3)
    ]
    found = ence(squares, variance)
    np.testing.assert_allclose(found.value, np.mean(np.abs(np.array(ratio) - 1)))
    cells, bins = equal_count(np.r_[np.ones(100), 2 * np.ones(20), 3 * np.ones(100)])
    assert bins == 2  # equal variances together, and at least 30 in a bin
    assert np.bincount(cells).min() >= 30
    assert ence(np.full(600, 4.0), np.ones(600)).value == pytest.approx(1.0)
    with pytest.raises(NotImplementedError, match="30 points; there are 29"):
        ence(np.ones(29), np.ones(29))
    with pytest.raises(NotImplementedError, match="all zero"):
        ence(np.ones(40), np.zeros(40))


def test_ence_error_bar_by_simulation():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        variance = rng.uniform(1, 4, 600)
        squares = 2.25 * variance * rng.chisquare(1, 600)
        found.append(ence(squares, variance))
    spread = np.std([s.value for s in found])
    # sd of 200 values: 5 %; the delta method in bins of 30: a few per cent.
    np.testing.assert_allclose(np.mean([s.se for s in found]), spread, rtol=0.2)


def test_energy_score_of_one_output_is_the_crps():
    weights, loc, scale = mixture(100)
    y = 4 * np.random.default_rng(1).normal(size=100)
    args = (weights[:, None], loc[:, None], scale[:, None], y[:, None])
    expected = crps_mixture(weights, loc, scale, y)
    np.testing.assert_allclose(energy_mixture(*args), expected, rtol=1e-9)


def test_energy_score_of_normals_by_rice():
    # The distance of an isotropic Normal in the plane from a point has Rice's law.
    rng = np.random.default_rng(0)
    std, far = rng.uniform(0.1, 3, 50), rng.uniform(0, 6, 50)
    turn = rng.uniform(0, 2 * np.pi, 50)
    y = (far * std)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    p = Predictive.normal(np.zeros((50, 2)), np.stack([std, std], axis=1))
    expected = stats.rice.mean(far) * std - np.sqrt(np.pi) / 2 * std
    found = score(p, y).pointwise["energy_score"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_energy_score_of_samples(need, monkeypatch):
    rng = np.random.default_rng(0)
    draws, y = rng.normal(size=(8, 20, 3)), rng.normal(size=(20, 3))
    oracle = need("scoringrules").es_ensemble(y, np.moveaxis(draws, 0, 1))
    # That one divides the double sum by S^2, the fair one by S (S - 1).
    joint = np.moveaxis(draws, 0, -1)
    pairs = np.linalg.norm(joint[..., None] - joint[:, :, None, :], axis=1).sum((1, 2))
    expected = oracle + pairs / 2 * (1 / 64 - 1 / 56)
    found = score(Predictive.samples(draws), y).pointwise["energy_score"]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    # With some lags only, and many draws, it stays near.
    many, at = rng.normal(size=(300, 2, 60)), np.zeros((300, 2))
    full = energy_samples(many, at)
    monkeypatch.setattr("ntkuq.calibration.energy.BUDGET", 1)
    some = energy_samples(many, at)
    assert not np.array_equal(full, some)
    gap = full - some
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(300)
    with pytest.raises(NotImplementedError, match="two samples"):
        energy_samples(np.zeros((3, 2, 1)), np.zeros((3, 2)))


def test_epistemic_and_aleatoric_means():
    mean, std, y = normal(40)
    observed = Predictive.normal(mean, std).observed
    p = Predictive(None, observed, 0.25 * std**2, np.full(40, 0.5))
    s = score(p, y)
    np.testing.assert_allclose(s["epistemic"].value, np.mean(std**2) / 4)
    assert s["aleatoric"].value == 0.5
    assert list(s.values)[-2:] == ["epistemic", "aleatoric"]
    assert "epistemic" not in score(Predictive.normal(mean, std), y).values


def test_discrete_transforms_are_uniform():
    rng = np.random.default_rng(0)
    n = 3000
    rate = rng.uniform(0.2, 5, n)
    counts = Predictive(None, dist.Poisson(rate))
    u = pit_values(counts, rng.poisson(rate).astype(float))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    few = Predictive(None, dist.Poisson(rate[:50]))
    s = score(few, rng.poisson(rate[:50]))
    assert {"pinball", "width_90", "weighted_interval_score"} <= set(s.omitted)
    # Marks from 3 to 8, as of wine: 200 draws of the same law, full of ties.
    mean = rng.normal(5.6, 0.4, n)
    marks = np.round(np.clip(mean + 0.7 * rng.normal(size=(201, n)), 3, 8))
    y, draws = marks[0], marks[1:]
    assert score(Predictive.samples(draws), y)["pit_ks"].p > 1e-3
    naive = np.mean(draws <= y, axis=0)
    assert stats.kstest(naive, "uniform").pvalue < 1e-9
    # All quantiles of the true discrete law, many of them equal.
    levels = np.arange(1, 400) / 400
    cuts = np.r_[-np.inf, np.arange(3.5, 8), np.inf]
    edges = special.ndtr((cuts - mean[:, None]) / 0.7)
    table = 3.0 + (levels[:, None, None] > edges[None, :, 1:-1]).sum(-1)
    p = Predictive.quantiles(levels, table)
    assert stats.kstest(pit_values(p, y), "uniform").pvalue > 1e-4


def test_cluster_errors_of_equal_points():
    mean, std, y = normal(60)
    once = score(Predictive.normal(mean, std), y)
    five = [np.repeat(a, 5) for a in (mean, std, y)]
    names = np.repeat([f"site {i}" for i in range(60)], 5)
    s = score(Predictive.normal(*five[:2]), five[2], group=names)
    for name in ("nll", "crps", "rmse", "mae", "width_90", "pinball", "sharpness"):
        np.testing.assert_allclose(s[name].value, once[name].value, rtol=1e-12)
        np.testing.assert_allclose(s[name].se, once[name].se, rtol=1e-9)
        np.testing.assert_allclose(s[name].interval, once[name].interval, rtol=1e-9)
        assert s[name].n == 300
    assert s["coverage_90"].hits is None
    # Points count n - 1 here, the exact share n.
    expected = once["coverage_90"].se * np.sqrt(60 / 59)
    np.testing.assert_allclose(s["coverage_90"].se, expected)
    for name in ("calibration_error", "miscalibration_area", "pit_ks"):
        # Normal instead of multinomial resamples of 60 points.
        np.testing.assert_allclose(s[name].se, once[name].se, rtol=0.3)
    for curve in ("pit", "coverage"):
        same = once.curves[curve]["lower"]
        np.testing.assert_array_equal(s.curves[curve]["lower"], same)
    means, total = group_means(np.asarray(s.pointwise["nll"]), names)
    assert total == 60
    np.testing.assert_allclose(means.std(ddof=1), s["nll"].se, rtol=0.1)


def test_cluster_errors_by_simulation():
    rng = np.random.default_rng(0)
    means, errors, holds, small, runs, tested = [], [], 0, 0, 300, 80
    size = rng.integers(1, 8, 40)
    group = np.repeat(np.arange(40), size)
    for run in range(runs):
        shared = rng.normal(size=40)[group]
        y = (shared + 0.2 * rng.normal(size=group.size)) / np.sqrt(1.04)
        found = Groups(group)
        s = found.mean(y)
        means.append(s.value)
        errors.append(s.se)
        holds += s.interval[0] <= 0 <= s.interval[1]
        if run < tested:
            u = Pit(special.ndtr(y))
            small += Resampled(u, Groups(group, draws=400)).p_value() < 0.05
    spread = np.std(means)
    # sd of 300 values is known to 4 %; the linear error bar is some per cent short.
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors))), spread, rtol=0.13)
    assert holds >= stats.binom.ppf(1e-4, runs, 0.93)
    # The test of uniformity holds its level; taking points for independent it fails.
    assert small <= stats.binom.ppf(1 - 1e-4, tested, 0.06)
    assert Points(group.size).mean(y).se < 0.7 * spread


def test_every_point_a_group_is_independent_points():
    mean, std, y = normal(400)
    p = Predictive.normal(mean, std)
    a, b = score(p, y), score(p, y, group=np.arange(400))
    for name, one in a.values.items():
        two = b[name]
        np.testing.assert_allclose(one.value, two.value)
        exact = name in b.pointwise or name in ("rmse", "sharpness")
        np.testing.assert_allclose(one.se, two.se, rtol=1e-9 if exact else 0.15)


def test_covariances_of_cells_by_brute_force():
    rng = np.random.default_rng(0)
    cells, values = rng.integers(0, 3, 50), rng.normal(size=50)
    group = rng.integers(0, 12, 50)
    onehot = np.eye(3)[cells] * values[:, None]
    mean = onehot.sum(0) / 50
    sums = np.stack([(onehot - mean)[group == g].sum(0) for g in range(12)])
    np.testing.assert_allclose(
        Groups(group).covariance(cells, values, 3), sums.T @ sums * 12 / 11
    )
    centered = onehot - mean
    found = Points(50).covariance(cells, values, 3)
    np.testing.assert_allclose(found, centered.T @ centered)
    edges = np.linspace(0, 1, 4)
    cells = Cells(edges, np.array([0.0, 1 / 3, 0.34, 1.0]))
    assert cells.index.tolist() == [0, 0, 1, 2]


def test_several_outputs_of_a_point_are_not_independent():
    mean, std, y = normal(620)  # 20 bins of ENCE whether or not outputs are pooled
    wide = [np.stack([a, a], axis=1) for a in (mean, std, y)]
    a = score(Predictive.normal(mean, std), y)
    b = score(Predictive.normal(*wide[:2]), wide[2])
    for name in ("mae", "width_90", "coverage_90", "ence", "miscalibration_area"):
        np.testing.assert_allclose(a[name].value, b[name].value, rtol=1e-9)
        np.testing.assert_allclose(a[name].se, b[name].se, rtol=0.15)
    assert "energy_score" in b.values
    assert "energy_score" not in a.values


@pytest.mark.parametrize("n", [1, 2, 29, 30])
def test_few_points(n):
    mean, std, y = normal(n)
    s = score(Predictive.normal(mean, std), y)
    assert (s["mae"].se is None) == (n == 1)
    assert ("ence" in s.omitted) == (n < 30)
    str(s)
    one = score(Predictive.normal(mean, std), y, group=np.zeros(n))
    assert one["nll"].se is None
    assert one["nll"].value == pytest.approx(s["nll"].value)


def test_a_small_table_says_what_it_leaves_out():
    levels = np.array([0.2, 0.4])
    rng = np.random.default_rng(0)
    table = np.sort(rng.normal(size=(2, 80)), axis=0)
    s = score(Predictive.quantiles(levels, table), rng.normal(size=80))
    central = ("calibration_error", "rms_calibration_error", "miscalibration_area")
    assert all("no central level" in s.omitted[name] for name in central)
    assert "weighted_interval_score" in s.omitted
    by_hand = loss(levels[:, None], 0 - table)
    assert s["pinball"].n == 80
    assert by_hand.shape == (2, 80)
    assert "quantile_calibration_error" in s.values


def test_bad_input():
    mean, std, y = normal(5)
    good = Predictive.normal(mean, std)
    with pytest.raises(ValueError, match=r"group of shape \(5,\).* got \(4,\)"):
        score(good, y, group=np.arange(4))
    with pytest.raises(ValueError, match="NaN at row 2"):
        score(good, y, group=np.array([0, 1, np.nan, 1, 1]))
    broken = mean.copy()
    broken[3] = np.nan
    raw = dist.Normal(broken, std, validate_args=False)
    with pytest.raises(ValueError, match="finite means, got nan at row 3"):
        score(Predictive(None, raw), y)
    raw = dist.Normal(mean, np.where(np.arange(5) == 1, 0, std), validate_args=False)
    with pytest.raises(ValueError, match=r"finite and positive stds, got .* at row 1"):
        score(Predictive(None, raw), y)
    s = score(good, y, levels=())
    assert "one interval at least" in s.omitted["weighted_interval_score"]
    assert "nll" in s.values


def test_student_is_scoringrules_and_scipy(need):
    oracle = need("scoringrules")
    rng = np.random.default_rng(0)
    df, loc, scale, y = 1.2 + rng.exponential(5, 60), *rng.normal(size=(3, 60))
    scale = np.exp(scale)
    s = score(Predictive(None, dist.StudentT(df, loc, scale)), y)
    expected = oracle.crps_t(y, df, loc, scale)
    np.testing.assert_allclose(s.pointwise["crps"], expected, rtol=1e-9)
    truth = stats.t(df, loc, scale)
    np.testing.assert_allclose(s.pointwise["nll"], -truth.logpdf(y), rtol=1e-10)
    np.testing.assert_allclose(s.pointwise["pit"], truth.cdf(y), rtol=1e-10)
    width = np.subtract(*truth.interval(0.9)[::-1])
    np.testing.assert_allclose(s["width_90"].value, width.mean(), rtol=1e-10)


def test_heavy_tails_leave_out_what_has_no_value():
    rng = np.random.default_rng(0)
    y = rng.standard_t(1.5, size=100)
    p = Predictive(None, dist.StudentT(1.5, np.zeros(100), np.ones(100)))
    s = score(p, y)
    assert s["sharpness"].value == np.inf
    assert s["sharpness"].se is None
    assert "not finite" in s.omitted["ence"]


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_the_limit_law_is_close_to_the_exact_one(n):
    for at in (0.4, 0.9, 1.36, 1.9):
        exact = stats.kstwo.sf(at / np.sqrt(n), n)
        np.testing.assert_allclose(kolmogorov(at / np.sqrt(n), n), exact, rtol=5e-4)


def test_binomial_quantiles_are_scipy():
    p = np.linspace(0.01, 0.99, 33)
    for n in (1, 7, 100, 12_345):
        for q in (1e-4, 0.025, 0.5, 0.975):
            expected = stats.binom.ppf(q, n, p)
            np.testing.assert_array_equal(binomial_quantile(q, n, p), expected)


def test_a_million_points():
    n = 1_000_000
    y = np.random.default_rng(0).normal(size=n)
    s = score(Predictive.normal(np.zeros(n), np.ones(n)), y)
    assert abs(s["coverage_90"].value - 0.9) < 4 * np.sqrt(0.09 / n)
    assert s["ence"].value < 0.01
    assert s["pit_ks"].p > 1e-4


def test_the_plain_reference_of_the_benchmark_finds_the_same_numbers():
    mean, std, y = normal(300)
    s = score(Predictive.normal(mean, std), y)
    names = ["nll", "crps", "rmse"]
    names += [f"{kind}_{q}" for q in (50, 90, 95) for kind in ("coverage", "width")]
    names += ["calibration_error"]
    found = core(mean, std, y)
    np.testing.assert_allclose(found, [s[name].value for name in names], rtol=1e-10)
    rng = np.random.default_rng(0)
    probs, codes = rng.dirichlet(np.ones(3), size=300), rng.integers(0, 3, 300)
    s = score(Predictive.probabilities(probs), codes)
    names = ("nll", "brier", "accuracy", "ece")
    found = class_core(probs, codes)
    np.testing.assert_allclose(found, [s[name].value for name in names], rtol=1e-10)
