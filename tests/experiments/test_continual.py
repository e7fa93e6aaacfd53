"""The experiments on continual learning: tables of stored runs, and small ones."""

import json
import re
from pathlib import Path

import pytest

from experiments.continual import published, width


ROOT = Path(__file__).parents[2]


def test_the_table_is_that_of_the_stored_run():
    text = (ROOT / "docs/continual.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- continual -->\n(.*?)<!-- end of continual -->", text, re.S)
    stored = json.loads((ROOT / "docs/results/continual.json").read_text())
    assert shown is not None
    table = shown[1].partition("|")
    assert (table[1] + table[2]).strip() == published.markdown(stored)


def test_two_ways_of_training_are_compared_over_widths(tmp_path, monkeypatch):
    monkeypatch.setattr(width, "setting", _tiny)
    ways = ("SGD, 5 epochs", "SGD, to 99.9 %")
    monkeypatch.setitem(
        width.WAYS, ways[1], width.Way(width.sgd(0.2, 1), "fitted")._replace()
    )
    run = width.Width(out=tmp_path, size="smoke", ways=ways)
    run.execute()
    found = json.loads((tmp_path / "forgetting-width.json").read_text())
    numbers = {claim["number"] for claim in found["claims"]}
    assert numbers == {18, 19, 20, 23}
    assert found["widths"] == [4, 8, 16]
    assert (tmp_path / "forgetting-width.svg").read_text().startswith("<?xml")
    with pytest.raises(SystemExit, match="--ways"):
        width.Width(out=tmp_path, ways=("other",)).execute()


def _tiny(size):
    import ntkuq as nq

    assert size in ("smoke", "cpu")
    return width._images(nq.data.load("digits"), 8, 100, 100), (4, 8, 16), 2
