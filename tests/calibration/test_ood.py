"""Detection of outside data: against scikit-learn, and its errors by simulation."""

import json

import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ntkuq.calibration.ood import detection
from ntkuq.calibration.ranking import (
    area_score,
    average_precision,
    false_rate,
    false_rate_score,
)
from ntkuq.calibration.uncertainty import Entropy, Epistemic, TotalVariance
from ntkuq.posteriors.predictive import Predictive


@pytest.mark.parametrize("digits", [0, 1, 12])
@pytest.mark.parametrize(("n", "m"), [(200, 60), (40, 100), (1500, 1100)])
def test_all_numbers_equal_scikit_learn(n, m, digits):
    rng = np.random.default_rng(n + digits)
    inside = rng.normal(size=n).round(digits)
    outside = rng.normal(1, 1, m).round(digits)
    d = detection(inside, outside)
    label, score = np.r_[np.zeros(n), np.ones(m)], np.r_[inside, outside]
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    expected = {
        "auroc": roc_auc_score(label, score),
        "aupr_outside": average_precision_score(label, score),
        "aupr_inside": average_precision_score(1 - label, -score),
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
    }
    for name, value in expected.items():
        found = getattr(d, name)
        assert found.value == pytest.approx(value, abs=1e-12), name
        assert found.interval[0] <= found.value <= found.interval[1]
        assert found.n == n + m
    at = d.curve["fpr"]
    np.testing.assert_allclose(d.curve["tpr"], np.interp(at, fpr, tpr), atol=1e-12)
    assert (d.n_inside, d.n_outside, d.score) == (n, m, "given")


def test_auroc_is_the_share_of_pairs_with_ties_as_half():
    inside, outside = np.array([0.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 5.0])
    pairs = [(b > a) + (b == a) / 2 for a in inside for b in outside]
    assert detection(inside, outside).auroc.value == pytest.approx(np.mean(pairs))


def test_delong_is_the_variance_of_the_placements():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 9, 30) * 1.0, rng.integers(2, 12, 20) * 1.0
    wins = (outside[:, None] > inside) + 0.5 * (outside[:, None] == inside)
    variance = np.var(wins.mean(1), ddof=1) / 20 + np.var(wins.mean(0), ddof=1) / 30
    assert area_score(inside, outside).se == pytest.approx(np.sqrt(variance))


def test_standard_error_and_interval_of_auroc_by_simulation():
    rng = np.random.default_rng(1)
    runs, n, m, shift = 1000, 60, 40, 1.2
    truth = stats.norm.cdf(shift / np.sqrt(2))
    scores = [
        area_score(rng.normal(size=n), rng.normal(shift, 1, m)) for _ in range(runs)
    ]
    spread = np.std([s.value for s in scores], ddof=1)
    # Four standard errors of a standard deviation.
    limit = 4 / np.sqrt(2 * runs)
    assert np.mean([s.se for s in scores]) == pytest.approx(spread, rel=limit)
    hits = sum(s.interval[0] <= truth <= s.interval[1] for s in scores)
    # Between 93.5 % and 97 %: the logit interval is approximate at this size.
    assert stats.binom.ppf(3e-5, runs, 0.935) <= hits
    assert hits <= stats.binom.isf(3e-5, runs, 0.97)


def test_errors_of_the_other_numbers_by_simulation():
    rng = np.random.default_rng(2)
    runs, few, n, m, shift = 1000, 12, 200, 120, 1.5

    def draw():
        return rng.normal(size=n), rng.normal(shift, 1, m)

    def ranks(inside, outside):
        place = np.argsort(-np.r_[inside, outside])
        return (place < n)[None] * 1, (place >= n)[None] * 1

    sets = [ranks(*draw()) for _ in range(runs)]
    spread = {
        "aupr_outside": np.std([average_precision(a, b) for a, b in sets]),
        "aupr_inside": np.std(
            [average_precision(b[:, ::-1], a[:, ::-1]) for a, b in sets]
        ),
        "fpr95": np.std([false_rate(a, b) for a, b in sets]),
    }
    found = [detection(*draw()) for _ in range(few)]
    for name, value in spread.items():
        error = np.mean([getattr(d, name).se for d in found])
        # Four errors: of the spread, and of the mean of bootstrap errors, each of which
        # varies by about 20 % (two order statistics decide that of fpr95).
        limit = 4 * np.hypot(1 / np.sqrt(2 * runs), 0.2 / np.sqrt(few))
        assert error == pytest.approx(value, rel=limit), name


