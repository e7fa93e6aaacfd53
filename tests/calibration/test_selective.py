"""Selective prediction: areas against brute force, errors against simulation."""

import itertools
import json

import jax
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats
from sklearn.metrics import roc_auc_score

from ntkuq.calibration.areas import (
    area_under_risk,
    influence_of_generalized,
    influence_of_risk,
    ordered,
)
from ntkuq.calibration.pairs import paired
from ntkuq.calibration.risk_curve import risk_curve
from ntkuq.calibration.selective import area_interval, risk_areas, selective
from ntkuq.calibration.uncertainty import (
    Entropy,
    Epistemic,
    MaxProbability,
    MutualInformation,
    TotalVariance,
)
from ntkuq.posteriors.predictive import Predictive


def by_hand(losses):
    """AURC and AUGRC of losses in this order, by their definitions."""
    n, risks, shares = len(losses), [], [0.0]
    for i in range(1, n + 1):
        risks.append(sum(losses[:i]) / i)
        shares.append(sum(losses[:i]) / n)
    area = sum((a + b) / 2 / n for a, b in itertools.pairwise(shares))
    return sum(risks) / n, area


def test_areas_without_ties_are_the_definitions():
    rng = np.random.default_rng(0)
    values, losses = rng.normal(size=30), rng.exponential(size=30)
    expected = by_hand(losses[np.argsort(values)])
    np.testing.assert_allclose(area_under_risk(ordered(values, losses)), expected)


def test_ties_are_means_over_all_orders():
    values = np.array([0.0, 1.0, 1.0, 1.0, 2.0, 2.0])
    losses = np.array([0.0, 1.0, 0.0, 2.0, 3.0, 1.0])
    orders = [
        by_hand(losses[[0, *middle, *last]])
        for middle in itertools.permutations([1, 2, 3])
        for last in itertools.permutations([4, 5])
    ]
    got = area_under_risk(ordered(values, losses))
    np.testing.assert_allclose(got, np.mean(orders, axis=0), rtol=1e-13)


def test_augrc_is_the_closed_form_of_auroc_and_accuracy():
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(4), 300).round(1)  # many ties
    probs[:, 0] = 1 - probs[:, 1:].sum(axis=1)
    probs = np.clip(probs, 0, 1) / np.clip(probs, 0, 1).sum(axis=1, keepdims=True)
    y = rng.integers(0, 4, 300)
    s = selective(Predictive.probabilities(probs), y)
    right = probs.argmax(axis=1) == y
    a = right.mean()
    area = roc_auc_score(~right, 1 - probs.max(axis=1))
    closed = (1 - area) * a * (1 - a) + (1 - a) ** 2 / 2
    assert s.augrc.value == pytest.approx(closed, rel=1e-12)
    assert s.risk.value == pytest.approx(1 - a)
    assert s.uncertainty == "1 - max probability"
    assert s.loss == "0/1 loss"


def test_excess_is_zero_for_the_order_of_the_losses():
    rng = np.random.default_rng(2)
    y = rng.normal(size=50)
    p = Predictive.normal(np.zeros(50), np.ones(50))
    s = selective(p, y, uncertainty=np.abs(y))
    assert s.excess_aurc.value == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(s.pointwise["excess_aurc"], 0, atol=1e-12)
    other = selective(p, y)  # one std for all: the risk is flat
    np.testing.assert_allclose(other.curve["risk"], np.mean(y**2))
    assert other.aurc.value == pytest.approx(np.mean(y**2))
    assert other.excess_aurc.value == pytest.approx(other.aurc.value - s.aurc.value)


