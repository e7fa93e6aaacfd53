"""Scores against the severity of shifts, and their means over shifts."""

import json
import math

import jax
import numpy as np
import pytest
from scipy import stats

from ntkuq.calibration.blocks import blocks
from ntkuq.calibration.sampling import sampling
from ntkuq.calibration.severity import _mean_ece, _mean_rmse, severity_curve
from ntkuq.calibration.severity_table import SeverityTable
from ntkuq.data import DataError, Dataset, load, shifts
from ntkuq.posteriors import Predictive


KEY = jax.random.key(3)


def scaled(x, *, severity, reference=None, key=None):
    """A shift without chance."""
    return x * (1 + severity)


def moved(x, *, severity, reference=None, key=None):
    return x + severity


def normal(x):
    return Predictive.normal(x[:, 0], np.full(len(x), 0.7))


def line(n, seed=0, group=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return Dataset(x[:, None], x + 0.7 * rng.normal(size=n), group=group)


def two_classes(x):
    p = 1 / (1 + np.exp(-x[:, 0]))
    return Predictive.probabilities(np.stack([1 - p, p], axis=1))


def coins(n, seed=0):
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=n)
    return Dataset(x[:, None], (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int))


def test_regression_by_hand():
    data = line(200)
    table = severity_curve(
        normal, data, {"a": scaled, "b": moved}, (0, 2), level=0.8, key=KEY
    )
    assert table.scores == ("nll", "crps", "rmse", "coverage_80")
    assert (table.task, table.n, table.level) == ("regression", 200, 0.8)
    half = 0.7 * stats.norm.ppf(0.9)
    x, y = data.x[:, 0], data.y
    cells = {("a", 0): x, ("b", 0): x, ("a", 2): 3 * x, ("b", 2): x + 2}
    roots, nlls, inside = {}, {}, {}
    for cell, mean in cells.items():
        found = table[cell]
        nlls[cell] = -stats.norm.logpdf(y, mean, 0.7)
        inside[cell] = np.abs(y - mean) <= half
        roots[cell] = math.sqrt(np.mean((y - mean) ** 2))
        assert found["nll"].value == pytest.approx(nlls[cell].mean(), rel=1e-6)
        assert found["rmse"].value == pytest.approx(roots[cell], rel=1e-6)
        assert found["coverage_80"].hits == inside[cell].sum()
        assert found["coverage_80"].level == 0.8
    mean = table["mean", 2]
    both = (nlls["a", 2] + nlls["b", 2]) / 2
    assert mean["nll"].value == pytest.approx(both.mean(), rel=1e-6)
    assert mean["nll"].se == pytest.approx(both.std(ddof=1) / math.sqrt(200), rel=1e-5)
    both = (inside["a", 2].astype(float) + inside["b", 2]) / 2
    assert mean["coverage_80"].value == pytest.approx(both.mean())
    assert mean["coverage_80"].se == pytest.approx(both.std(ddof=1) / math.sqrt(200))
    assert mean["rmse"].value == pytest.approx(
        (roots["a", 2] + roots["b", 2]) / 2, rel=1e-6
    )
    # without a shift the mean is the score itself, its exact interval included
    assert table["mean", 0] == table["a", 0] == table["b", 0]


def test_classes_by_hand():
    data = coins(300)
    table = severity_curve(two_classes, data, {"a": scaled, "b": moved}, (1,), key=KEY)
    assert table.scores == ("nll", "brier", "accuracy", "ece")
    eces = []
    for name, x in (("a", 2 * data.x[:, 0]), ("b", data.x[:, 0] + 1)):
        p = 1 / (1 + np.exp(-x))
        sure, right = np.maximum(p, 1 - p), (p > 0.5) == data.y
        gaps = [
            abs(np.sum((right - sure)[(sure > b / 15) & (sure <= (b + 1) / 15)]))
            for b in range(15)
        ]
        eces.append(sum(gaps) / 300)
        assert table[name, 1]["accuracy"].value == right.mean()
        assert table[name, 1]["ece"].value == pytest.approx(eces[-1], abs=1e-6)
    mean = table["mean", 1]["ece"]
    assert mean.value == pytest.approx(np.mean(eces), abs=1e-6)
    assert mean.interval[0] <= mean.value <= mean.interval[1]


def test_one_shift_is_its_own_mean():
    for predict, data in ((normal, line(80)), (two_classes, coins(80))):
        table = severity_curve(predict, data, {"a": moved}, key=KEY)
        for severity in range(6):
            assert table["mean", severity] == table["a", severity]


def test_the_error_of_a_mean_over_equal_shifts_is_that_of_one():
    """The same points are behind all shifts: nothing is gained by repeating one."""
    for predict, data in ((normal, line(150)), (two_classes, coins(150))):
        table = severity_curve(
            predict, data, {"a": moved, "b": moved, "c": moved}, (2,), key=KEY
        )
        for name in table.scores:
            mean, one = table["mean", 2][name], table["a", 2][name]
            assert mean.value == pytest.approx(one.value, rel=1e-12)
            # shares have a binomial error with n, means one with n - 1
            assert mean.se == pytest.approx(one.se, rel=1 / 149)


