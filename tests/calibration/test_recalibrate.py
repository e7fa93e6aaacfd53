"""Recalibration: exact fits, right standard errors, and what became calibrated."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import integrate, optimize, special, stats

from ntkuq.calibration import score
from ntkuq.calibration.overlap import OverlapWarning, rows, warn_overlap
from ntkuq.calibration.pit import pit_values
from ntkuq.calibration.proper import crps
from ntkuq.calibration.recalibrate import (
    BetaCalibration,
    IsotonicCalibration,
    IsotonicRecalibration,
    PlattScaling,
    Recalibrated,
    ScaleCalibration,
    TemperatureScaling,
    VectorScaling,
)
from ntkuq.posteriors.predictive import Predictive


CLASS_MAPS = [
    TemperatureScaling(),
    VectorScaling(),
    PlattScaling(),
    BetaCalibration(),
    IsotonicCalibration(pseudocount=0),
]

KINDS = ["normal", "mixture", "student", "samples", "quantiles"]

RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def _same_numbers():
    """Every test draws the same numbers, whichever ran before it."""
    global RNG
    RNG = np.random.default_rng(8)


def logits(n, size=4, temperature=2.0):
    """Overconfident logits and classes drawn at the given temperature."""
    table = 3 * RNG.normal(size=(n, size))
    p = special.softmax(table / temperature, axis=1)
    y = (RNG.uniform(size=(n, 1)) > np.cumsum(p, axis=1)).sum(axis=1)
    return table, np.minimum(y, size - 1)


def of_logits(table):
    return Predictive(None, dist.CategoricalLogits(table))


def two(p):
    return Predictive.probabilities(np.stack([1 - p, p], axis=-1))


def binary(n, slope=0.5, offset=-0.3):
    x = 2 * RNG.normal(size=n)
    y = (RNG.uniform(size=n) < special.expit(slope * x + offset)).astype(int)
    return two(special.expit(x)), y, x


def nll(p, y):
    return -float(np.mean(np.asarray(p.log_prob(y), np.float64)))


# --- temperature


def test_temperature_is_the_exact_minimum():
    table, y = logits(300)
    fitted = TemperatureScaling().fit(of_logits(table), y)

    def loss(log_t):
        scaled = special.log_softmax(table / np.exp(log_t), axis=1)
        return -scaled[np.arange(300), y].sum()

    best = optimize.minimize_scalar(loss, bracket=(0, 1), tol=1e-12)
    found = np.log(fitted.temperature.value)
    assert abs(found - best.x) < 1e-7  # a minimum is found to the root of rounding
    slope = (loss(found + 1e-5) - loss(found - 1e-5)) / 2e-5
    assert abs(slope) < 1e-5
    assert fitted.diagnostics.after.value == pytest.approx(loss(found) / 300, rel=1e-12)
    assert fitted.diagnostics.gain.value > 0
    assert not fitted.diagnostics.at_bound


def test_temperature_is_recovered_and_its_interval_is_honest():
    # 150 sets of 200 points: coverage of 95 % intervals within +-4.5 standard
    # deviations of the binomial law, mean log T within 4 of its standard errors plus
    # a bias of order 1/n, spread within 4 of its relative error 1/sqrt(300).
    found, errors, inside = [], [], 0
    for _ in range(150):
        table, y = logits(200, size=3)
        t = TemperatureScaling().fit(of_logits(table), y).temperature
        found.append(np.log(t.value))
        errors.append(t.se / t.value)
        inside += t.interval[0] <= 2.0 <= t.interval[1]
    spread = np.std(found)
    assert abs(np.mean(found) - np.log(2)) < 4 * spread / np.sqrt(150) + 1 / 200
    assert np.mean(errors) == pytest.approx(spread, rel=4 / np.sqrt(300))
    assert abs(inside - 142.5) < 4.5 * np.sqrt(150 * 0.95 * 0.05)


def test_temperature_calibrates_fresh_points_and_keeps_accuracy():
    table, y = logits(20_000)
    fitted = TemperatureScaling().fit(of_logits(table), y)
    t = fitted.temperature
    assert abs(t.value - 2) < 4 * t.se
    fresh, labels = logits(4000)
    new = fitted.predict(of_logits(fresh))
    q = np.asarray(new.mean, np.float64)
    assert (q.argmax(axis=1) == fresh.argmax(axis=1)).all()
    assert misfit(q, labels) > 1e-4 > misfit(special.softmax(fresh, axis=1), labels)


def misfit(q, y):
    """The p-value of calibration in 15 bins of the top label."""
    confidence, right = q.max(axis=1), q.argmax(axis=1) == y
    cell = np.clip((confidence * 15).astype(int), 0, 14)
    gap = np.bincount(cell, right - confidence, minlength=15)
    var = np.bincount(cell, confidence * (1 - confidence), minlength=15)
    used = np.bincount(cell, minlength=15) >= 30
    return stats.chi2.sf((gap[used] ** 2 / var[used]).sum(), used.sum())


def test_logits_and_probabilities_give_the_same_in_either_precision():
    table, y = logits(200)
    exact = TemperatureScaling().fit(of_logits(table), y)
    p = Predictive.probabilities(special.softmax(table, axis=1))
    other = TemperatureScaling().fit(p, y)
    assert other.temperature.value == pytest.approx(exact.temperature.value, rel=1e-9)
    single = of_logits(table.astype(np.float32))
    fitted = TemperatureScaling().fit(single, y)
    assert fitted.temperature.value == pytest.approx(exact.temperature.value, rel=1e-4)
    fresh = fitted.predict(of_logits(logits(5)[0].astype(np.float32)))
    assert fresh.observed.logits.dtype == np.float32
    assert exact.predict(of_logits(logits(5)[0])).observed.logits.dtype == np.float64


def test_positions_of_a_point_count_once():
    table, y = logits(100)
    alone = TemperatureScaling().fit(of_logits(table), y).temperature
    twice = np.repeat(table[:, None], 5, axis=1)
    both = TemperatureScaling().fit(of_logits(twice), np.repeat(y[:, None], 5, axis=1))
    assert both.temperature.value == pytest.approx(alone.value, rel=1e-9)
    assert both.temperature.se == pytest.approx(alone.se, rel=1e-6)
    assert both.temperature.n == 100
    new = both.predict(of_logits(np.repeat(logits(3)[0][:, None], 7, axis=1)))
    assert new.mean.shape == (3, 7, 4)


def test_all_right_stays_finite_and_says_so():
    table, _ = logits(50)
    y = table.argmax(axis=1)
    fitted = TemperatureScaling().fit(of_logits(table), y)
    assert 0.01 < fitted.temperature.value < 100
    assert "(n+1)/(n+2)" in fitted.diagnostics.notes[0]
    # the smoothed targets are met in the mean of the log probabilities
    logs = special.log_softmax(table, axis=1)
    q = special.softmax(logs / fitted.temperature.value, axis=1)
    target = np.full((50, 4), 1 / 52 / 3)
    target[np.arange(50), y] = 51 / 52
    assert (q * logs).sum() == pytest.approx((target * logs).sum(), rel=1e-9)


def test_worse_than_chance_ends_at_the_bound():
    table, _ = logits(200)
    fitted = TemperatureScaling().fit(of_logits(table), table.argmin(axis=1))
    assert fitted.temperature.value == pytest.approx(100)
    assert fitted.temperature.se is None
    assert fitted.diagnostics.at_bound == ("temperature",)


def test_impossible_classes():
    p = np.array([[0.5, 0.5, 0.0], [0.3, 0.3, 0.4]] * 10)
    y = np.array([0, 2, 1, 1] * 5)
    for method in (TemperatureScaling(), VectorScaling()):
        q = np.asarray(
            method.fit(Predictive.probabilities(p), y)
            .predict(Predictive.probabilities(np.array([[0.6, 0.4, 0.0]])))
            .mean
        )
        assert q[0, 2] == 0
        assert np.isfinite(q).all()
        with pytest.raises(ValueError, match="row 1 was given probability 0"):
            method.fit(Predictive.probabilities(p[::-1]), np.array([0, 2] * 10))


# --- a slope and an offset for each class


def test_vector_scaling_is_the_exact_minimum():
    table, y = logits(300, size=3)
    logs = special.log_softmax(table, axis=1)
    fitted = VectorScaling(ridge=2.0).fit(of_logits(table), y)

    def loss(x):
        z = special.log_softmax(logs * x[:3] + x[3:], axis=1)
        away = x - np.r_[np.ones(3), np.zeros(3)]
        return -z[np.arange(300), y].sum() + away @ away

    best = optimize.minimize(loss, np.r_[np.ones(3), np.zeros(3)], tol=1e-10)
    found = np.array([s.value for s in (*fitted.slopes, *fitted.offsets)])
    assert loss(found) <= best.fun + 1e-9
    assert np.abs(found - best.x).max() < 1e-4
    assert abs(found[3:].sum()) < 1e-9
    q = special.softmax(logs * found[:3] + found[3:], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        new = fitted.predict(of_logits(table))
    assert np.abs(np.asarray(new.mean) - q).max() < 1e-6


def test_vector_scaling_recovers_slopes_within_their_errors():
    table, _ = logits(40_000, size=3)
    logs = special.log_softmax(table, axis=1)
    true = np.array([0.5, 0.7, 0.9, 0.4, 0.1, -0.5])
    p = special.softmax(logs * true[:3] + true[3:], axis=1)
    y = (RNG.uniform(size=(len(p), 1)) > np.cumsum(p, axis=1)).sum(axis=1)
    fitted = VectorScaling().fit(of_logits(table), y)
    for s, value in zip((*fitted.slopes, *fitted.offsets), true):
        assert abs(s.value - value) < 4 * s.se
        assert s.se < 0.1


def test_vector_scaling_without_a_class_is_finite():
    table, y = logits(100, size=3)
    y = np.where(y == 2, 0, y)
    fitted = VectorScaling().fit(of_logits(table), y)
    assert all(np.isfinite(s.value) for s in fitted.offsets)
    assert fitted.diagnostics.notes == ("no calibrate point of class 2",)


# --- two classes


def test_platt_is_logistic_regression():
    linear = pytest.importorskip("sklearn.linear_model")
    p, y, x = binary(400)
    fitted = PlattScaling().fit(p, y)
    model = linear.LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], y)
    assert fitted.slope.value == pytest.approx(model.coef_[0, 0], abs=1e-5)
    assert fitted.offset.value == pytest.approx(model.intercept_[0], abs=1e-5)
    z = fitted.slope.value * x + fitted.offset.value
    gap = special.expit(z) - y
    assert abs(gap.sum()) < 1e-8
    assert abs(gap @ x) < 1e-8
    # where the map is right the curvature alone gives the standard error
    w = special.expit(z) * special.expit(-z)
    design = np.c_[x, np.ones(400)]
    se = np.sqrt(np.diag(np.linalg.inv((design * w[:, None]).T @ design)))
    assert [fitted.slope.se, fitted.offset.se] == pytest.approx(list(se), rel=0.15)


def test_platt_with_smoothed_targets():
    p, y, x = binary(60)
    fitted = PlattScaling(smooth_targets=True).fit(p, y)
    ups = y.sum()
    t = np.where(y == 1, (ups + 1) / (ups + 2), 1 / (60 - ups + 2))
    gap = special.expit(fitted.slope.value * x + fitted.offset.value) - t
    assert abs(gap.sum()) < 1e-8
    assert abs(gap @ x) < 1e-8


def test_beta_is_the_exact_minimum_under_its_bounds():
    for slope, offset in ((0.5, -0.3), (1.5, 1.0), (0.05, 0.0)):
        p, y, x = binary(300, slope, offset)
        fitted = BetaCalibration().fit(p, y)
        # an asymmetric set, so that a bound is met for the flat one
        design = np.c_[special.log_expit(x), -special.log_expit(-x), np.ones(300)]

        def loss(theta, design=design, y=y):
            z = design @ theta
            return (np.logaddexp(0, z) - y * z).sum()

        best = optimize.minimize(
            loss,
            [1.0, 1.0, 0.0],
            method="L-BFGS-B",
            bounds=[(0, 100), (0, 100), (None, None)],
            options={"ftol": 1e-15, "gtol": 1e-9},
        )
        found = np.array([fitted.a.value, fitted.b.value, fitted.c.value])
        assert loss(found) <= best.fun + 1e-7
        assert (found[:2] >= 0).all()


def test_binary_maps_calibrate_fresh_points():
    p, y, _ = binary(20_000, slope=0.4, offset=0.8)
    fresh, labels, _ = binary(4000, slope=0.4, offset=0.8)
    assert misfit(np.asarray(fresh.mean), labels) < 1e-4
    for method in (PlattScaling(), BetaCalibration(), IsotonicCalibration()):
        q = np.asarray(method.fit(p, y).predict(fresh).mean, np.float64)
        assert misfit(q, labels) > 1e-4, method


@pytest.mark.parametrize("method", [PlattScaling(), BetaCalibration()])
def test_separated_classes_stay_finite(method):
    x = np.r_[-np.linspace(1, 4, 20), np.linspace(1, 4, 15)]
    p, y = two(special.expit(x)), (x > 0).astype(int)
    fitted = method.fit(p, y)
    assert "separates" in fitted.diagnostics.notes[0]
    q = np.asarray(fitted.predict(two(special.expit(x + 0.01))).mean)
    assert ((q > 1e-9) & (q < 1)).all()
    ups = (q[:, 1] * 1.0).sum()
    assert ups == pytest.approx(15 * 16 / 17 + 20 / 22, abs=0.3)


@pytest.mark.parametrize("method", [PlattScaling(), BetaCalibration()])
def test_sure_rows(method):
    p = np.r_[np.linspace(0.05, 0.95, 18), 0.0, 1.0]
    y = np.r_[np.tile([0, 1, 0, 1, 1, 0], 3), 0, 1]
    fitted = method.fit(two(p), y)
    plain = method.fit(two(p[:-2]), y[:-2])
    first = dataclasses.fields(fitted)[0].name
    assert getattr(fitted, first).value == pytest.approx(
        getattr(plain, first).value, abs=1e-9
    )
    q = np.asarray(fitted.predict(two(np.array([0.0, 0.3, 1.0]))).mean)
    assert q[0, 1] == 0
    assert q[2, 0] == 0
    assert np.isfinite(q).all()
    y[-1] = 0
    with pytest.raises(ValueError, match="row 19 was given probability 0"):
        method.fit(two(p), y)


# --- isotonic


def test_isotonic_equals_sklearn():
    isotonic = pytest.importorskip("sklearn.isotonic")
    _, y, x = binary(300)
    x = np.round(special.expit(x), 2)  # with ties
    fitted = IsotonicCalibration(pseudocount=0).fit(two(x), y)
    other = isotonic.IsotonicRegression(out_of_bounds="clip").fit(x, y)
    new = np.linspace(0, 1, 999)
    q = np.asarray(fitted.predict(two(new)).observed.probs)[:, 1]
    assert np.abs(q - other.predict(new)).max() < 1e-12
    kept = IsotonicCalibration().fit(two(x), y).curves[0]["value"]
    assert kept.min() >= 1 / 302
    assert kept.max() <= 301 / 302


def test_isotonic_of_three_classes():
    table, y = logits(400, size=3)
    p = Predictive.probabilities(special.softmax(table, axis=1))
    fitted = IsotonicCalibration(pseudocount=0).fit(p, y)
    new = special.softmax(logits(50, size=3)[0], axis=1)
    q = np.asarray(fitted.predict(Predictive.probabilities(new)).observed.probs)
    assert np.abs(q.sum(axis=1) - 1).max() < 1e-12
    assert ((q >= 0) & (q <= 1)).all()


def test_isotonic_keeps_rows_that_all_maps_send_to_zero():
    # each class is right only when it has 0.9
    p = np.concatenate([np.roll([[0.9, 0.06, 0.04]], k, axis=1) for k in range(3)])
    p = np.repeat(p, 5, axis=0)
    fitted = IsotonicCalibration(pseudocount=0).fit(
        Predictive.probabilities(p), np.repeat([0, 1, 2], 5)
    )
    low = dict(fitted.curves[0])
    assert low["value"][0] == 0
    third = [1 / 3] * 3
    even = Predictive.probabilities(np.array([[0.05, 0.05, 0.9], third]))
    q = np.asarray(fitted.predict(even).observed.probs)
    assert q[0].tolist() == [0, 0, 1]
    assert q[1] == pytest.approx(third)


# --- what holds for all maps of classes


@pytest.mark.parametrize("method", CLASS_MAPS, ids=lambda m: type(m).__name__)
def test_the_likelihood_of_the_calibrate_part_never_rises(method):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=40) * rng.uniform(0.2, 4)
        p = two(special.expit(x))
        y = (rng.uniform(size=40) < special.expit(rng.normal() * x)).astype(int)
        if y.min() == y.max():
            continue
        fitted = method.fit(p, y)
        d = fitted.diagnostics
        if not d.notes:
            assert d.after.value <= d.before.value + 1e-12
        assert d.before.value == pytest.approx(nll(p, y), rel=1e-5)
        with pytest.warns(OverlapWarning, match="40 of these 40 points"):
            again = fitted.predict(p)
        assert nll(again, y) == pytest.approx(d.after.value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", CLASS_MAPS, ids=lambda m: type(m).__name__)
def test_round_trip_through_score_and_immutability(method):
    p, y, _ = binary(200)
    before = rows(p).copy()
    fitted = method.fit(p, y)
    fresh, labels, _ = binary(100)
    s = score(fitted.predict(fresh), labels)
    assert np.isfinite(s["brier"].value)
    assert (rows(p) == before).all()
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.diagnostics = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.anything = 1
    with pytest.raises(ValueError, match=r"expected the classes .* got \(3,\)"):
        fitted.predict(of_logits(np.zeros((4, 3))))
    with pytest.raises(TypeError, match="expected predictions of classes"):
        fitted.predict(Predictive.normal(np.zeros(3), 1.0))
    with pytest.raises(ValueError, match="expected n >= "):
        method.fit(two(np.full(4, 0.5)), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize("method", CLASS_MAPS[2:], ids=lambda m: type(m).__name__)
def test_one_class_is_refused(method):
    with pytest.raises(ValueError, match="only class 1"):
        method.fit(two(np.linspace(0.1, 0.9, 20)), np.ones(20, int))


def test_three_classes_need_another_map():
    with pytest.raises(ValueError, match="expected two classes, got 3"):
        PlattScaling().fit(of_logits(np.zeros((20, 3))), np.arange(20) % 3)


def test_bad_probabilities_are_named():
    p = jax.tree.map(lambda a: a * np.nan, of_logits(np.zeros((20, 2))))
    with pytest.raises(ValueError, match="row 0"):
        TemperatureScaling().fit(p, np.zeros(20, int))


# --- one factor on the standard deviation


def test_scale_of_a_normal_in_closed_form():
    mean, std = RNG.normal(size=500), RNG.uniform(0.5, 2, size=500)
    y = mean + 1.7 * std * RNG.normal(size=500)
    fitted = ScaleCalibration().fit(Predictive.normal(mean, std), y)
    (s,) = fitted.factors
    z = (y - mean) / std
    assert s.value == pytest.approx(np.sqrt(np.mean(z**2)), rel=1e-12)
    assert s.se == pytest.approx(np.std(z**2) / (2 * s.value * np.sqrt(500)), rel=1e-4)
    assert abs(s.value - 1.7) < 4 * s.se
    d = fitted.diagnostics
    assert d.gain.value == pytest.approx((s.value**2 - 1) / 2 - np.log(s.value))
    new = fitted.predict(Predictive.normal(mean + 1, std))
    assert np.asarray(new.observed.scale) == pytest.approx(s.value * std)
    assert np.asarray(new.mean) == pytest.approx(mean + 1, rel=1e-6)


def mixture(mean, std):
    loc = mean[..., None] + std[..., None] * np.array([-1.0, 0.5])
    scale = std[..., None] * np.array([0.5, 1.0])
    return Predictive(
        None,
        dist.MixtureSameFamily(
            dist.Categorical(probs=np.array([0.3, 0.7])), dist.Normal(loc, scale)
        ),
    )


def kinds(mean, std):
    z = stats.norm.ppf((np.arange(20) + 0.5) / 20).reshape(-1, *(1,) * mean.ndim)
    levels = np.arange(1, 20) / 20
    at = stats.norm.ppf(levels).reshape(-1, *(1,) * mean.ndim)
    return {
        "normal": Predictive.normal(mean, std),
        "mixture": mixture(mean, std),
        "student": Predictive(None, dist.StudentT(5.0, mean, std)),
        "samples": Predictive.samples(mean + std * z),
        "quantiles": Predictive.quantiles(levels, mean + std * at),
    }


@pytest.mark.parametrize("kind", ["mixture", "student", "samples", "quantiles"])
def test_scale_is_the_least_loss(kind):
    with jax.enable_x64(True):
        mean, std = RNG.normal(size=150), RNG.uniform(0.5, 2, size=150)
        y = mean + 1.7 * std * RNG.normal(size=150)
        p = kinds(mean, std)[kind]
        fitted = ScaleCalibration().fit(p, y)
        (s,) = fitted.factors
        middle = np.asarray(p.quantile(0.5) if kind == "quantiles" else p.mean)

        def loss(log_s):
            at = middle + (y - middle) / np.exp(log_s)
            if kind in ("mixture", "student"):
                return float(log_s - np.asarray(p.log_prob(at)).mean())
            return float(np.exp(log_s) * crps(p.observed, at).mean())

        best = optimize.minimize_scalar(
            loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-9}
        )
        assert loss(np.log(s.value)) <= best.fun + 1e-9
        assert s.value == pytest.approx(np.exp(best.x), rel=1e-3)
        assert s.se > 0
        d = fitted.diagnostics
        assert d.objective == ("nll" if kind in ("mixture", "student") else "crps")
        assert d.after.value == pytest.approx(loss(np.log(s.value)), abs=1e-9)
        assert d.after.value <= d.before.value
        # the stretched predictions have that loss, too
        with pytest.warns(OverlapWarning):
            new = fitted.predict(p)
        value = np.mean(crps(new.observed, y)) if d.objective == "crps" else nll(new, y)
        assert value == pytest.approx(d.after.value, abs=1e-6)


def test_scale_intervals_are_honest():
    # 200 sets of 100 points; Student's tails make the curvature alone too small
    inside, found, errors = 0, [], []
    for _ in range(200):
        z = RNG.standard_t(8, size=100)
        (s,) = ScaleCalibration().fit(Predictive.normal(np.zeros(100), 1.0), z).factors
        found.append(np.log(s.value))
        errors.append(s.se / s.value)
        inside += s.interval[0] <= np.sqrt(8 / 6) <= s.interval[1]
    # too few by the bias of order 1/n: 90 % at n = 100 allowed
    assert inside > 200 * 0.90 - 4 * np.sqrt(200 * 0.9 * 0.1)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_each_output_has_its_own_factor(kind):
    mean, std = RNG.normal(size=(120, 2)), RNG.uniform(0.5, 2, size=(120, 2))
    y = mean + np.array([0.5, 3.0]) * std * RNG.normal(size=(120, 2))
    both = ScaleCalibration().fit(kinds(mean, std)[kind], y)
    for c in range(2):
        alone = ScaleCalibration().fit(kinds(mean[:, c], std[:, c])[kind], y[:, c])
        assert both.factors[c].value == pytest.approx(alone.factors[0].value, rel=1e-6)
    new = both.predict(kinds(mean + 1, std)[kind])
    assert new.observed.batch_shape == (120, 2)
    assert np.isfinite(np.asarray(new.mean)).all()


def test_scale_stretches_both_variances_and_the_function():
    mean, ones = np.zeros(50, np.float32), np.ones(50, np.float32)
    p = Predictive(
        dist.Normal(mean, ones / 2), dist.Normal(mean, ones), ones / 4, 3 * ones / 4
    )
    y = 2 * RNG.normal(size=50)
    fitted = ScaleCalibration().fit(p, y)
    s = fitted.factors[0].value
    new = fitted.predict(p)  # constant predictions are no overlap
    assert new.epistemic == pytest.approx(s**2 / 4 * ones, rel=1e-5)
    assert new.aleatoric == pytest.approx(s**2 * 3 / 4 * ones, rel=1e-5)
    assert new.latent.scale == pytest.approx(s / 2 * ones, rel=1e-5)
    assert new.observed.scale.dtype == np.float32


def test_scale_of_a_calibrated_model_stays_one():
    y = RNG.normal(size=5000)
    (s,) = ScaleCalibration().fit(Predictive.normal(np.zeros(5000), 1.0), y).factors
    assert abs(s.value - 1) < 4 * s.se
    t = TemperatureScaling().fit(*_calibrated()).temperature
    assert abs(t.value - 1) < 4 * t.se


def _calibrated():
    table, y = logits(5000, temperature=1.0)
    return of_logits(table), y


def test_scale_refuses_what_it_cannot_do():
    zeros = np.zeros(30)
    with pytest.raises(TypeError, match="Poisson"):
        ScaleCalibration().fit(Predictive(None, dist.Poisson(np.ones(30))), zeros)
    with pytest.raises(ValueError, match="best factor is 0"):
        ScaleCalibration().fit(Predictive.normal(zeros, 1.0), zeros)
    y = np.r_[0.0, 1.0, np.nan, zeros[:27]]
    with pytest.raises(ValueError, match="non-finite one at row 2"):
        ScaleCalibration().fit(Predictive.normal(zeros, 1.0), y)
    table = Predictive.quantiles(np.array([0.7, 0.9]), np.array([zeros, zeros + 1]))
    with pytest.raises(ValueError, match="around the median"):
        ScaleCalibration().fit(table, zeros + 0.5)
    with pytest.raises(ValueError, match="at least 10 samples"):
        ScaleCalibration().fit(Predictive.samples(RNG.normal(size=(5, 30))), zeros)
    with pytest.raises(TypeError, match="expected predictions on a scale"):
        ScaleCalibration().fit(two(np.full(30, 0.5)), np.zeros(30, int))


# --- the map of predicted probabilities


LEVELS = np.array([0.0, 0.1, 0.35, 0.8, 1.0])
VALUES = np.array([0.0, 0.3, 0.4, 0.7, 1.0])


def laws():
    one = np.ones(1)
    return {
        "normal": (dist.Normal(0.7 * one, 1.3 * one), stats.norm(0.7, 1.3).ppf),
        "mixture": (mixture(one, 2 * one).observed, None),
        "laplace": (dist.Laplace(0.2 * one, one), stats.laplace(0.2).ppf),
        "student": (dist.StudentT(5.0, one, one), stats.t(5, 1).ppf),
    }


@pytest.mark.parametrize(
    "name",
    ["normal", "mixture", "laplace", pytest.param("student", marks=pytest.mark.long)],
)
def test_recalibrated_law_is_one(name):
    with jax.enable_x64(True):
        base, ppf = laws()[name]
        law = Recalibrated(base, LEVELS, VALUES)
        q = np.linspace(0.001, 0.999, 20)[:, None]
        x = np.asarray(law.icdf(q))
        assert np.asarray(law.cdf(x)) == pytest.approx(q, abs=1e-9)
        # density: the slope of the distribution function, away from the jumps
        slope = (np.asarray(law.cdf(x + 1e-6)) - np.asarray(law.cdf(x - 1e-6))) / 2e-6
        assert np.exp(np.asarray(law.log_prob(x))) == pytest.approx(slope, rel=1e-5)
        mean, variance = float(law.mean[0]), float(law.variance[0])
        if ppf is None:
            # integrals of the distribution function by the trapezoid rule
            at = np.linspace(-40, 40, 100_001)
            f = np.asarray(law.cdf(at))
            first = 40 - np.trapezoid(f, at)
            second = 1600 - 2 * np.trapezoid(at * f, at)
            assert mean == pytest.approx(first, abs=1e-5)
            assert variance == pytest.approx(second - first**2, rel=1e-5)
            return
        assert x == pytest.approx(ppf(np.interp(q, VALUES, LEVELS)), abs=1e-9)
        # equally spaced quantiles leave out what lies beyond 1/200 000 at two ends
        values = ppf(np.interp((np.arange(100_000) + 0.5) / 100_000, VALUES, LEVELS))
        assert mean == pytest.approx(values.mean(), abs=3e-4)
        assert variance == pytest.approx(values.var(), rel=5e-3)


def test_moments_of_a_recalibrated_normal_are_exact():
    with jax.enable_x64(True):
        law = Recalibrated(dist.Normal(np.ones(1), np.full(1, 2.0)), LEVELS, VALUES)
        knots = 1 + 2 * stats.norm.ppf(LEVELS[1:-1])
        slopes = np.diff(VALUES) / np.diff(LEVELS)

        def moment(power):
            ends = [-np.inf, *knots, np.inf]
            return sum(
                r
                * integrate.quad(
                    lambda x: x**power * stats.norm.pdf(x, 1, 2), a, b, epsabs=1e-13
                )[0]
                for r, a, b in zip(slopes, ends[:-1], ends[1:])
            )

        mean = moment(1)
        assert moment(0) == pytest.approx(1, abs=1e-10)
        assert float(law.mean[0]) == pytest.approx(mean, abs=1e-10)
        assert float(law.variance[0]) == pytest.approx(moment(2) - mean**2, abs=1e-9)


def test_recalibrated_counts():
    with jax.enable_x64(True):
        law = Recalibrated(dist.Poisson(np.array([0.5, 4.0])), LEVELS, VALUES)
        k = np.arange(80.0)[:, None]
        mass = np.exp(np.asarray(law.log_prob(k)))
        assert mass.sum(axis=0) == pytest.approx(np.ones(2), abs=1e-9)
        assert np.cumsum(mass, axis=0) == pytest.approx(np.asarray(law.cdf(k)))
        assert np.asarray(law.mean) == pytest.approx((k * mass).sum(axis=0), rel=1e-9)


def test_draws_follow_the_law_and_everything_compiles(getkey):
    law = Recalibrated(dist.Normal(jnp.zeros(3), 1.0), LEVELS, VALUES)
    draws = jax.jit(lambda d, key: d.sample(key, (2000,)))(law, getkey())
    assert draws.shape == (2000, 3)
    d = stats.kstest(np.asarray(law.cdf(draws)).ravel(), "uniform")
    assert d.pvalue > 1e-4
    p = Predictive(None, law)
    inside = jax.jit(lambda p, y: (p.log_prob(y), p.cdf(y), p.quantile(0.3), p.mean))
    y = np.ones(3, np.float32)
    outside = law.log_prob(y), law.cdf(y), law.icdf(0.3), law.mean
    for a, b in zip(inside(p, y), outside):
        assert np.asarray(a) == pytest.approx(np.asarray(b), rel=1e-5)
    each = jax.vmap(lambda d, y: d.log_prob(y), in_axes=(0, None))
    many = jax.tree.map(lambda a: jnp.stack([a, a]), law)
    assert each(many, jnp.ones(3)).shape == (2, 3)
    assert Recalibrated(dist.Normal(0.0, 1.0), LEVELS, VALUES).support is not None


def test_recalibrated_refuses_maps_that_do_not_rise():
    base = dist.Normal(0.0, 1.0)
    with pytest.raises(ValueError, match="expected values that rise"):
        Recalibrated(base, LEVELS, np.array([0.0, 0.3, 0.3, 0.7, 1.0]))
    with pytest.raises(ValueError, match="expected levels that rise"):
        Recalibrated(base, LEVELS / 2, VALUES)
    with pytest.raises(ValueError, match="like the levels"):
        Recalibrated(base, LEVELS, VALUES[1:])


def skewed(n):
    """Wrong predictions: normal ones for exponential observations."""
    mean = RNG.uniform(1, 3, size=n)
    return mean, mean * RNG.exponential(size=n)


@pytest.mark.parametrize("kind", ["normal", "mixture", "samples", "quantiles"])
def test_recalibrated_predictions_are_calibrated_on_fresh_points(kind):
    n, m = 8000, 500
    mean, y = skewed(n)
    fitted = IsotonicRecalibration().fit(kinds(mean, mean)[kind], y)
    mean, fresh = skewed(m)
    old = kinds(mean, mean)[kind]
    new = fitted.predict(old)
    # Kolmogorov's limit at p = 1e-4 for two samples; between its 40 points, or the 20
    # values of a table, the map is a line, which adds less than half their distance
    limit = special.kolmogi(1e-4) * np.sqrt(1 / n + 1 / m)
    limit += {"samples": 1 / 40, "quantiles": 1 / 40}.get(kind, 1 / 80)
    before, after = (distance(p, fresh) for p in (old, new))
    assert before > limit > after
    if kind in ("normal", "mixture"):
        assert nll(new, fresh) < nll(old, fresh)
    d = fitted.diagnostics
    assert d.after.value <= d.before.value
    assert d.objective == ("nll" if kind in ("normal", "mixture") else "crps")


def distance(p, y):
    """Kolmogorov's distance of the transform from uniform."""
    with jax.enable_x64(True):
        pit = pit_values(p, y)
    return stats.kstest(pit, "uniform").statistic


