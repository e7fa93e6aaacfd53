"""The race runs, compares with the truth, and the page shows what was stored."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments.race import run, table
from experiments.race.peers import clock
from experiments.race.run import Race
from experiments.race.tasks import NAMES, TASKS
from experiments.scaling import COLUMNS, Scaling, markdown


ROOT = Path(__file__).parents[2]


def record(total: float, **more) -> dict:
    return {"runs": [{"total": 2 * total}, {"total": total}], "peak_bytes": 1e9, **more}


@pytest.mark.long
def test_race_runs_ntkuq_and_says_why_a_peer_did_not(tmp_path, capsys):
    race = Race(
        tasks=("T1_f64",),
        quick=True,
        repeat=1,
        work=tmp_path,
        out=tmp_path / "race.json",
    )
    race.execute()
    records = json.loads(race.out.read_text())["results"]["T1_f64"]
    ours = records.pop("ntkuq")
    assert ours["warm"]
    assert set(ours["runs"][0]) == {"fit", "predict", "total"}
    # a float64 posterior of condition about 1e4 against the dense one
    assert max(ours["errors"].values()) < 1e-10
    assert set(ours["errors"]) == {"mean", "cov", "logev"}
    assert {one["skipped"] for one in records.values()} == {"its Python was not given"}
    shown = capsys.readouterr().out
    assert "| T1_f64: full GGN" in shown


def test_a_skipped_contestant_keeps_its_earlier_result(tmp_path):
    race = Race(out=tmp_path / "race.json")
    race.merge("T1_f64", "laplace_torch", "backpack", record(3.0))
    race.merge("T1_f64", "laplace_torch", "backpack", {"skipped": "no Python"})
    race.merge("T1_f64", "ntkuq", "", record(0.03))
    results = json.loads(race.out.read_text())["results"]
    assert results["T1_f64"]["laplace_torch/backpack"]["runs"][1]["total"] == 3.0
    assert set(results["T1_f64"]) == {"laplace_torch/backpack", "ntkuq"}


def test_ratio_is_against_the_fastest_peer_and_every_mark_counts():
    peers = {
        "laplace_torch/backpack": record(4.0),
        "laplace_torch/curvlinops": record(5),
    }
    wrong, right = {"cov": 1e-9, "logev": 0.0}, {"cov": 1e-11, "logev": 0.0}
    for seconds, errors, reached in (
        (0.04, right, True),
        (0.06, right, False),  # 67 times
        (0.04, wrong, False),
    ):
        ours = {"ntkuq": record(seconds, errors=errors)}
        row = table.row("T1_f64", {"T1_f64": peers | ours})
        assert row is not None
        assert row["peer"] == "laplace_torch/backpack"
        assert row["ratio"] == pytest.approx(4.0 / seconds)
        assert row["reached"] is reached
    alone = table.row("T1_f64", {"T1_f64": ours})
    assert alone is not None
    assert alone["reached"] is None


def test_a_product_is_counted_in_gradients():
    runs = [{"gradient": 2.0, "product": 3.0}, {"gradient": 3.0, "product": 1.0}]
    found = table.seconds({"runs": runs}, TASKS["T9_ggnvp"])
    assert found == 0.5


def test_errors_are_relative_and_take_the_closer_convention(tmp_path):
    truth = tmp_path / "truth.npz"
    cov, other = np.diag([1.0, 100.0]), np.diag([2.0, 100.0])
    clock.store(
        truth,
        {"a/cov": cov, "a/exact-cov": other, "a/mean": np.array([1.0, 4.0])},
    )
    found = {"cov": np.diag([2.2, 100.0]), "mean": np.array([[1.0], [4.4]])}
    errors = table.errors(found, "a", truth)
    assert errors["cov"] == pytest.approx(0.1)
    assert errors["mean"] == pytest.approx(0.1)


def test_a_run_that_takes_too_long_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "PATIENCE", -1.0)
    given = clock.argparse.Namespace(out=tmp_path / "one", repeat=5)
    calls = []

    def work(laps):
        calls.append(laps)
        return {"a": np.zeros(1)}

    clock.run(given, work, {}, 2)
    found = json.loads((tmp_path / "one.json").read_text())
    assert len(calls) == 1
    assert not found["warm"]
    assert found["runs"] == [found["first"]]
    assert found["peak_bytes"] > 10e6


def test_unknown_names_and_failures_are_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected names among T1_f64"):
        Race(tasks=("T0",))
    failed = subprocess.CompletedProcess([], 3, "", "Error: no such task")
    monkeypatch.setattr(run.subprocess, "run", lambda *_, **__: failed)
    found = Race().one(tmp_path, "T1_f64", "ntkuq", "")
    assert found["failed"] == "exit code 3: Error: no such task"


def test_every_task_names_contestants_that_exist():
    for task in TASKS.values():
        for script, _ in task.peers:
            assert script in NAMES
            assert (run.PEERS / f"{script}.py").is_file()
        assert task.run is None or task.run in TASKS


@pytest.mark.long
def test_scaling_runs_each_point_in_its_own_process(tmp_path, capsys):
    Scaling(quick=True, out=tmp_path).execute()
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [row["N"] for row in rows] == [60]
    assert all(row["peak_bytes"] > 1e8 for row in rows)
    assert COLUMNS in capsys.readouterr().out
    assert (tmp_path / "scaling.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("name", "show"),
    [
        ("race", lambda stored: table.markdown(stored["results"])),
        ("scaling", lambda stored: markdown(stored["rows"])),
    ],
)
def test_tables_on_the_page_are_those_of_the_stored_runs(name, show):
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.S)
    stored = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    assert shown is not None
    assert shown[1].strip() == show(stored)