def test_errors_of_many_points_are_those_of_theory():
    rng = np.random.default_rng(6)
    n, m, shift = 100_000, 50_000, 1.0
    d = detection(rng.normal(size=n), rng.normal(shift, 1, m))
    at = shift + stats.norm.ppf(0.05)
    f = stats.norm.sf(at)
    slope = stats.norm.pdf(at) / stats.norm.pdf(at - shift)
    se = np.sqrt(f * (1 - f) / n + slope**2 * 0.05 * 0.95 / m)
    assert d.fpr95.value == pytest.approx(f, abs=5 * se)
    # Four errors of a standard deviation of 1000 draws.
    assert d.fpr95.se == pytest.approx(se, rel=4 / np.sqrt(2000))
    assert d.fpr95.interval[0] <= f <= d.fpr95.interval[1]


def test_the_interval_of_fpr95_holds_for_any_distribution():
    rng = np.random.default_rng(3)
    runs, n, m = 600, 80, 100
    hits = 0
    # Exponential scores: S(t) = exp(-t) inside, exp(-t / 6) outside.
    truth = 0.95**6
    for _ in range(runs):
        s = false_rate_score(rng.exponential(size=n), 6 * rng.exponential(size=m), None)
        hits += s.interval[0] <= truth <= s.interval[1]
    assert hits >= stats.binom.ppf(3e-5, runs, 0.95)


def test_sets_told_apart_without_error_keep_an_interval():
    d = detection(np.arange(50.0), 100 + np.arange(40.0))
    assert (d.auroc.value, d.fpr95.value, d.aupr_outside.value) == (1, 0, 1)
    low, high = d.auroc.interval
    assert 0.9 < low < 1 == high
    # Never below what 50 clean inside points can exclude.
    assert d.fpr95.interval[1] >= 1 - 0.0125 ** (1 / 50)
    back = detection(100 + np.arange(40.0), np.arange(50.0))
    assert back.auroc.value == 0
    assert back.auroc.interval == pytest.approx((0, 1 - low))


def test_equal_scores_say_nothing():
    d = detection(np.ones(30), np.ones(10))
    assert (d.auroc.value, d.fpr95.value) == (0.5, 1.0)
    assert d.aupr_outside.value == 0.25
    assert d.auroc.interval[0] < 0.5 < d.auroc.interval[1]


def test_one_point_each():
    d = detection(np.zeros(1), np.ones(1))
    assert (d.auroc.value, d.auroc.se) == (1, None)
    assert json.dumps(d.to_dict(), allow_nan=False)


def test_predictions_are_told_by_a_named_score():
    rng = np.random.default_rng(4)
    probs = [rng.dirichlet(np.full(3, a), 50) for a in (0.2, 5.0)]
    inside, outside = (Predictive.probabilities(p) for p in probs)
    d = detection(inside, outside)
    assert d.score == "1 - max probability"
    label = np.r_[np.zeros(50), np.ones(50)]
    score = 1 - np.r_[probs[0].max(1), probs[1].max(1)]
    assert d.auroc.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert d.mean_outside.value == pytest.approx(score[50:].mean())
    assert detection(inside, outside, score=Entropy()).score == "entropy"

    def known(epistemic):
        zeros = np.zeros(epistemic.size)
        return Predictive(None, dist.Normal(zeros, zeros + 1), epistemic=epistemic)

    d = detection(known(np.array([1.0, 2.0])), known(np.array([3.0, 1.5])))
    assert (d.score, d.auroc.value) == ("epistemic", 0.75)


def test_the_same_numbers_on_every_run():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=300), rng.normal(size=200)
    assert detection(a, b).to_dict() == detection(a, b).to_dict()


def test_wrong_input_is_refused():
    p = Predictive.normal(np.zeros(3), np.ones(3))
    classes = Predictive.probabilities(np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match="at least one point"):
        detection(np.zeros(3), np.zeros(0))
    with pytest.raises(ValueError, match="NaN at row 1"):
        detection(np.array([0.0, np.nan]), np.zeros(2))
    with pytest.raises(ValueError, match=r"use TotalVariance\(\)"):
        detection(p, p)
    with pytest.raises(ValueError, match="epistemic part, got none"):
        detection(classes, classes, score=Epistemic())
    with pytest.raises(TypeError, match="one of each"):
        detection(p, np.zeros(3))
    with pytest.raises(TypeError, match="leave `score` out"):
        detection(np.zeros(3), np.zeros(3), score=TotalVariance())
    with pytest.raises(TypeError, match="of one kind"):
        detection(p, classes, score=TotalVariance())