def test_the_map_is_the_law_of_the_transform():
    y = RNG.normal(size=200) * 2
    p = Predictive.normal(np.zeros(200), 1.0)
    curve = IsotonicRecalibration(pieces=200).fit(p, y).curves[0]
    pit = stats.norm.cdf(y)
    share = (pit <= curve["level"][:, None]).mean(axis=1)
    assert curve["value"] == pytest.approx(share, abs=1e-12)
    assert (np.diff(curve["level"]) > 0).all()
    assert (np.diff(curve["value"]) > 0).all()
    assert not curve["value"].flags.writeable
    coarse = IsotonicRecalibration().fit(p, y).curves[0]
    assert coarse["value"].size == round(2 * 200 ** (1 / 3)) + 1


def test_pit_map_never_raises_the_likelihood_and_leaves_calibrated_ones():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        y = rng.uniform(0.3, 2) * rng.standard_t(5, size=60) + rng.normal()
        p = Predictive.normal(np.zeros(60), 1.0)
        d = IsotonicRecalibration().fit(p, y).diagnostics
        assert d.after.value <= d.before.value + 1e-12
    y = RNG.normal(size=4000)
    curve = IsotonicRecalibration().fit(Predictive.normal(np.zeros(4000), 1.0), y)
    (curve,) = curve.curves
    gap = np.abs(curve["value"] - curve["level"])[1:-1]
    assert (gap < 4.5 * curve["se"][1:-1]).all()