def test_standard_error_of_a_mean_of_roots_by_simulation():
    """The other means are means of the points' own; this one is linearized."""
    rng, runs, n = np.random.default_rng(0), 800, 100
    values, errors = [], []
    for _ in range(runs):
        z = rng.normal(size=n)
        # one error common to both shifts, one of each
        errors_ = np.stack([2 * z, z + rng.normal(size=n)])
        found = _mean_rmse(errors_**2, sampling(n, None))
        values.append(found.value)
        errors.append(found.se)
    # The spread of 800 nearly normal values is known to 1 / sqrt(2 * 799) = 2.5 %;
    # the delta method is off by terms of order 1 / n, some 2 %.
    assert abs(np.std(values, ddof=1) / np.mean(errors) - 1) < 4 * 0.025 + 0.02


def test_standard_error_of_a_mean_calibration_error_by_simulation():
    rng, runs, n = np.random.default_rng(0), 150, 400
    values, errors = [], []
    for _ in range(runs):
        # overconfident by 0.3 and more, so that the error is nearly normal
        sure = np.stack([np.full(n, 0.95), np.full(n, 0.9)])
        wrong = (rng.random(n) < 0.4).astype(float)
        found = _mean_ece(sure, np.stack([wrong, wrong]), blocks(n))
        values.append(found.value)
        errors.append(found.se)
    exact = math.sqrt(0.4 * 0.6 / n)
    # 1000 resamples know it to 1 / sqrt(2000) = 2.2 %, blocks of one point are exact;
    # the share of errors makes it vary by less than 1 % in the mean
    assert abs(np.mean(errors) / exact - 1) < 4 * 0.022
    assert abs(np.std(values, ddof=1) / exact - 1) < 4 / math.sqrt(2 * (runs - 1))
    assert abs(np.mean(values) - (0.925 - 0.6)) < 4 * exact / math.sqrt(runs)


def test_groups_count_as_one():
    twice = np.repeat(np.arange(50), 2)
    data = line(50).take(twice)
    grouped = Dataset(data.x, data.y, group=twice)
    shifted = {"a": scaled, "b": moved}
    once = severity_curve(normal, line(50), shifted, (1,), key=KEY)["mean", 1]
    alike = severity_curve(normal, grouped, shifted, (1,), key=KEY)["mean", 1]
    apart = severity_curve(normal, data, shifted, (1,), key=KEY)["mean", 1]
    for name in ("nll", "crps", "rmse", "coverage_90"):
        assert alike[name].value == pytest.approx(once[name].value, rel=1e-9)
        assert alike[name].se == pytest.approx(once[name].se, rel=1e-6)
        assert apart[name].se < 0.75 * alike[name].se


def test_scores_worsen_with_severity_on_concrete():
    """Bayesian linear regression: it stays as sure, and is wrong more often."""
    data = load("concrete")
    mean, std = data.train.x.mean(axis=0), data.train.x.std(axis=0)

    def design(x):
        return np.column_stack([np.ones(len(x)), (x - mean) / std])

    a = design(data.train.x)
    weights, *_ = np.linalg.lstsq(a, data.train.y, rcond=None)
    noise = np.std(data.train.y - a @ weights)
    table = severity_curve(
        lambda x: Predictive.normal(design(x) @ weights, np.full(len(x), noise)),
        data.test,
        [shifts.FeatureNoise(), shifts.MeanShift(), shifts.ScaleShift()],
        reference=data.train.x,
        key=KEY,
    )
    assert table.shifts == ("FeatureNoise", "MeanShift", "ScaleShift")
    for name, sign in (("nll", 1), ("rmse", 1), ("coverage_90", -1)):
        value = sign * table.curve(name)["value"]
        assert value[0] < value[3] < value[4] < value[5]
    assert table["FeatureNoise", 5]["coverage_90"].interval[1] < 0.9
    assert table["mean", 0]["coverage_90"].hits is not None


def test_scores_worsen_with_severity_on_digits():
    """Least squares on the classes, under a softmax."""
    data = load("digits")
    x, codes = data.train.x, np.eye(10)[data.train.y]
    weights = np.linalg.solve(x.T @ x + np.eye(64), x.T @ codes)

    def softmax(x):
        scores = np.exp(5 * (x @ weights))
        return Predictive.probabilities(scores / scores.sum(axis=1, keepdims=True))

    kinds = [
        shifts.AsImages(shift, (8, 8))
        for shift in (shifts.Translation(), shifts.GaussianBlur())
    ]
    table = severity_curve(
        softmax,
        data.test,
        kinds,
        (0, 5),
        key=KEY,
    )
    assert table.shifts == ("Translation", "GaussianBlur")
    for name, sign in (("nll", 1), ("accuracy", -1), ("ece", 1)):
        before, after = sign * table.curve(name)["value"]
        assert after > before


