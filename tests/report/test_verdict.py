"""The verdict rules: their error rates, and sentences that repeat the document."""

import copy
import re

import numpy as np
import pytest
from scipy.stats import binom

from ntkuq.calibration.reliability import ErrorTest, error_test, reliability_curve
from ntkuq.report.audit import findings
from ntkuq.report.methods import differences, distinct_labels
from ntkuq.report.rules import (
    Candidate,
    binomial_interval,
    choose,
    coverage_answer,
    error_points_needed,
    points_needed,
    reliability_answer,
    shape_is_wrong,
)
from ntkuq.report.verdicts import verdict


# Per cent of test sets with the answer yes / no / slightly / cannot tell at level 0.90
# and tolerance 0.03, computed independently from the binomial law.
ERROR_RATES = {
    (0.90, 300): (8, 0, 3, 89),
    (0.90, 1000): (86, 0, 5, 10),
    (0.90, 3000): (100, 0, 0, 0),
    (0.88, 300): (3, 0, 16, 80),
    (0.88, 1000): (23, 0, 51, 25),
    (0.88, 3000): (49, 0, 51, 0),
    (0.87, 300): (2, 2, 31, 66),
    (0.87, 1000): (5, 2, 81, 11),
    (0.87, 3000): (5, 2, 93, 0),
    (0.85, 300): (0, 15, 56, 29),
    (0.85, 1000): (0, 44, 55, 0),
    (0.85, 3000): (0, 89, 11, 0),
    (0.80, 300): (0, 89, 11, 0),
    (0.80, 1000): (0, 100, 0, 0),
    (0.80, 3000): (0, 100, 0, 0),
}


@pytest.mark.parametrize(("true", "n"), ERROR_RATES)
def test_error_rates_of_the_coverage_rule(true, n):
    hits = np.arange(n + 1)
    chance = binom.pmf(hits, n, true)
    rates = dict.fromkeys(("yes", "no", "slightly", "cannot tell"), 0.0)
    for k in hits[chance > 1e-9]:
        rates[coverage_answer(int(k), n, 0.9, 0.03)] += 100 * chance[k]
    np.testing.assert_allclose(list(rates.values()), ERROR_RATES[true, n], atol=1.0)


def test_exact_interval_agrees_with_scipy():
    from scipy.stats import binomtest

    for hits, n in ((0, 10), (10, 10), (90, 100), (2718, 3000)):
        ours = binomial_interval(hits, n, 0.95)
        theirs = binomtest(hits, n).proportion_ci(0.95, "exact")
        np.testing.assert_allclose(ours, (theirs.low, theirs.high), atol=1e-12)


@pytest.mark.parametrize(("tolerance", "n"), [(0.03, 900), (0.02, 2000)])
def test_points_needed_give_a_calibrated_method_its_yes(tolerance, n):
    assert points_needed(0.9, tolerance) == n
    hits = np.arange(n + 1)
    yes = [coverage_answer(int(k), n, 0.9, tolerance) == "yes" for k in hits]
    assert abs(binom.pmf(hits, n, 0.9)[yes].sum() - 0.8) < 0.02


def test_no_points_tell_nothing():
    assert coverage_answer(0, 0, 0.9) == "cannot tell"


def test_reliability_rule():
    def answer(calibrated, within, beyond):
        return reliability_answer(ErrorTest(0.01, calibrated, within, beyond))

    assert answer(0.3, 0.9, 0.04) == "yes"
    assert answer(0.01, 0.9, 0.04) == "yes"
    assert answer(0.0, 0.04, 1.0) == "no"
    assert answer(0.04, 0.06, 0.9) == "slightly"
    assert answer(0.3, 0.9, 0.06) == "cannot tell"


REPETITIONS = 250
MOST_WRONG = 0.05 + 3 * np.sqrt(0.05 * 0.95 / REPETITIONS)


def _reliability_answers(n, shift):
    """Shares of answers; shift moves the accuracy away from confidences U(0.3, 1)."""
    rng = np.random.default_rng(n)
    found = dict.fromkeys(("yes", "no", "slightly", "cannot tell"), 0.0)
    for _ in range(REPETITIONS):
        confidence = rng.uniform(0.3, 1.0, n)
        correct = rng.uniform(size=n) < shift(confidence)
        curve = reliability_curve(confidence, correct)
        columns = (curve[name] for name in ("confidence", "accuracy", "count"))
        found[reliability_answer(error_test(*columns, 0.03))] += 1 / REPETITIONS
    return found


def _in_the_top_bin(confidence):
    top = confidence > 14 / 15
    return confidence - np.where(top, 0.03 / max(top.mean(), 0.03), 0.0)


