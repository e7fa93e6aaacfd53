"""What a search does with input that is wrong, and with evaluations that fail."""

import re

import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.data import Checkpoint
from ntkuq.decisions import LogEI
from ntkuq.decisions.search import BayesOpt, Box, Outcome, run


GRID = Box([0, 0], [1, 2], integer=[True, True])
LINE = Box([-1.0], [2.0])


def started(box: Box, **options):
    bnn = nq.BNN(nq.Network(nq.models.mlp(box.size, 1, width=8)), nq.Gaussian())
    search = BayesOpt(nq.GP(), LogEI(), box, **options)
    return search, search.init(bnn, key=jax.random.key(0))


def test_a_box_of_whole_variables_has_an_end():
    assert GRID.count == 6
    assert Box([0, 0.0], [1, 1.0], integer=[True, False]).count == np.inf
    search, state = started(GRID, initial=6)
    x = np.array([[a, b] for a in (0, 1) for b in (0, 1, 2)], float)
    # a point that is told again takes no further place
    state = search.tell(state, x[[0, 0, 1, 2, 3]], np.arange(5.0))
    with pytest.raises(ValueError, match="at most the 2 points"):
        search.ask(state, 3)
    state = search.tell(state, x[4:], [0.0, 0.0])
    with pytest.raises(ValueError, match="at most the 0 points"):
        search.ask(state)
    with pytest.raises(ValueError, match="at most 6 evaluations"):
        run(search, state, lambda x: 0.0, evaluations=7)


def test_evaluations_that_all_fail_keep_to_the_design():
    search, state = started(LINE, constraints=1)
    x, _ = search.ask(state, 5)
    failed = search.tell(state, x, np.full(5, np.nan), np.full((5, 1), np.nan))
    # a value without its constraint says as little
    half = search.tell(state, x, np.arange(5.0), np.full((5, 1), np.nan))
    for told in (failed, half):
        assert told.best is None
        new, after = search.ask(told)
        assert after.diagnostics["chosen by"] == "Sobol"
        assert np.abs(new - x).min() > 1e-6


@pytest.mark.parametrize("value", [None, "1", [1.0, 2.0], {}], ids=repr)
def test_an_objective_without_a_number_is_an_error_of_its_author(value):
    search, state = started(LINE)
    with pytest.raises(TypeError, match=re.escape(f"got {value!r}")):
        run(search, state, lambda x: value, evaluations=1)


@pytest.mark.parametrize("value", [2, True, np.array([2.0]), np.float32(2.0)], ids=repr)
def test_one_number_of_any_kind_is_a_value(value):
    search, state = started(LINE)
    found = run(search, state, lambda x: value, evaluations=1)
    assert found.state.y.tolist() == [float(np.ravel(value)[0])]
    assert not found.failures


def test_constraints_have_to_fit():
    search, state = started(LINE, constraints=1)
    with pytest.raises(ValueError, match="1 constraint outcomes, got 2"):
        run(search, state, lambda x: Outcome(0.0, np.zeros(2)), evaluations=1)
    with pytest.raises(ValueError, match="1 constraint outcomes, got 0"):
        run(search, state, lambda x: 0.0, evaluations=1)


def test_a_killed_search_goes_on_and_remembers_its_failures(tmp_path):
    search, state = started(LINE, initial=6)
    checkpoint = Checkpoint(tmp_path / "search.npz", "a")
    calls = []

    def objective(x):
        calls.append(x)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        if len(calls) == 4:
            raise KeyboardInterrupt
        return np.nan if len(calls) == 3 else float(x[0])

    with pytest.raises(KeyboardInterrupt):
        run(search, state, objective, evaluations=5, checkpoint=checkpoint)
    found = run(search, state, objective, evaluations=5, checkpoint=checkpoint)
    # the evaluation that was killed is made again, at the same point
    assert len(calls) == 6
    assert np.array_equal(calls[3], calls[4])
    assert np.isnan(found.state.y).tolist() == [False, True, True, False, False]
    assert [row for row, _ in found.failures] == [1, 2]
    assert found.failures[0][1] == "RuntimeError: no memory"
    assert found.failures[1][1].startswith("value not finite: nan")


@pytest.mark.parametrize(
    ("lower", "upper", "integer", "message"),
    [
        ([0.0, 3.0], [1.0, 2.0], None, "got 3.0 and 2.0 for variable 1: exchange"),
        ([0.0, 1.5], [1.0, 4.0], [False, True], "whole variable 1, got 1.5 and 4.0"),
        ([0.0, np.nan], [1.0, 2.0], None, "finite bounds"),
        ([0.0], [1.0, 2.0], None, "one shape"),
        ([0.0, 0.0], [1.0, 2.0], [True], "one shape"),
    ],
)
def test_bounds_that_are_wrong_are_named(lower, upper, integer, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Box(lower, upper, integer)
