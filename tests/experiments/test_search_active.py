"""Searches and active learning: summaries by hand, and the pages' tables."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.decisions import active, search, search_table
from ntkuq.decisions.search import branin


ROOT = Path(__file__).parents[2]
TABLES = {
    "active": lambda found: active.markdown(found["tasks"]),
    "search": lambda found: search.markdown(found["functions"]),
}


def stored(name):
    return json.loads((ROOT / f"docs/results/{name}.json").read_text())


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_stored_runs(name):
    text = (ROOT / "docs/decisions.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.S)
    assert shown is not None
    assert shown[1].strip() == TABLES[name](stored(name))


def test_the_search_reaches_its_goal_where_botorch_was_run():
    for name in ("branin", "hartmann6"):
        rows = stored("search")["functions"][name]["rows"]
        assert rows["GP"]["median"][-1] <= search.GOAL
        for label in search.BOTORCH:
            # the first seeds of both began at the same points
            peer = rows[label]["final"]
            assert np.median(rows["GP"]["final"][: len(peer)]) < np.median(peer)


def test_calibration_on_the_page_is_that_of_the_stored_run():
    text = " ".join((ROOT / "docs/decisions.md").read_text(encoding="utf-8").split())
    functions = stored("search")["functions"]

    def ends(name, label):
        sixths = functions[name]["rows"][label]["rms_z_by_sixth"]
        return f"{sixths[0]:.1f}", f"{sixths[-1]:.1f}"

    (a, b), (c, d) = ends("branin", "GP"), ends("hartmann6", "GP")
    shown = f"from {a} in the first sixth of a search to {b} in the last on Branin"
    assert f"{shown}, and from {c} to {d} on Hartmann 6" in text
    (a, b), (c, d) = ends("branin", "BoTorch"), ends("hartmann6", "BoTorch")
    assert f"that of BoTorch from {a} to {b} and from {c} to {d}" in text
    rough = [
        functions[name]["rows"]["GP"]["calibration"]["rms_z"]
        for name in ("ackley10", "tuning")
    ]
    assert f"is {rough[0]:.1f} and {rough[1]:.1f} over the whole" in text


def test_regret_is_the_best_so_far_over_the_minimum():
    function = branin()
    y = function.minimum + np.array([[3.0, 5.0, 1.0, 0.0], [4.0, 2.0, 3.0, 5e-4]])
    runs = [
        {
            "y": row.tolist(),
            "mean": [None, *(row[1:] - 1.0)],
            "std": [None, 1.0, 1.0, 1.0],
            "seconds_per_round": 1.0,
        }
        for row in y
    ]
    found = search.summary(function, runs)
    assert np.allclose(found["median"], [3.5, 2.5, 1.5, 2.5e-4])
    assert found["evaluations to the goal"] == 4
    assert found["calibration"]["count"] == 6
    assert np.isclose(found["calibration"]["rms_z"], 1.0)


def test_points_without_a_model_are_searched_and_kept(tmp_path, capsys):
    run = search.Search("smoke", methods=(search.SOBOL,), out=tmp_path)
    run.execute()
    first = json.loads((tmp_path / "search.json").read_text())
    assert "Sobol points" in capsys.readouterr().out
    kept = tmp_path / "search" / "branin-Sobol points-0.json"
    document = json.loads(kept.read_text())
    document["run"]["y"][0] = branin().minimum
    kept.write_text(json.dumps(document))
    run.execute()
    again = json.loads((tmp_path / "search.json").read_text())
    regret = again["functions"]["branin"]["rows"]["Sobol points"]["final"]
    assert regret[0] == 0.0
    before = first["functions"]["branin"]["rows"]["Sobol points"]["final"]
    assert regret[1] == before[1] > 0.0


def test_the_table_of_settings_is_a_whole_objective():
    function = search_table.tuning()
    rmse = np.array(stored("search-table")["rmse"])
    assert function.box.count == rmse.size == 448
    at = np.array(np.unravel_index(rmse.argmin(), rmse.shape))
    assert function((function.box.lower + at)[None])[0] == function.minimum
    assert function(function.box.upper[None])[0] == rmse[-1, -1, -1]
    # no setting at the end of an axis is as good as the best by chance of rounding
    assert np.sum(rmse == rmse.min()) == 1


def test_reducing_the_variance_beats_labels_at_random_in_the_stored_run():
    rows = stored("active")["tasks"]["concrete"]["rows"]
    (row,) = [row for row in rows if row["query"] == "VarianceReduction"]
    assert row["curve"]["seeds"] == 20
    assert row["last"]["upper"] < 0


def test_differences_from_uniform_are_paired():
    def runs(values):
        return [
            {
                "labels": [2, 4],
                "scores": {"rmse": [1.0, value]},
                "at_chosen": 0.5,
                "at_test": 0.9,
            }
            for value in values
        ]

    task = active.CONCRETE
    found = active.summary(
        task,
        {"GP": {active.UNIFORM: runs([5.0, 9.0]), "EPIG": runs([4.0, 7.0])}},
    )
    last = found["rows"][1]["last"]
    assert last["mean"] == -1.5
    # t with one degree of freedom: tan(0.475 pi) = 12.706; standard error 0.5
    assert np.isclose(last["upper"], -1.5 + 0.5 * np.tan(0.475 * np.pi))
    assert found["rows"][1]["whole"]["mean"] == -0.75
    assert "last" not in found["rows"][0]
    assert "-1.500" in active.markdown({"concrete": found})


@pytest.mark.long
def test_active_learning_runs_and_goes_on_from_its_files(tmp_path, capsys):
    run = active.Active("smoke", out=tmp_path)
    run.execute()
    found = json.loads((tmp_path / "active.json").read_text())
    rows = found["tasks"]["concrete"]["rows"]
    assert [row["query"] for row in rows] == ["Uniform", "VarianceReduction"]
    # the first labels are the same, and so is the first score
    first = [row["curve"]["mean"][0] for row in rows]
    assert first[0] == first[1]
    run.execute()
    assert json.loads((tmp_path / "active.json").read_text())["tasks"] == found["tasks"]
    assert "VarianceReduction" in capsys.readouterr().out