def test_pit_map_of_several_outputs_and_of_ties():
    mean = RNG.normal(size=(300, 2))
    y = mean + np.array([0.5, 2.0]) * RNG.normal(size=(300, 2))
    y[:80, 1] = mean[:80, 1]  # a tie makes fewer pieces of the second output
    p = Predictive.normal(mean, np.ones_like(mean))
    both = IsotonicRecalibration().fit(p, y)
    assert both.diagnostics.notes[0].startswith("ties left")
    fresh = RNG.normal(size=(40, 2))
    new = both.predict(Predictive.normal(fresh, np.ones_like(fresh)))
    at = fresh + 0.3
    pit = stats.norm.cdf(y - mean)
    for c, curve in enumerate(both.curves):
        share = (pit[:, c] <= curve["level"][:, None]).mean(axis=1)
        assert curve["value"] == pytest.approx(share, abs=1e-12)
        # float32 here
        level = np.interp(stats.norm.cdf(0.3), curve["level"], curve["value"])
        assert np.asarray(new.cdf(at))[:, c] == pytest.approx(level, abs=1e-5)
        back = stats.norm.ppf(np.interp(0.2, curve["value"], curve["level"]))
        q = np.asarray(new.quantile(0.2))[:, c]
        assert q == pytest.approx(fresh[:, c] + back, abs=1e-4)
    s = score(new, at, levels=(0.9,))
    assert np.isfinite(s["nll"].value)
    assert np.isfinite(s["crps"].value)
    assert not {"rmse", "pit_ks"} & set(s.omitted)