@pytest.mark.parametrize("influence", [influence_of_risk, influence_of_generalized])
def test_the_influence_is_the_derivative(influence):
    """Against repeating every point many times and one of them once more."""
    rng = np.random.default_rng(3)
    values, losses = rng.integers(0, 6, 25).astype(float), rng.exponential(size=25)
    change = influence(ordered(values, losses))
    assert change.mean() == pytest.approx(0, abs=1e-14)
    which = 0 if influence is influence_of_risk else 1
    many = 2000
    for row in (0, 7, 24):
        areas = []
        for more in (-100, 100):
            often = np.full(25, many)
            often[row] += more
            repeated = ordered(np.repeat(values, often), np.repeat(losses, often))
            areas.append(area_under_risk(repeated)[which])
        slope = (areas[1] - areas[0]) / (200 / (25 * many))
        # Central differences err by (100 / 50 000)^2, the sum for the integral by 1/n.
        assert slope == pytest.approx(change[row], rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("loss", ["0/1 loss", "squared error"])
def test_standard_errors_and_intervals_by_simulation(loss):
    rng = np.random.default_rng(4)

    def draw(n):
        value = rng.uniform(0.5, 1, n)
        if loss == "0/1 loss":
            return 1 - value, (rng.uniform(size=n) > value).astype(float)
        return value, (value * rng.normal(size=n)) ** 2

    truth = {name: area[0] for name, area in risk_areas(*draw(400_000)).items()}
    runs, n = 400, 300
    found = []
    for _ in range(runs):
        values, losses = draw(n)
        areas = risk_areas(values, losses)
        found.append({k: area_interval(*a, losses, loss) for k, a in areas.items()})
    for name, value in truth.items():
        scores = [areas[name] for areas in found]
        spread = np.std([s.value for s in scores], ddof=1)
        # Four standard errors of an estimated standard deviation: 1 / sqrt(2 runs),
        # times 1.2 for the skewness of the numbers.
        limit = 4 * 1.2 / np.sqrt(2 * runs)
        assert np.mean([s.se for s in scores]) == pytest.approx(spread, rel=limit)
        hits = sum(s.interval[0] <= value <= s.interval[1] for s in scores)
        # 92 % is allowed for the limits of few points, four binomial errors for luck.
        assert hits >= stats.binom.ppf(3e-5, runs, 0.92)


@pytest.mark.parametrize("n", [150, 2500])
def test_the_band_of_the_curve_by_simulation(n):
    rng = np.random.default_rng(7)
    runs = 40

    def draw(n):
        confidence = rng.uniform(0.5, 1, n)
        return 1 - confidence, (rng.uniform(size=n) > confidence).astype(float)

    curves = [risk_curve(*draw(n)) for _ in range(runs)]
    at = np.searchsorted(curves[0]["coverage"], 0.5)
    assert len(curves[0]["risk"]) == min(n, 200)
    # The most certain half has confidences above 0.75: an error rate of 1 / 8.
    hits = sum(c["lower"][at] <= 0.125 <= c["upper"][at] for c in curves)
    # At n = 150 about 9 errors are kept: 90 % is allowed for the percentile bootstrap.
    assert hits >= stats.binom.ppf(3e-5, runs, 0.9)


def test_pointwise_values_compare_methods():
    rng = np.random.default_rng(5)
    std = rng.uniform(0.3, 3, 500)
    y = std * rng.normal(size=500)
    knows = selective(Predictive.normal(np.zeros(500), std), y)
    guess = selective(
        Predictive.normal(np.zeros(500), std), y, uncertainty=rng.normal(size=500)
    )
    assert knows.pointwise["aurc"].mean() == pytest.approx(knows.aurc.value)
    told = paired({"knows": knows.pointwise["aurc"], "guess": guess.pointwise["aurc"]})
    assert [d.distinguishable for d in told] == [False, True]


def test_no_errors_leave_room_for_some():
    p = Predictive.probabilities(np.tile([1.0, 0.0], (100, 1)))
    s = selective(p, np.zeros(100, int))
    assert s.aurc.value == 0
    assert s.aurc.se is None
    assert s.aurc.interval == (0, pytest.approx(1 - 0.025 ** (1 / 100)))


def test_one_point_has_no_error():
    s = selective(Predictive.normal(np.zeros(1), np.ones(1)), np.ones(1))
    assert s.aurc.value == 1
    assert s.aurc.se is None
    assert json.dumps(s.to_dict(), allow_nan=False)


def test_a_million_rows_in_one_block_of_ties():
    n = 1_000_000
    p = Predictive.probabilities(np.tile(np.array([1, 0], np.float32), (n, 1)))
    y = np.zeros(n, int)
    y[: n // 4] = 1
    s = selective(p, y)
    assert s.aurc.value == pytest.approx(0.25)
    assert len(s.curve["risk"]) == 200
    # Flat: the error of AURC is that of the error rate.
    assert s.aurc.se == pytest.approx(np.sqrt(0.25 * 0.75 / n), rel=1e-3)


def test_several_outputs_and_positions_are_averaged():
    rng = np.random.default_rng(6)
    mean, std = rng.normal(size=(20, 3)), rng.uniform(1, 2, (20, 3))
    y = rng.normal(size=(20, 3))
    s = selective(Predictive.normal(mean, std), y)
    assert s.risk.value == pytest.approx(np.mean((y - mean) ** 2))
    np.testing.assert_allclose(
        TotalVariance().values(Predictive.normal(mean, std)), (std**2).mean(axis=1)
    )
    probs = rng.dirichlet(np.ones(3), (20, 4))
    p = Predictive(latent=None, observed=dist.CategoricalProbs(probs))
    codes = rng.integers(0, 3, (20, 4))
    assert selective(p, codes).risk.value == pytest.approx(
        np.mean(probs.argmax(-1) != codes)
    )


def test_each_uncertainty_is_what_it_says():
    probs = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    p = Predictive(
        latent=None,
        observed=dist.CategoricalProbs(probs),
        epistemic=np.array([0.2, 0.1]),
    )
    np.testing.assert_allclose(Entropy().values(p), [1.5 * np.log(2), 0])
    np.testing.assert_allclose(MaxProbability().values(p), [0.5, 0])
    for rule in (MutualInformation(), Epistemic()):
        np.testing.assert_allclose(rule.values(p), [0.2, 0.1])
        assert selective(p, np.array([0, 0]), uncertainty=rule).uncertainty == rule.name
    logits = Predictive(None, dist.CategoricalLogits(np.log(probs + 1e-30)))
    np.testing.assert_allclose(MaxProbability().values(logits), [0.5, 0], atol=1e-15)
    table = Predictive.samples(np.array([[0.0], [2.0]]))
    np.testing.assert_allclose(TotalVariance().values(table), [1.0])


def test_wrong_input_is_refused():
    p = Predictive.normal(np.zeros(3), np.ones(3))
    classes = Predictive.probabilities(np.full((3, 2), 0.5))
    y = np.zeros(3)
    with pytest.raises(ValueError, match="got nan at row 1"):
        selective(p, np.array([0.0, np.nan, 0.0]))
    with pytest.raises(ValueError, match="epistemic part, got none"):
        selective(p, y, uncertainty=Epistemic())
    with pytest.raises(ValueError, match="use MaxProbability"):
        selective(classes, np.zeros(3, int), uncertainty=MutualInformation())
    with pytest.raises(TypeError, match="Entropy expects class probabilities"):
        selective(p, y, uncertainty=Entropy())
    with pytest.raises(TypeError, match="TotalVariance expects observations"):
        selective(classes, np.zeros(3, int), uncertainty=TotalVariance())
    with pytest.raises(ValueError, match=r"uncertainty of shape \(3,\), got \(2,\)"):
        selective(p, y, uncertainty=np.zeros(2))
    with pytest.raises(ValueError, match="NaN at row 2"):
        selective(p, y, uncertainty=np.array([0.0, 1.0, np.nan]))
    with pytest.raises(ValueError, match="expected y of shape"):
        selective(p, np.zeros(4))
    bad = Predictive(
        None, dist.Normal(y, np.ones(3)), epistemic=np.array([1, np.nan, 1])
    )
    with pytest.raises(ValueError, match="NaN at row 1"):
        selective(bad, y, uncertainty=Epistemic())


def test_float32_predictions_are_scored_in_float64():
    std = np.array([1, 2, 3], np.float32)
    p = Predictive.normal(jax.numpy.zeros(3), jax.numpy.asarray(std))
    s = selective(p, np.array([0.1, 0.2, 0.3]))
    assert s.aurc.value == pytest.approx(
        by_hand(np.array([0.1, 0.2, 0.3], np.float32).astype(float) ** 2)[0], rel=1e-6
    )
