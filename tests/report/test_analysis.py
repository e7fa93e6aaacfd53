"""What a report knows beyond scores: repairs, groups, rejection, single errors."""

import jax
import numpy as np
import pytest

from ntkuq.calibration.recalibrate import TemperatureScaling
from ntkuq.data import Dataset, Split
from ntkuq.posteriors import Predictive
from ntkuq.report import html, markdown, verdict
from ntkuq.report.analysis import analyses
from ntkuq.report.methods import why_omitted
from ntkuq.report.rules import binomial_interval, group_answer


def regression_split(n=900, seed=0):
    """The noise of site b is three times that of the others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * n, 2))
    site = np.where(np.arange(3 * n) % 4 == 0, "b", "a")
    y = x[:, 0] + np.where(site == "b", 1.5, 0.5) * rng.normal(size=3 * n)
    whole = Dataset(x, y, group=site)
    return Split(*(whole.take(range(k * n, (k + 1) * n)) for k in range(3)))


def normal(std):
    return lambda x: Predictive.normal(x[:, 0], np.full(len(x), std))


def classes_split(n=900, seed=1):
    rng = np.random.default_rng(seed)
    x = 1.5 * rng.normal(size=(3 * n, 4))
    y = (x + rng.gumbel(size=x.shape)).argmax(1)
    return Split(*(Dataset(x[k::3], y[k::3]) for k in range(3)))


def softmax(sharpness):
    def predict(x):
        p = np.exp(sharpness * (x - x.max(1, keepdims=True)))
        return Predictive.probabilities(p / p.sum(1, keepdims=True))

    return predict


@pytest.fixture(scope="module")
def regression_record():
    data, predict = regression_split(), normal(0.5)
    return data, analyses(predict, predict(data.test.x), data)


@pytest.fixture(scope="module")
def classes_record():
    data, predict = classes_split(), softmax(2.5)
    return data, analyses(predict, predict(data.test.x), data)


def test_repairs_are_fitted_on_the_calibrate_part(regression_record):
    data, record = regression_record
    after = {one["name"]: one for one in record["after"]}
    residual = np.abs(data.calibrate.y - data.calibrate.x[:, 0]) / 0.5
    rank = int(np.ceil((len(residual) + 1) * 0.9))
    half = 0.5 * np.sort(residual)[rank - 1]
    held = np.abs(data.test.y - data.test.x[:, 0]) <= half
    scores = after["split conformal"]["scores"]
    assert scores["coverage_90"]["hits"] == int(held.sum())
    np.testing.assert_allclose(scores["width_90"]["value"], 2 * half, rtol=1e-9)
    # sigma-scaling of a Normal: the root mean square of z on the calibrate part
    ratio = after["σ-scaling"]["scores"]["width_90"]["value"] / (2 * 1.6448536 * 0.5)
    z = (data.calibrate.y - data.calibrate.x[:, 0]) / 0.5
    np.testing.assert_allclose(ratio, np.sqrt(np.mean(z**2)), rtol=1e-6)
    text = after["split conformal"]["text"]
    assert text == "SplitConformal(level=0.9, score=NormalizedResidual())"


def test_groups_are_those_of_the_rows(regression_record):
    data, record = regression_record
    by = {one["by"]: one for one in record["groups"]}
    rows = {row["name"]: row for row in by["group"]["rows"]}
    assert set(rows) == {"a", "b"}
    mine = data.test.group == data.test.groups.index("b")
    held = np.abs(data.test.y - data.test.x[:, 0]) <= 1.6448536 * 0.5
    assert rows["b"]["n"] == mine.sum()
    assert rows["b"]["scores"]["coverage"]["hits"] == int(held[mine].sum())
    # the spread is one number: there is no grouping by width
    assert set(by) == {"group", "predicted mean", "distance to training data"}
    assert by["predicted mean"]["rows"][0]["name"] == "lowest"


def test_errors_are_the_farthest_rows(regression_record):
    data, record = regression_record
    z = np.abs(data.test.y - data.test.x[:, 0]) / 0.5
    assert [one["row"] for one in record["errors"][:3]] == list(np.argsort(-z)[:3])
    np.testing.assert_allclose(record["errors"][0]["certainty"], z.max(), rtol=1e-6)


def test_slab_is_judged_on_points_that_did_not_choose_it(regression_record):
    _, record = regression_record
    assert 0.0 <= record["slab"]["value"] <= 1.0
    assert record["slab"]["n"] < 450


def test_class_repairs_and_classes(classes_record):
    data, record = classes_record
    after = {one["name"]: one for one in record["after"]}
    p, q = (softmax(2.5)(part.x) for part in (data.calibrate, data.test))
    fitted = TemperatureScaling().fit(p, data.calibrate.y).predict(q)
    nll = -np.mean(np.asarray(fitted.log_prob(data.test.y)))
    np.testing.assert_allclose(after["temperature"]["scores"]["nll"]["value"], nll)
    # a temperature of 2.5 makes it right: half of the error is more than enough
    assert after["temperature"]["scores"]["ece"]["value"] < 0.05
    sizes = after["conformal sets (LAC)"]["scores"]["size_90"]["value"]
    assert 1.0 <= sizes <= 4.0
    assert [row["name"] for row in record["classes"]] == ["0", "1", "2", "3"]
    confidences = [row["certainty"] for row in record["errors"]]
    assert confidences == sorted(confidences, reverse=True)


def test_without_a_calibrate_part_nothing_is_repaired():
    data = regression_split(n=100)
    data = Split(data.train, None, data.test)
    predict = normal(1.0)
    record = analyses(predict, predict(data.test.x), data)
    assert record["after"] is None
    # 100 points are too few for a slab of a tenth: the reason is kept
    assert "at least" in record["omitted"]["slab"]


def test_a_repair_that_fails_says_why():
    data = regression_split(n=900)
    few = data.calibrate.take(range(4))
    predict = normal(1.0)
    record = analyses(predict, predict(data.test.x), Split(data.train, few, data.test))
    reasons = {one["name"]: one["reason"] for one in record["after"]}
    assert "9" in reasons["split conformal"]  # nine points are needed for 90 %
    assert all(one["scores"] or one["reason"] for one in record["after"])


def test_counts_have_no_widths():
    rng = np.random.default_rng(3)
    from numpyro import distributions as dist

    y = rng.poisson(4.0, size=200)
    data = Dataset(rng.normal(size=(200, 1)), y)
    p = Predictive(latent=None, observed=dist.Poisson(np.full(200, 4.0)))
    record = analyses(normal(1.0), p, Split(data, None, data))
    assert "widths" not in record["curves"]
    assert "selective" in record["curves"]


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_document_with_everything_is_drawn(kind, request, documents):
    """Every section has its figure, and the same bytes come twice."""
    base = request.getfixturevalue(kind)
    name = "regression_record" if kind == "regression" else "classes_record"
    _, record = request.getfixturevalue(name)
    document = with_analyses(base, record)
    page = html.page(document)
    assert page == html.page(document)
    for key in ("repairs", "groups", "selective", "severity"):
        assert f'id="fig-{key}-title"' in page
    assert len(page) < 1_000_000
    text = markdown.page(document)
    assert "## Where does it fail?" in text
    # the second-order section stays, with its reason
    assert "Would second order help?" in text


def with_analyses(document, record):
    """A document whose finished methods have these analyses, shifts among them."""
    shifted = [
        {"shift": shift, "severity": severity, "scores": scores}
        for scores in [document["methods"][0]["scores"]]
        for shift in ("noise", "mean")
        for severity in (0, 1)
    ]
    detected = [
        {
            "name": "noise",
            "uncertainty": "entropy",
            "scores": {
                "auroc": {"value": 0.8, "se": 0.1, "n": 9, "interval": [0.5, 1]}
            },
        }
    ]
    methods = [
        method
        | {
            "scores": method["scores"] | record["scores"],
            "curves": method["curves"] | record["curves"],
            "severity": shifted,
            "detection": detected,
        }
        | {k: v for k, v in record.items() if k not in ("scores", "curves")}
        if method["status"] == "done"
        else method
        for method in document["methods"]
    ]
    changed = document | {"methods": methods}
    return changed | {"verdict": verdict(changed)}


def test_a_failing_group_is_named(regression, regression_record):
    _, record = regression_record
    lines = verdict(with_analyses(regression, record))
    (line,) = [line for line in lines if line["code"] == "group"]
    assert line["answer"] == "no"
    assert line["sentence"].startswith("group = b")


def test_the_measured_repair_is_named(regression, regression_record):
    _, record = regression_record
    lines = verdict(with_analyses(regression, record))
    poor = [r for r in lines if r["code"] == "intervals" and r["answer"] == "no"]
    assert poor
    assert all("times the width" in line["sentence"] for line in poor)


@pytest.mark.parametrize(("coverage", "most"), [(0.9, 0.01), (0.87, 0.05)])
def test_error_rate_of_the_group_rule(coverage, most):
    """A method that holds in every group is rarely blamed for one.

    At the edge of the tolerance the rate is at most 5 %; for a calibrated one far less.
    """
    rng = np.random.default_rng(7)
    sizes = np.array([40, 60, 100, 200, 400, 800])
    confidence, runs = 1 - 0.05 / len(sizes), 2000
    blamed = 0
    for _ in range(runs):
        hits = rng.binomial(sizes, coverage)
        ends = [
            binomial_interval(int(h), int(n), confidence)
            for h, n in zip(hits, sizes, strict=True)
        ]
        blamed += group_answer(ends, 0.9)[0] == "no"
    # four standard deviations of the simulation on top
    assert blamed / runs <= most + 4 * np.sqrt(most * (1 - most) / runs)


def test_power_of_the_group_rule():
    """A group of 200 points that is off by 15 points is found nearly always."""
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(500):
        hits = [int(rng.binomial(200, c)) for c in (0.9, 0.9, 0.9, 0.75)]
        ends = [binomial_interval(h, 200, 1 - 0.05 / 4) for h in hits]
        answer, place = group_answer(ends, 0.9)
        found += answer == "no" and place == 3
    assert found / 500 > 0.8


def test_reasons_of_omissions_are_joined(regression):
    methods = [m | {"omitted": {"slab": "too few"}} for m in regression["methods"]]
    changed = regression | {"methods": methods}
    assert why_omitted(changed, "slab", "otherwise") == "too few"
    assert why_omitted(changed, "after", "otherwise") == "otherwise"
    whole = changed | {"omitted": {"slab": "never asked"}}
    assert why_omitted(whole, "slab", "otherwise") == "never asked"


def test_names_with_markup_are_text(regression, regression_record):
    _, record = regression_record
    hostile = "<script>alert(1)</script>"
    record = record | {
        "groups": [
            one
            | {"by": hostile, "rows": [row | {"name": hostile} for row in one["rows"]]}
            for one in record["groups"]
        ],
        "after": [one | {"name": hostile} for one in record["after"]],
    }
    page = html.page(with_analyses(regression, record))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_keys_do_not_matter():
    """Analyses are the same on every run."""
    data, predict = regression_split(n=200), normal(0.7)
    p = predict(data.test.x)
    assert analyses(predict, p, data) == analyses(predict, p, data)
    assert jax.config.jax_enable_x64 is False
