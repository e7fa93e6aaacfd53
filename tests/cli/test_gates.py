"""`--fail-on`: what it reads, and when it fires."""

import pytest

from ntkuq.cli import gates
from ntkuq.cli.errors import UsageError


def document(value=0.85, status="done", **method):
    """A run of one method with one coverage."""
    score = {"value": value, "se": 0.02, "n": 100, "interval": None}
    scores = {"nll": score | {"value": 1.0}, "coverage_90": score}
    return {
        "problem": {"task": "regression", "data": {"warnings": []}},
        "methods": [
            {"label": "MAP", "status": status, "reason": "boom", "scores": scores}
            | method
        ],
        "comparison": None,
    }


@pytest.mark.parametrize(
    ("text", "fires"),
    [
        ("coverage<0.88", True),
        ("coverage<0.85", False),
        ("coverage <= 0.85", True),
        ("coverage_90>0.8", True),
        ("coverage>=0.86", False),
        ("nll>1e0", False),
        ("nll>=1.0", True),
        ("nll<-inf", False),
    ],
)
def test_a_score_on_this_side_of_a_number(text, fires):
    found = gates.met(gates.read_gates([text]), document())
    assert len(found) == fires
    if fires:
        assert "MAP has" in found[0]
        assert text in found[0]


@pytest.mark.parametrize(
    "text",
    [
        *("", "issues", "coverage", "coverage=0.9", "coverage==0.9", "<0.9"),
        *("coverage<", "coverage<0.9<1", "coverage<nan", "coverage<high"),
        *("__import__('os')<1", "a.b<1", "1<coverage", "coverage<0.9; x"),
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match="expected issue, tip, or a score"):
        gates.read_gates([text])


def test_a_name_without_its_level_is_the_one_nearest_to_90():
    names = ["nll", "coverage_50", "coverage_95", "width_80", "ece_equal_count"]
    assert gates.resolved("coverage", names) == "coverage_95"
    assert gates.resolved("width", names) == "width_80"
    assert gates.resolved("nll", names) == "nll"
    assert gates.resolved("ece", names) is None
    assert gates.resolved("cover", names) is None


def test_a_score_that_is_missing_cannot_pass():
    held = gates.read_gates(["crps>5", "nll>5"])
    found = gates.met(held, document(omitted={"crps": "no samples"}))
    assert found == ["--fail-on crps>5: MAP has no crps: no samples"]
    assert gates.met(gates.read_gates(["coverage<0"]), document(value=None))
    assert not gates.met(held, document(status="failed"))


def test_issues_and_tips():
    run = document(status="failed")
    assert "boom" in gates.met(gates.read_gates(["issue"]), run)[0]
    run = document(status="skipped")
    assert not gates.met(gates.read_gates(["issue"]), run)
    assert "skipped" in gates.met(gates.read_gates(["tip"]), run)[0]


def test_unknown_names_are_refused_before_anything_is_fitted():
    held = gates.read_gates(["tip", "covrage<0.9"])
    with pytest.raises(UsageError, match="'covrage'; there are nll, coverage_90"):
        gates.check_names(held, ["nll", "coverage_90"])
    gates.check_names(gates.read_gates(["tip", "coverage<0.9"]), ["coverage_90"])


def test_names_of_the_scores_of_a_task():
    names = gates.score_names("regression", (0.8,))
    assert {"nll", "rmse", "coverage_80"} <= set(names)
    assert "coverage_90" not in names
    assert {"nll", "brier", "accuracy"} <= set(gates.score_names("classification", ()))
