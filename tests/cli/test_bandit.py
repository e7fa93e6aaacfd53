"""`ntkuq bandit`: reading its flags, and the document."""

import json

import numpy as np
import pytest

import ntkuq as nq
from ntkuq.cli.bandit import load_environment, load_policy
from ntkuq.cli.commands.bandit import Bandit
from ntkuq.cli.errors import UsageError
from ntkuq.decisions import bandits as nb
from ntkuq.report import html
from ntkuq.report.bandit import bandit_document, bandit_page
from ntkuq.report.bandit.document import verdict


def test_a_run_writes_its_document(tmp_path, capsys):
    command = Bandit(
        env="Wheel(0.5)",
        policy="UCB(NeuralRewards(Perceptron(width=4), training=Adam(steps=5)))",
        rounds=60,
        seeds=2,
        out=str(tmp_path / "run"),
    )
    assert command.execute() == 0
    document = json.loads((tmp_path / "run" / "bandit.json").read_text())
    assert document["schema"] == "ntkuq/bandit/1"
    assert document["seeds"] == 2
    assert not (tmp_path / "run" / "bandit-checkpoint.npz").exists()
    printed = capsys.readouterr().out
    assert f"{document['regret']['mean']:.1f}" in printed
    assert "round 60 of 60" in printed
    assert "Better than random arms?" in printed
    page = (tmp_path / "run" / "report.html").read_text()
    for heading in ("What is regretted: Wheel(0.5)", "Honest where it chose"):
        assert heading in page
    assert "<svg" in page


def test_names_mean_the_covariance_only_within_neural_rewards():
    inner = load_policy("UCB(NeuralRewards(covariance=LastLayer()))")
    assert isinstance(inner.model.covariance, nb.LastLayer)
    outer = load_policy("UCB(Laplace(subset=LastLayer()))")
    assert isinstance(outer.model, nq.Laplace)


@pytest.mark.parametrize("text", ["Laplace()", "UCB(3)", "NeuralRewards()"])
def test_other_policies_are_refused(text):
    with pytest.raises(UsageError, match=r"--policy: expected"):
        load_policy(text)


@pytest.mark.parametrize("text", ["iris", "UCB(NeuralRewards())"])
def test_other_environments_are_refused(text):
    with pytest.raises(UsageError, match=r"--env|not a known"):
        load_environment(text)


def test_no_rounds_are_refused():
    with pytest.raises(UsageError, match="--rounds"):
        Bandit(env="Wheel(0.5)", rounds=0).execute()


def interval(mean, lower, upper):
    return {"mean": mean, "lower": lower, "upper": upper}


@pytest.mark.parametrize(
    ("gap", "exponent", "coverage", "answers"),
    [
        ((-5.0, -9.0, -1.0), (0.5, 0.4, 0.6), (0.9, 0.88, 0.92), ["Yes"] * 3),
        ((5.0, 1.0, 9.0), (1.2, 1.1, 1.3), (0.6, 0.5, 0.7), ["No"] * 3),
        ((-1.0, -3.0, 1.0), (0.9, 0.8, 1.1), (0.9, 0.8, 0.99), ["Unknown"] * 3),
        ((-5.0, None, None), (None, None, None), (0.9, None, None), ["Unknown"] * 3),
    ],
)
def test_the_verdict_follows_whole_intervals(gap, exponent, coverage, answers):
    document = {
        "rounds": 10,
        "seeds": 2,
        "regret": interval(1.0, 0.5, 1.5),
        "random": interval(6.0, 5.0, 7.0),
        "minus_random": interval(*gap),
        "exponent": interval(*exponent),
        "calibration": [
            {"from": 0, "to": 5, "count": 0, "coverage_90": interval(*[None] * 3)},
            {"from": 5, "to": 10, "count": 10, "coverage_90": interval(*coverage)},
        ],
    }
    assert [record["answer"] for record in verdict(document)] == answers


def test_text_from_outside_is_escaped_on_the_page():
    none = np.zeros((2, 20))
    found = nb.BanditResult(none, none, none, none, none, none, 0.0)
    document = bandit_document(
        found,
        found,
        environment="<script>alert(1)</script>",
        policy="<b>",
        provenance={"command": "<i>", "ntkuq": "1", "created": "now"},
    )
    page = html.render(bandit_page(document))
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page
