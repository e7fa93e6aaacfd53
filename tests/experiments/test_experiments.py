"""The experiments run, and find what the documentation says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import gp_images, gp_uci, kernels
from experiments.agreement import Agreement
from experiments.uci import COLUMNS, markdown, summary


ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("gp-uci", lambda found: gp_uci.overview(found["sets"])),
        ("gp-images", lambda found: gp_images.markdown(found["rows"])),
        ("kernels", lambda found: kernels.markdown(found["rows"])),
    ],
)
def test_tables_of_gaussian_processes_are_those_of_the_stored_runs(name, table):
    text = (ROOT / "docs/gp.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.S)
    stored = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    assert shown is not None
    assert shown[1].strip() == table(stored)
