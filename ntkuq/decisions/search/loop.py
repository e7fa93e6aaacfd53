"""Run a search: evaluate, record what fails, go on where a killed run stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ntkuq.data import Checkpoint
from ntkuq.decisions.search.bayesopt import BayesOpt
from ntkuq.decisions.search.state import SearchState


class Outcome(NamedTuple):
    """What an objective with constraints returns for one point.

    Args:
        y: the value.
        constraints: outcomes (C,), feasible where >= 0.
    """

    y: float
    constraints: Float[np.ndarray, " C"]


class Searched(NamedTuple):
    """The state at the end, and what went wrong: row of the point and message."""

    state: SearchState
    failures: tuple[tuple[int, str], ...]


def run(
    search: BayesOpt,
    state: SearchState,
    objective: Callable[[Float[np.ndarray, " D"]], float | Outcome],
    *,
    evaluations: int,
    batch: int = 1,
    checkpoint: Checkpoint | None = None,
) -> Searched:
    """Search until so many points are told.

    An objective that raises an `Exception`, or returns a value that is not finite, is
    recorded as a failure at that point, and the loop goes on.

    Args:
        search: what to do.
        state: where to begin.
        objective: of one point (D,), in the units of the box.
        evaluations: points in the state at the end, those of `state` included.
        batch: points asked for at once.
        checkpoint: where the state is kept after each round; a state found there is
            gone on from. A kill loses the evaluations of the round it falls into.

    Raises:
        TypeError: for an objective that returns no number.
        ValueError: for more evaluations than a box of whole variables has points, or
            constraints that do not fit.

    >>> import jax, ntkuq as nq
    >>> from ntkuq.decisions.acquisition import LogEI
    >>> from ntkuq.decisions.search.box import Box
    >>> bnn = nq.BNN(nq.Network(nq.models.mlp(1, 1, width=8)), nq.Gaussian())
    >>> search = BayesOpt(nq.GP(), LogEI(), Box([0.0], [1.0]))
    >>> start = search.init(bnn, key=jax.random.key(0))
    >>> found = run(search, start, lambda x: 1.0 / 0.0, evaluations=1)
    >>> found.failures
    ((0, 'ZeroDivisionError: float division by zero'),)
    """
    if evaluations > search.bounds.count:
        raise ValueError(
            f"run: expected at most {search.bounds.count:g} evaluations, one for each "
            f"point of the box, got {evaluations}"
        )
    failures: list[tuple[int, str]] = []
    if checkpoint is not None:
        kept = checkpoint.read()
        if kept is not None:
            notes = kept.pop("failures").tolist()
            rows = kept.pop("failed").tolist()
            failures = list(zip(rows, notes, strict=True))
            state = state.with_arrays(kept)
    while len(state.y) < evaluations:
        x, state = search.ask(state, min(batch, evaluations - len(state.y)))
        values, outcomes = [], []
        for row, point in enumerate(x):
            found = _evaluated(objective, point, search.constraints)
            if isinstance(found, str):
                failures.append((len(state.y) + row, found))
                found = Outcome(np.nan, np.full(search.constraints, np.nan))
            values.append(found.y)
            outcomes.append(found.constraints)
        state = search.tell(
            state,
            x,
            np.asarray(values),
            np.reshape(np.asarray(outcomes, np.float64), (len(x), search.constraints)),
        )
        if checkpoint is not None:
            checkpoint.write(
                {
                    **state.arrays(),
                    "failed": np.array([row for row, _ in failures], np.int64),
                    "failures": np.array([text for _, text in failures], str),
                }
            )
    notes = {str(row): text for row, text in failures}
    diagnostics = {**state.diagnostics, "failures": notes}
    state = dataclasses.replace(state, diagnostics=diagnostics)
    return Searched(state, tuple(failures))


def _evaluated(objective, point: np.ndarray, constraints: int) -> Outcome | str:
    """The outcome, or why there is none."""
    try:
        found = objective(point.copy())
    except Exception as error:  # noqa: BLE001 - the user's code; kept as a failure
        return f"{type(error).__name__}: {error}"
    if not isinstance(found, Outcome):
        found = Outcome(_number(found), np.zeros(0))
    outcomes = np.asarray(found.constraints, np.float64).reshape(-1)
    if outcomes.shape != (constraints,):
        raise ValueError(
            f"objective: expected {constraints} constraint outcomes, got "
            f"{outcomes.size}: return Outcome(y, constraints)"
        )
    found = found._replace(y=_number(found.y))
    if not np.isfinite(found.y) or not np.isfinite(outcomes).all():
        return f"value not finite: {found.y}, constraints {outcomes.tolist()}"
    return Outcome(found.y, outcomes)


def _number(value) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise TypeError(
            f"objective: expected one number, or Outcome(y, constraints), got {value!r}"
        )
    return float(array.reshape(()))