@pytest.mark.parametrize("n", [100, 500])
def test_calibrated_classes_are_rarely_blamed(n):
    found = _reliability_answers(n, lambda c: c)
    assert found["no"] <= MOST_WRONG
    assert found["no"] + found["slightly"] <= MOST_WRONG


@pytest.mark.parametrize("n", [100, 500])
def test_error_at_the_tolerance_is_neither_yes_nor_no(n):
    found = _reliability_answers(n, lambda c: c - 0.03)
    assert found["no"] <= MOST_WRONG
    assert found["yes"] <= MOST_WRONG


def test_error_in_one_bin_is_not_judged_by_its_size_there():
    # A tenth of the points carry all of an error of 3 points. The law of the likeliest
    # errors holds for many points; at 500 it is a little off, but not by a factor.
    found = _reliability_answers(500, _in_the_top_bin)
    assert found["no"] <= 0.15
    assert found["yes"] <= MOST_WRONG


def test_large_errors_are_found():
    found = _reliability_answers(500, lambda c: c - 0.10)
    assert found["no"] > 0.6
    assert found["yes"] == 0


def test_points_needed_give_calibrated_classes_their_yes():
    confidence, count = np.array([0.7, 0.9, 0.98]), np.array([1.0, 2.0, 5.0])
    n = error_points_needed(confidence, count)
    sizes = np.rint(n * count / count.sum()).astype(int)
    rng = np.random.default_rng(0)
    yes = [
        reliability_answer(
            error_test(confidence, rng.binomial(sizes, confidence) / sizes, sizes, 0.03)
        )
        == "yes"
        for _ in range(200)
    ]
    # Three standard errors of 0.8 from 200 repetitions.
    assert abs(np.mean(yes) - 0.8) < 0.085


def test_a_document_without_reliability_curve_cannot_tell(classification):
    document = copy.deepcopy(classification)
    for method in document["methods"]:
        method["curves"] = None
    lines = [r for r in verdict(document) if r["code"] == "reliability"]
    assert {line["answer"] for line in lines} == {"cannot tell"}
    assert all("without the reliability curve" in line["sentence"] for line in lines)


def test_shape_rule():
    assert shape_is_wrong(0.005, "yes")
    assert not shape_is_wrong(0.005, "no")
    assert not shape_is_wrong(0.02, "yes")
    assert not shape_is_wrong(None, "yes")


MAP = Candidate("MAP", 0.4, "no", True)
LAPLACE = Candidate("Laplace", 1.4, "yes", True)
ENSEMBLE = Candidate("ensemble", 100.0, "cannot tell", True)
SLOW = Candidate("unmeasured", None, "yes", True)
WORSE = Candidate("worse", 0.1, "yes", False)


def test_cheapest_of_the_tied_whose_intervals_hold():
    choice = choose([MAP, LAPLACE, ENSEMBLE, WORSE], n=3000)
    assert choice.place == 1
    assert choice.passed_over == (0,)
    assert choice.ranked
    assert choice.sound


def test_unmeasured_cost_is_never_the_cheapest():
    assert choose([SLOW, ENSEMBLE, WORSE], n=3000).place == 1


def test_all_tied_or_few_points_cannot_rank():
    assert not choose([LAPLACE, ENSEMBLE], n=3000).ranked
    assert not choose([LAPLACE, ENSEMBLE, WORSE], n=99).ranked
    assert choose([LAPLACE, ENSEMBLE, WORSE], n=100).ranked


def test_a_failing_method_is_chosen_only_if_all_fail():
    choice = choose([MAP, WORSE], n=3000)
    assert choice.place == 0
    assert not choice.sound


# ---- on documents ------------------------------------------------------------------


def record(document, code, label=None):
    found = [
        r
        for r in document["verdict"]
        if r["code"] == code and label in (None, r["label"])
    ]
    assert found, (code, label)
    return found[0]


