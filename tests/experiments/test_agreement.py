"""The experiments run, and find what the documentation says."""

import json

import numpy as np

from experiments.agreement import Agreement
from experiments.uci import COLUMNS, markdown, summary


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
