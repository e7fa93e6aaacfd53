"""The experiments on continual learning: tables of stored runs, and small ones."""

import json
import re
from pathlib import Path

import pytest

from experiments.continual import published, race, width, width_views


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("mark", "name", "markdown"),
    [
        ("continual", "continual", published.markdown),
        ("race on two cores", "continual-race", race.markdown),
        ("race on one core", "continual-race-one-core", race.markdown),
        ("width", "forgetting-width", width_views.markdown),
    ],
)
def test_the_tables_are_those_of_the_stored_runs(mark, name, markdown):
    text = (ROOT / "docs/continual.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {mark} -->\n(.*?)<!-- end of {mark} -->", text, re.S)
    stored = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    assert shown is not None
    table = shown[1].partition("|")
    assert (table[1] + table[2]).strip() == markdown(stored)


@pytest.mark.long
def test_two_ways_of_training_are_compared_over_widths(tmp_path, monkeypatch):
    monkeypatch.setattr(width, "setting", _tiny)
    ways = ("SGD, 5 epochs", "SGD, to 99.9 %")
    monkeypatch.setitem(width.WAYS, ways[1], width.Way(width.sgd(0.3, 20), "fitted"))
    run = width.Width(out=tmp_path, size="smoke", ways=ways)
    run.execute()
    found = json.loads((tmp_path / "forgetting-width.json").read_text())
    numbers = {claim["number"] for claim in found["claims"]}
    assert numbers == {18, 19, 20, 23}
    assert found["widths"] == [4, 8, 16]
    table = width_views.markdown(found)
    lost = [sum(one[k] for one in found["arms"][ways[0]]["forgetting"]) for k in (0, 2)]
    assert f"| {ways[0]} | 4 to 16 |" in table
    assert f"| {lost[0] / 2:.3f} to {lost[1] / 2:.3f} |" in table
    assert (tmp_path / "forgetting-width.svg").read_text().startswith("<?xml")
    with pytest.raises(SystemExit, match="--ways"):
        width.Width(out=tmp_path, ways=("other",)).execute()


def _tiny(size):
    import ntkuq as nq

    assert size in ("smoke", "cpu")
    return width._images(nq.data.load("digits"), 8, 100, 100), (4, 8, 16), 2


def test_ratios_of_the_race_are_of_the_fastest_turns():
    def turn(loop, one, five):
        every = {"loop": loop, "one": one, "five": five}
        return {"load": 1.0} | {
            name: {"seconds": s, "processor": 2 * s, "accuracy": 0.9}
            for name, s in every.items()
        }

    document = {
        "machine": {"cores": 2},
        "first": {"seconds": 9.0, "processor": 12.0, "accuracy": 0.9},
        "turns": [turn(13.0, 5.0, 16.0), turn(12.0, 6.0, 15.0)],
    }
    found = race.summary(document)
    assert found["loop over one, seconds"] == pytest.approx(12 / 5)
    assert found["five over one, processor"] == pytest.approx(15 / 5)
    table = race.markdown(document)
    assert "| ntkuq, one seed | 5.0 | 10.0 | 90.0 |" in table
    assert "in wall time 2.40 and 3.00" in table


def test_both_sides_of_the_race_permute_alike(tmp_path):
    import jax
    import numpy as np

    import ntkuq as nq
    from ntkuq.continual import permuted

    rng = np.random.default_rng(0)
    part = nq.Dataset(rng.normal(size=(3, 784)).astype(np.float32), [0, 1, 2])
    data = nq.Split(part, None, part)
    stream = permuted(data, 3, key=jax.random.key(0))
    race.write(tmp_path / "race.npz", data, stream)
    with np.load(tmp_path / "race.npz", allow_pickle=False) as archive:
        for task, order in zip(stream, archive["orders"], strict=True):
            assert np.array_equal(task.train.x, archive["x"][:, order])