def test_shifts_do_not_change_each_other():
    data, options = line(60), {"reference": line(60).x, "key": KEY}
    both = severity_curve(
        normal, data, [shifts.FeatureNoise(), shifts.MeanShift()], (0, 3), **options
    )
    one = severity_curve(normal, data, [shifts.MeanShift()], (3,), **options)
    assert both["MeanShift", 3] == one["MeanShift", 3]
    again = severity_curve(
        normal, data, [shifts.FeatureNoise(), shifts.MeanShift()], (3, 0), **options
    )
    assert again.to_dict() == both.to_dict()


def test_the_table_as_columns_text_and_json():
    table = severity_curve(normal, line(60), {"a": scaled, "b": moved}, (0, 1), key=KEY)
    columns = table.columns()
    assert list(columns) == [
        *("shift", "severity", "score", "value", "se", "lower", "upper", "n")
    ]
    assert {len(column) for column in columns.values()} == {3 * 2 * 4}
    assert columns["shift"][::8] == ["a", "b", "mean"]
    row = columns["shift"].index("b") + 4 + 2
    assert (columns["severity"][row], columns["score"][row]) == (1, "rmse")
    found = table["b", 1]["rmse"]
    assert (columns["lower"][row], columns["upper"][row]) == found.interval
    record = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert record["table"]["value"][row] == found.value
    assert record["shifts"] == ["a", "b"]
    entries = table.entries()
    assert [(e["shift"], e["severity"]) for e in entries] == [
        *(("a", 0), ("a", 1), ("b", 0), ("b", 1))
    ]
    assert entries[3]["scores"]["rmse"] == found.to_dict()
    text = str(table).splitlines()
    assert text[0] == "nll at severity"
    assert [line.split()[0] for line in text[2:5]] == ["a", "b", "mean"]
    curve = table.curve("rmse", "b")
    assert curve["severity"].tolist() == [0, 1]
    assert curve["upper"][1] == found.interval[1]


def test_what_cannot_be_scored_is_left_out_with_the_reason():
    def table_of_quantiles(x):
        levels = np.array([0.05, 0.5, 0.95])
        return Predictive.quantiles(levels, x[:, 0] + np.array([[-1.0], [0], [1]]))

    table = severity_curve(table_of_quantiles, line(40), {"a": moved}, (0, 1), key=KEY)
    assert "nll" not in table.scores
    assert "density" in table.omitted["nll"]
    assert "coverage_90" in table.scores
    with pytest.raises(KeyError, match=r"nll was left out: .*density"):
        table.curve("nll")
    assert "nll: " in str(table)


def test_infinite_scores_stay_infinite():
    data = Dataset(np.array([[0.0], [5.0]]), np.array([0, 1]))

    def sure(x):
        right = (x[:, 0] > 2).astype(float)
        return Predictive.probabilities(np.stack([1 - right, right], axis=1))

    table = severity_curve(sure, data, {"a": moved, "b": scaled}, (0, 3), key=KEY)
    assert table["a", 3]["nll"].value == math.inf
    assert table["mean", 3]["nll"].value == math.inf
    assert table["mean", 3]["nll"].se is None
    assert table["mean", 0]["nll"].value == 0
    assert table["mean", 3]["accuracy"].value == 0.75
    json.dumps(table.to_dict(), allow_nan=False)


def test_one_point():
    table = severity_curve(normal, line(1), {"a": moved, "b": scaled}, (1,), key=KEY)
    assert isinstance(table, SeverityTable)
    assert table["mean", 1]["rmse"].se is None
    str(table)


def test_refusals():
    data = line(20)

    def run(predict=normal, shifts_=None, severities=(0, 1), **options):
        named = {"a": moved} if shifts_ is None else shifts_
        return severity_curve(predict, data, named, severities, key=KEY, **options)

    cases = [
        (lambda: run(shifts_={}), ValueError, "at least one shift, got none"),
        (
            lambda: run(shifts_={"mean": moved}),
            ValueError,
            "names of shifts other than",
        ),
        (
            lambda: run(shifts_=[shifts.FeatureNoise(), shifts.FeatureNoise((1.0,))]),
            ValueError,
            "different names, got FeatureNoise, FeatureNoise",
        ),
        (lambda: run(severities=()), ValueError, "severities that differ"),
        (lambda: run(severities=(1, 1)), ValueError, "severities that differ"),
        (lambda: run(level=1.0), ValueError, "level between 0 and 1, got 1.0"),
        (lambda: run(predict=lambda x: x), TypeError, "return a Predictive, got"),
        (
            lambda: run(shifts_=[shifts.FeatureNoise()]),
            DataError,
            "expected reference=",
        ),
        (
            lambda: run(shifts_=[shifts.ScaleShift()], severities=(6,)),
            DataError,
            "severity from 0",
        ),
        (
            lambda: run(predict=lambda x: normal(x[1:])),
            ValueError,
            r"expected y of shape \(19,\)",
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    table = run()
    with pytest.raises(KeyError, match="no scores for 'b' at severity 1"):
        table["b", 1]
    with pytest.raises(KeyError, match="no score 'crp'"):
        table.curve("crp")
