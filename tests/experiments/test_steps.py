"""The optimization experiments at a small size, and their tables in the docs."""

import json
import re
from pathlib import Path

import pytest

from experiments.optimization import autoencoder, cost, poisson, steps


ROOT = Path(__file__).parents[2]
TABLES = {
    "step-cost": lambda found: cost.markdown(found["rows"]),
    "steps": lambda found: steps.markdown(found["rows"]),
    "poisson": lambda found: poisson.markdown(found["rows"]),
    "autoencoder": autoencoder.markdown,
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_stored_runs(name):
    text = (ROOT / "docs/optimization.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.S)
    stored = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    assert shown is not None
    assert shown[1].strip() == TABLES[name](stored)


def test_natural_gradient_needs_fewer_steps_than_adam(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "GOAL", 1e-2)
    monkeypatch.setattr(steps, "GAINS", (4.0,))
    monkeypatch.setattr(steps, "RATES", (1e-2,))
    monkeypatch.setattr(steps, "DECAYS", (300,))
    out = tmp_path / "steps.json"
    steps.Steps(data=("concrete",), width=64, most=4000, seeds=1, out=out).execute()
    exact, adam = json.loads(out.read_text())["rows"]
    assert exact["error"][0] < 1e-2
    assert exact["steps"][0] < adam["steps"][0] / 3


def test_the_poisson_equation_is_solved(tmp_path):
    out = tmp_path / "poisson.json"
    run = poisson.Poisson(
        width=32, interior=12, boundary=12, steps=100, adam=100, seeds=1, out=out
    )
    run.execute()
    exact, adam = json.loads(out.read_text())["rows"]
    assert exact["error"] < 1e-3
    assert adam["error"] > 10 * exact["error"]


@pytest.mark.long
def test_costs_are_measured(tmp_path):
    out = tmp_path / "cost.json"
    cost.StepCost(width=8, examples=3, batch=6, repeat=2, out=out).execute()
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 4
    assert all(row["ratio"] > 0 for row in rows)
