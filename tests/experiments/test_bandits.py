"""The bandit experiments: tables of stored runs, and small ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.decisions import bandit_race, bandit_tables, bandits
from ntkuq.decisions import bandits as nb


ROOT = Path(__file__).parents[2]


def shown(name):
    text = (ROOT / "docs/decisions.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.S)
    assert found is not None
    return found[1].strip()


@pytest.mark.parametrize("part", ["tables", "covariances", "study"])
def test_the_tables_are_those_of_the_stored_runs(part):
    stored = json.loads((ROOT / "docs/results/bandits.json").read_text())
    assert shown(f"bandit {part}") == bandit_tables.markdown(stored[part])


def test_the_claims_are_those_of_the_stored_runs():
    stored = json.loads((ROOT / "docs/results/bandits.json").read_text())
    assert shown("bandit claims") == bandit_tables.claims_markdown(stored["claims"])


def test_the_race_is_the_stored_one():
    stored = json.loads((ROOT / "docs/results/bandit-race.json").read_text())
    assert shown("bandit race") == bandit_race.markdown(stored["rows"])


def test_a_run_is_stored_once(tmp_path, monkeypatch):
    world = nb.Rows(np.eye(3), np.eye(3))
    run = bandits.Run("eye", "random", 8, lambda: (nb.Uniform(), world), 40, 2)
    first = bandits.stored(tmp_path, run)
    monkeypatch.setattr(nb, "run_bandit", None)
    again = bandits.stored(tmp_path, run)
    np.testing.assert_array_equal(first.arms, again.arms)
    row = bandits.row(run, again)
    assert row["regret"]["mean"] == pytest.approx(float(first.totals.mean()))
    assert "eye, 40 rounds, 2 seeds" in bandit_tables.markdown([row])


def test_claims_are_decided_for_each_environment():
    def result(slope):
        regrets = slope * np.ones((3, 100)) + 0.01 * np.arange(3)[:, None]
        empty = np.zeros_like(regrets)
        return nb.BanditResult(regrets, empty, empty, empty, empty, empty, 0.0)

    slopes = {"random": 0.8, "greedy": 0.2, "evidence": 0.1}
    slopes |= {"theory": 0.8, "theory's limit": 0.4}
    runs = [
        bandits.Run("square", policy, 8, lambda: (None, None), 100, 3)
        for policy in slopes
    ]
    found = bandits.claims(runs, [result(slope) for slope in slopes.values()])
    assert [one["number"] for one in found] == [15, 16, 17, 15, 17]
    assert [one["word"] for one in found[:2]] == ["refuted", "confirmed"]
    table = bandit_tables.claims_markdown(found)
    assert "| square | 8 | 70 (70 to 70): refuted |" in table
