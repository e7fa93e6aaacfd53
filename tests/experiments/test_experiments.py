"""The experiments run, and find what the documentation says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import ntkuq as nq
from experiments import ensembles, gp_images, gp_uci, kernels, reference, scores
from experiments.agreement import Agreement
from experiments.training import run as training
from experiments.uci import COLUMNS, markdown, summary


ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_two_views_of_the_posterior_of_the_default_network_agree(tmp_path, capsys):
    Agreement(out=tmp_path, steps=200).execute()
    document = json.loads((tmp_path / "agreement.json").read_text())
    assert set(document["differences"]) == {"variance", "covariance", "evidence"}
    assert max(document["differences"].values()) < 1e-8
    assert "largest relative difference" in capsys.readouterr().out


def test_summary_is_mean_and_standard_error_over_splits():
    rows = [dict.fromkeys(COLUMNS, value) for value in (1.0, 2.0, 6.0)]
    found = summary(rows)["nll"]
    assert found["mean"] == 3.0
    assert np.isclose(found["se"], np.sqrt(7.0 / 3))
    table = markdown({"worse": summary(rows), "best": summary(rows[:2])})
    assert table.index("best") < table.index("worse")
    assert "1.50 ± 0.50" in table


@pytest.mark.parametrize("page", ["README.md"])
def test_table_on_a_page_is_that_of_the_stored_run(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.search(r"<!-- results -->\n(.*?)<!-- end of results -->", text, re.S)
    stored = json.loads((ROOT / "docs/results/uci-concrete-0-4.json").read_text())
    assert stored["splits"] == 5
    assert shown is not None
    assert shown[1].strip() == markdown(stored["table"])
    # the bounds that the project promises for concrete
    nll = {name: row["nll"]["mean"] for name, row in stored["table"].items()}
    best = min(nll, key=nll.get)
    assert len(nll) == 8
    assert nll[best] <= 2.95
    assert stored["table"][best]["rmse"]["mean"] <= 5.0
    assert max(nll.values()) <= 3.3


TABLES = {
    ("gp", "gp-uci"): lambda found: gp_uci.overview(found["sets"]),
    ("gp", "gp-images"): lambda found: gp_images.markdown(found["rows"]),
    ("gp", "kernels"): lambda found: kernels.markdown(found["rows"]),
    ("ensembles", "ensembles"): lambda found: ensembles.markdown(found["sets"]),
    ("ensembles", "training"): lambda found: training.markdown(found["rows"]),
    ("calibration", "scores"): lambda found: scores.markdown(found["rows"]),
    ("reference", "reference"): lambda found: reference.markdown(found["rows"]),
    ("reference", "reference-energy-gap"): lambda found: reference.markdown(
        found["rows"]
    ),
}


@pytest.mark.parametrize(("page", "name"), TABLES)
def test_tables_are_those_of_the_stored_runs(page, name):
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.S)
    stored = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    assert shown is not None
    assert shown[1].strip() == TABLES[page, name](stored)


def test_ensembles_are_trained_scored_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ensembles, "recipe", lambda size: nq.Train(1e-2, steps=20))
    run = ensembles.Ensembles(data=("concrete",), splits=2, size=2, out=tmp_path)
    run.execute()
    stored = json.loads((tmp_path / "ensembles.json").read_text())
    rows = stored["sets"]["concrete"]["rows"]
    assert [row["split"] for row in rows] == [0, 1]
    monkeypatch.setattr(ensembles, "recipe", None)
    # finished splits are read, not trained again
    run.execute()
    assert "concrete" in capsys.readouterr().out


def test_training_is_timed_without_peers(tmp_path, monkeypatch):
    short = training.TASKS["mlp"]._replace(members=2, epochs=1)
    monkeypatch.setitem(training.TASKS, "mlp", short)
    training.Training(tasks=("mlp",), repeat=1, out=tmp_path).execute()
    (row,) = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert row["seconds"]["ntkuq"] > 0
    assert row["over_loop"] is None