def counts(n):
    rate = RNG.uniform(1, 6, size=n)
    y = RNG.negative_binomial(2, 2 / (2 + rate)).astype(float)
    return Predictive(None, dist.Poisson(rate)), y


@pytest.mark.long
def test_quantiles_of_recalibrated_counts():
    with jax.enable_x64(True):
        law = Recalibrated(dist.Poisson(np.array([0.5, 4.0])), LEVELS, VALUES)
        q = np.linspace(0.01, 0.99, 37)[:, None]
        x = np.asarray(law.icdf(q))
        assert (np.asarray(law.cdf(x)) >= q).all()
        assert ((np.asarray(law.cdf(x - 1)) < q) | (x == 0)).all()


@pytest.mark.long
def test_pit_map_of_counts_passes_through_score():
    fitted = IsotonicRecalibration().fit(*counts(2000))
    old, fresh = counts(600)
    new = fitted.predict(old)
    before, after = score(old, fresh, levels=()), score(new, fresh, levels=())
    assert after["nll"].value < before["nll"].value
    assert np.isfinite(after["crps"].value)
    limit = special.kolmogi(1e-4) * np.sqrt(1 / 2000 + 1 / 600) + 1 / 50
    assert before["pit_ks"].value > limit > after["pit_ks"].value


def test_far_too_narrow_predictions_need_a_scale_first():
    y = RNG.normal(size=200)
    p = Predictive.normal(np.zeros(200), 1e-3)
    with pytest.raises(ValueError, match="use ScaleCalibration first"):
        IsotonicRecalibration().fit(p, y)
    wide = ScaleCalibration().fit(p, y).predict(p)
    IsotonicRecalibration().fit(wide, y)
    with pytest.raises(ValueError, match="pieces >= 2"):
        IsotonicRecalibration(pieces=1)


