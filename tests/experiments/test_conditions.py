"""The study of conditions runs at smoke size, resumes, and counts as it says."""

import json
import math
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.optimization import conditions, probes, problems, summary
from experiments.optimization.conditions import ConditionsStudy
from experiments.optimization.curves import (
    chosen,
    reached,
    taken,
    thinned,
    trained,
)
from experiments.optimization.figures import FIGURES


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The finished study: its folder and its document."""
    folder = tmp_path_factory.mktemp("conditions")
    ConditionsStudy("smoke", folder, workers=1).execute()
    return folder, json.loads((folder / "conditions.json").read_text())


def test_every_network_is_measured_and_every_figure_drawn(study):
    folder, document = study
    # three parametrizations, two seeds
    assert len(document["rows"]) == 6
    assert len(document["limits"]) == 3
    for name in FIGURES:
        assert (folder / f"{name}.png").stat().st_size > 1_000
        text = (folder / f"{name}.svg").read_text(encoding="utf-8")
        assert text.count("<path") > 10
    table = summary.markdown(document["rows"], document["limits"])
    lines = table.splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert "slow" not in table


def test_the_page_is_that_of_the_stored_study():
    root = Path(__file__).parents[2]
    stored = json.loads((root / "docs/results/conditions.json").read_text())
    text = (root / "docs/optimization-study.md").read_text(encoding="utf-8")
    tables = {
        "conditions": summary.markdown(stored["rows"], stored["limits"]),
        "claims": summary.claims_markdown(stored["claims"]),
    }
    for name, table in tables.items():
        shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.S)
        assert shown is not None
        assert shown[1].strip() == table
    assert summary.claims(stored["rows"])[1]["value"] == pytest.approx(
        stored["claims"][1]["value"]
    )


def test_numbers_are_consistent(study):
    _, document = study
    for row in document["rows"]:
        assert 0 < row["least"] < row["most"]
        assert row["constant"] == max(row["constants"].values())
        # the path is a part of the ball
        assert 0 < row["used_radius"] < 1
        full = row["curves"]["natural gradient, η = 1"]
        assert full["squares"][0] == 1.0
        assert full["reached"] == row["natural_steps"] or full["reached"] is None
        # a step of gradient descent below 2 / λ_max makes progress at first
        descent = row["curves"]["gradient descent"]["squares"]
        assert min(descent) < 1.0


def test_a_finished_study_is_read_again(study, monkeypatch, capsys):
    folder, document = study
    monkeypatch.setattr(conditions, "one", None)
    ConditionsStudy("smoke", folder, workers=1).execute()
    again = json.loads((folder / "conditions.json").read_text())
    assert again["rows"] == document["rows"]
    assert "written" in capsys.readouterr().out


def test_another_effort_is_another_unit(study, monkeypatch):
    folder, _ = study
    size = conditions.SIZES["smoke"]
    unit = next(unit for unit in conditions.units(size) if unit.seed == 0)
    monkeypatch.setattr(conditions, "one", lambda unit, size: {"least": size.points})
    run = ConditionsStudy("smoke", folder, workers=1)
    assert run.stored(unit, size)["least"] != 9
    assert run.stored(unit, size._replace(points=9))["least"] == 9


def test_all_sizes_have_all_that_they_name():
    for size in conditions.SIZES.values():
        units = list(conditions.units(size))
        assert len(units) == len(set(units))
        assert not any(
            u.data == "toy" and u.network in ("cnn", "resnet") for u in units
        )
        assert {u.parametrization for u in units} == set(problems.PARAMETRIZATIONS)


def test_only_the_limit_of_the_standard_parametrization_grows_with_the_width():
    x = jnp.asarray(problems.task("toy", 6, 1, images=False).x, jnp.float32)

    def least(width, name):
        return np.linalg.eigvalsh(problems.limit("shallow", x, width, name))[0]

    assert least(8, "ntk") == least(64, "ntk")
    assert least(8, "mup") == least(64, "mup")
    # the readout's part grows eightfold, the first layer's does not
    assert 1 < least(64, "standard") / least(8, "standard") < 8


def test_a_kernel_without_full_rank_is_not_divided_by():
    data = problems.task("toy", 6, 1, images=False)
    same = problems.Task(np.repeat(data.x[:3], 2, axis=0), data.y)
    effort = probes.Effort(1, 12, 2, 2)
    found = probes.measure("shallow", same, 8, "ntk", 0, effort)
    assert not found["sure"]
    assert "constant" not in found
    group = summary.Group("shallow", "toy", "ntk", 8, [found])
    assert group.outcome() is None


def test_toy_points_lie_on_the_sphere():
    data = problems.task("toy", 32, 4, images=False)
    np.testing.assert_allclose(np.linalg.norm(data.x, axis=1), 1.0)
    assert np.abs(data.y).max() <= 1.0
    with pytest.raises(ValueError, match="no images"):
        problems.task("toy", 32, 4, images=True)


def test_pooled_images_are_means_of_squares(monkeypatch):
    from experiments import pictures

    levels = np.arange(4 * 4 * 4, dtype=np.float32).reshape(4, 4, 4)
    some = pictures.Pictures(levels, np.array([0, 1, 0, 1]), levels, np.zeros(4))
    monkeypatch.setattr(pictures, "load", lambda name: some)
    found = problems.task("mnist", 4, 2, images=True)
    assert found.x.shape == (4, 1, 2, 2)
    assert sorted(found.y[:, 0]) == [-1, -1, 1, 1]
    # within a picture the four means differ by 2 and 8, in units of one deviation
    first = found.x[0, 0]
    assert math.isclose((first[1, 0] - first[0, 0]) / (first[0, 1] - first[0, 0]), 4.0)
    flat = problems.task("mnist", 4, 2, images=False)
    np.testing.assert_allclose(flat.x, found.x.reshape(4, -1))


def test_curves_are_thinned_and_the_best_chosen():
    squares = np.array(
        [[4.0, 1.0, 1.0, 1.0], [4.0, 9.0, 3e-8, -1.0], [4.0, np.nan, -1.0, -1.0]]
    )
    best = chosen(squares, np.array([0.1, 0.2, 0.3]), [jnp.arange(3.0)])
    assert (best.rate, best.reached, best.leaves) == (0.2, 2.0, [1.0])
    assert (len(best.squares), best.tried) == (3, 3)
    assert reached(squares[0]) == math.inf
    long = thinned(np.ones(1001))
    assert long["steps"][0] == 0
    assert long["steps"][-1] == 1000
    assert len(long["steps"]) <= 41


def test_training_ends_where_the_goal_is_far_behind_or_out_of_reach():
    def multiply(factor):
        return lambda carry, _: (carry * factor, carry * factor)

    for factor, first, count in (
        (1e-5, 1.0, 2),
        (0.5, 1.0, 5),
        (np.inf, 1.0, 1),
        (np.nan, 1.0, 1),
        (0.5, 0.0, 0),
    ):
        begin = jnp.full((), first)
        end, squares = trained(multiply(factor), begin, begin, 5)
        assert len(taken(np.asarray(squares))) == count + 1
        np.testing.assert_array_equal(end, squares[count])


def row(constant, rates, condition, descent, natural=5.0):
    return {
        "sure": True,
        "constant": constant,
        "contractions": rates,
        "least": 1.0,
        "most": condition,
        "natural_steps": natural,
        "descent_steps": descent,
        "steps": 100,
    }


def test_outcomes_are_of_networks_and_take_the_worst_seed():
    lazy = {"0.25": 0.5625, "0.5": 0.25, "1.0": 0.0}
    late = lazy | {"0.5": 0.4}
    names = ("shallow", "toy", "ntk", 8)
    one = summary.Group(*names, [row(0.1, lazy, 4.0, 10.0), row(0.7, late, 8.0, None)])
    found = one.outcome()
    assert found is not None
    assert found.constant == 0.7
    assert not found.kept
    # not arrived counts as many as were tried: at least 20 times as many
    assert found.ratio == np.median([2.0, 20.0])
    assert found.condition == 6.0
    kept = summary.Group(*names, [row(9.0, lazy, 4.0, 10.0)]).outcome()
    assert kept is not None
    assert kept.kept  # whatever C′ says


def test_claims_come_from_link(study):
    _, document = study
    nine, eight = document["claims"]
    assert (nine["number"], eight["number"]) == (9, 8)
    assert re.match(r"3 networks", nine["note"])