def numbers(sentence):
    text = sentence.replace("\u202f", "").replace("\u2212", "-")
    return [float(x) for x in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def test_records_have_the_keys_of_the_schema(regression, classification):
    keys = {"code", "label", "answer", "sentence", "rule", "section"}
    for document in (regression, classification):
        for line in document["verdict"]:
            assert set(line) == keys
            assert line["answer"] in ("yes", "slightly", "no", "cannot tell")
            assert "{" not in line["rule"]


def test_numbers_of_the_interval_lines_are_those_of_the_document(regression):
    for method in regression["methods"]:
        if method["status"] != "done":
            continue
        score = method["scores"]["coverage_90"]
        said = numbers(record(regression, "intervals", method["label"])["sentence"])
        lower, upper = score["interval"]
        expected = [90, 100 * score["value"], 100 * lower, 100 * upper, score["n"]]
        np.testing.assert_allclose(said[:5], expected, atol=0.0501)


def test_numbers_of_the_shape_line_are_those_of_the_document(regression):
    line = record(regression, "shape", "last-layer Laplace")
    method = regression["methods"][2]
    score, curve = method["scores"]["pit_ks"], method["curves"]["pit"]
    p, n, gap, lower, upper, grid, ecdf = numbers(line["sentence"])
    assert score["p"] < p == 1e-4
    assert "p-value < 0.0001" in line["sentence"]
    assert n == score["n"]
    expected = 100 * np.array([score["value"], *score["interval"]])
    np.testing.assert_allclose([gap, lower, upper], expected, atol=0.051)
    place = curve["grid"].index(pytest.approx(grid / 100))
    assert ecdf == pytest.approx(100 * curve["ecdf"][place], abs=0.051)


def test_numbers_of_the_method_line_are_those_of_the_document(regression):
    line = record(regression, "method")
    assert line["label"] == "Laplace (KFAC)"
    difference = regression["comparison"]["differences"][1]
    said = numbers(line["sentence"].replace("ensemble (5)", ""))
    seconds = regression["methods"][1]["cost"]["fit_seconds"]
    expected = [seconds, 2, difference["n"], difference["value"]]
    np.testing.assert_allclose(
        said, [*expected, *difference["interval"]], atol=0.05, rtol=0.02
    )


def test_numbers_of_the_reliability_lines(classification):
    for method in classification["methods"]:
        if method["status"] != "done":
            continue
        line = record(classification, "reliability", method["label"])
        score = method["scores"]["ece"]
        expected = [
            *(100 * x for x in (score["value"], *score["interval"])),
            score["n"],
        ]
        np.testing.assert_allclose(numbers(line["sentence"])[:4], expected, atol=0.051)


def test_the_audit_counts_its_findings(regression):
    found = findings(regression)
    issues = [finding for finding in found if finding.severity == "issue"]
    line = record(regression, "audit")
    assert numbers(line["sentence"])[:2] == [len(issues), len(found) - len(issues)]
    assert line["answer"] == "no"
    subjects = {finding.subject for finding in found}
    assert {"NTK-GP (analytic)", "NUTS", "last-layer Laplace", "data"} <= subjects


def test_cheaper_method_with_failing_intervals_is_named_but_not_chosen(regression):
    document = copy.deepcopy(regression)
    for difference in document["comparison"]["differences"]:
        difference["distinguishable"] = difference["label"] != "MAP"
    document["methods"][0]["cost"]["fit_seconds"] = 0.01
    line = verdict(document)[0]
    assert line["label"] == "ensemble (5)"
    assert "MAP is cheaper, but with intervals judged no" in line["sentence"]


def test_few_points_choose_by_cost(documents):
    line = record(documents.regression(n=90), "method")
    assert line["answer"] == "cannot tell"
    assert "90 test points cannot rank 6 methods" in line["sentence"]
    assert "choose by cost" in line["sentence"]


def test_nothing_finished(regression):
    document = copy.deepcopy(regression)
    for method in document["methods"]:
        method |= {"status": "failed", "reason": None}
    lines = verdict(document)
    assert [line["code"] for line in lines] == ["method", "audit"]
    assert lines[0]["answer"] == "cannot tell"


def test_no_comparison(regression):
    lines = verdict({**regression, "comparison": None})
    assert "no comparison" in lines[0]["sentence"]


def test_shared_labels_stay_apart(documents, regression):
    document = documents.with_label(regression, 2, "Laplace (KFAC)")
    assert distinct_labels(document)[1:3] == ("Laplace (KFAC) #1", "Laplace (KFAC) #2")
    paired = differences(document)
    values = [d["value"] for d in regression["comparison"]["differences"]]
    assert [paired[1]["value"], paired[2]["value"]] == values[1:3]
    named = [r["label"] for r in document["verdict"] if r["code"] == "intervals"]
    assert len(set(named)) == len(named)


def test_the_best_may_be_listed_or_not(regression):
    document = copy.deepcopy(regression)
    comparison = document["comparison"]
    best = dict.fromkeys(comparison["differences"][0])
    best |= {"label": comparison["best"], "value": 0.0}
    comparison["differences"].insert(0, best)
    assert differences(document) == differences(regression)


def test_tolerance_is_printed(regression):
    lines = verdict(regression, tolerance=0.02)
    assert "within 2 points" in lines[1]["rule"]