def test_single_precision_keeps_its_type():
    y = RNG.normal(size=3000)
    p = Predictive.normal(np.zeros(3000, np.float32), np.float32(0.4))
    fitted = IsotonicRecalibration().fit(p, y)
    new = fitted.predict(Predictive.normal(np.zeros(2, np.float32), np.float32(0.4)))
    assert new.observed.levels.dtype == np.float32
    assert new.mean.dtype == np.float32
    assert np.isfinite(np.asarray(new.log_prob(np.array([5.0, -5.0])))).all()


# --- points seen before


def test_overlap_is_told_where_there_is_one():
    mean = RNG.normal(size=300)
    y = mean + RNG.normal(size=300)
    fitted = ScaleCalibration().fit(Predictive.normal(mean, 1.0), y)
    other = RNG.normal(size=300)
    fitted.predict(Predictive.normal(other, 1.0))
    fitted.predict(Predictive.normal(mean, 1.5))
    with pytest.warns(OverlapWarning, match="ScaleCalibration: 3 of these 303") as seen:
        fitted.predict(Predictive.normal(np.r_[other, mean[:3]], 1.0))
    assert "ntkuq/calibration" not in seen[0].filename


def test_overlap_raises_no_false_alarm():
    constant = rows(Predictive.normal(np.zeros(50), 1.0))
    warn_overlap(constant, constant, "x")
    warn_overlap(constant, constant[:1], "x")
    for seed in range(30):
        # whole numbers: many rows are equal within either part, too
        rng = np.random.default_rng(seed)
        a, b = (rng.integers(0, 1500, size=k).astype(float) for k in (1000, 400))
        p, q = Predictive.normal(a, 1.0), Predictive.normal(b, 1.0)
        warn_overlap(rows(p), rows(q), "x")
        a, b = (rng.normal(size=2000).astype(np.float32) for _ in range(2))
        one = np.float32(1.0)
        warn_overlap(
            rows(Predictive.normal(a, one)), rows(Predictive.normal(b, one)), "x"
        )
    saturated = np.array([[1.0, 0.0]] * 20 + [[0.4, 0.6]])
    warn_overlap(
        rows(Predictive.probabilities(saturated)),
        rows(Predictive.probabilities(saturated[:20])),
        "x",
    )


def test_rows_see_every_parameter_and_nothing_else():
    mean, std = RNG.normal(size=(30, 2)), RNG.uniform(0.5, 2, size=(30, 2))
    for name, p in kinds(mean, std).items():
        digests = rows(p)
        assert digests.shape == (30,)
        assert len(set(digests)) == 30, name
        assert (digests == rows(kinds(mean, std)[name])).all()
        moved = std.copy()
        moved[7, 1] *= 1.01
        changed = rows(kinds(mean, moved)[name]) != digests
        assert changed.nonzero()[0].tolist() == [7], name
    law = Recalibrated(dist.Normal(mean, std), LEVELS, VALUES)
    assert len(set(rows(Predictive(None, law)))) == 30
    double = rows(Predictive.normal(np.array([0.5, 1.0]), 1.0))
    single = rows(Predictive.normal(np.array([0.5, 1.0], np.float32), np.float32(1)))
    assert (double == single).all()
    assert rows(Predictive.normal(np.array([-0.0]), 1.0)) == rows(
        Predictive.normal(np.array([0.0]), 1.0)
    )
