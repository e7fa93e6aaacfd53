"""`ntkuq bandit`: reading its flags, and the document."""

import json

import pytest

import ntkuq as nq
from ntkuq.cli.bandit import load_environment, load_policy
from ntkuq.cli.commands.bandit import Bandit
from ntkuq.cli.errors import UsageError
from ntkuq.decisions import bandits as nb


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
