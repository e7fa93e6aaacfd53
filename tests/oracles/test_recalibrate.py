"""Recalibration against netcal, uncertainty-toolbox and scikit-learn."""

import numpy as np
import pytest
from scipy import special

from ntkuq.calibration.recalibrate import (
    BetaCalibration,
    IsotonicCalibration,
    IsotonicRecalibration,
    PlattScaling,
    ScaleCalibration,
    TemperatureScaling,
)
from ntkuq.posteriors.predictive import Predictive


RNG = np.random.default_rng(8)


def two(p):
    return Predictive.probabilities(np.stack([1 - p, p], axis=-1))


def binary(n=800):
    x = 2 * RNG.normal(size=n)
    y = (RNG.uniform(size=n) < special.expit(0.5 * x - 0.3)).astype(int)
    return special.expit(x), y


@pytest.fixture(scope="module")
def scaling():
    return pytest.importorskip("netcal.scaling")


def test_temperature_of_netcal(scaling):
    table = 3 * RNG.normal(size=(800, 4))
    p = special.softmax(table, axis=1)
    q = special.softmax(table / 2, axis=1)
    y = (RNG.uniform(size=(800, 1)) > np.cumsum(q, axis=1)).sum(axis=1)
    ours = TemperatureScaling().fit(Predictive.probabilities(p), y)
    theirs = scaling.TemperatureScaling()
    theirs.fit(p, y)
    # it minimizes in float32 until the loss stands still: the root of its rounding
    assert ours.temperature.value == pytest.approx(
        1 / float(np.ravel(theirs._sites["weights"]["values"])[0]), rel=2e-2
    )
    fresh = special.softmax(3 * RNG.normal(size=(50, 4)), axis=1)
    new = ours.predict(Predictive.probabilities(fresh))
    assert np.abs(np.asarray(new.mean) - theirs.transform(fresh)).max() < 5e-3


@pytest.mark.parametrize(
    ("method", "name"),
    [(PlattScaling(), "LogisticCalibration"), (BetaCalibration(), "BetaCalibration")],
)
def test_two_classes_of_netcal(scaling, method, name):
    p, y = binary()
    ours = method.fit(two(p), y)
    theirs = getattr(scaling, name)()
    theirs.fit(p, y)
    fresh = np.linspace(0.02, 0.98, 49)
    q = np.asarray(ours.predict(two(fresh)).mean)[:, 1]
    # as above: float32, stopped where the loss is flat
    assert np.abs(q - np.ravel(theirs.transform(fresh))).max() < 5e-3


def test_smoothed_platt_of_sklearn():
    sigmoid = pytest.importorskip("sklearn.calibration")._SigmoidCalibration
    p, y = binary()
    logit = special.logit(p)
    ours = PlattScaling(smooth_targets=True).fit(two(p), y)
    theirs = sigmoid().fit(logit, y)
    assert ours.slope.value == pytest.approx(-theirs.a_, abs=1e-4)
    assert ours.offset.value == pytest.approx(-theirs.b_, abs=1e-4)


def test_isotonic_of_netcal():
    binning = pytest.importorskip("netcal.binning")
    p, y = binary()
    ours = IsotonicCalibration(pseudocount=0).fit(two(p), y)
    theirs = binning.IsotonicRegression()
    theirs.fit(p, y)
    fresh = np.linspace(0.01, 0.99, 99)
    q = np.asarray(ours.predict(two(fresh)).observed.probs)[:, 1]
    assert np.abs(q - np.ravel(theirs.transform(fresh))).max() < 1e-6


def test_the_map_of_uncertainty_toolbox():
    toolbox = pytest.importorskip("uncertainty_toolbox")
    y = 2 * RNG.normal(size=400) + 0.5
    p = Predictive.normal(np.zeros(400), 1.0)
    curve = IsotonicRecalibration(pieces=400).fit(p, y).curves[0]
    expected, observed = toolbox.get_proportion_lists_vectorized(
        y, np.ones(400), np.zeros(400), prop_type="quantile"
    )  # it counts prediction less outcome, so the two change places
    # theirs takes the wanted level to the one to ask for, the inverse of ours, and is
    # known at the 100 levels asked for, so it lags by less than two of their steps
    model = toolbox.iso_recal(expected, observed)
    wanted = np.linspace(0.25, 0.75, 51)
    ours = np.interp(wanted, curve["value"], curve["level"])
    assert np.abs(ours - model.predict(wanted)).max() < 2 / 99
    exact = np.interp(expected, curve["level"], curve["value"])
    inner = (expected > curve["level"][1]) & (expected < curve["level"][-2])
    assert np.abs(exact - observed)[inner].max() < 1.5 / 400


def test_the_factor_that_uncertainty_toolbox_searches():
    toolbox = pytest.importorskip("uncertainty_toolbox")
    mean, std = RNG.normal(size=3000), RNG.uniform(0.5, 2, size=3000)
    y = mean + 1.7 * std * RNG.normal(size=3000)
    s = ScaleCalibration().fit(Predictive.normal(mean, std), y).factors[0]
    ratio = toolbox.recalibration.optimize_recalibration_ratio(
        mean, std, y, criterion="miscal"
    )
    # another objective for the same number: both within their standard errors, of
    # which theirs is the larger one, by less than a factor 2
    assert s.value == pytest.approx(ratio, abs=3 * 3 * s.se)
