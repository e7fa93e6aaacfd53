"""The state of a search: arrays, replaced and never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from ntkuq.decisions.search.calibration import ChosenCalibration, calibration
from ntkuq.models import BNN


SCHEMA = "ntkuq/search/1"


class Best(NamedTuple):
    """The best point told: its variables, its observed value, and its row."""

    x: Float[np.ndarray, " D"]
    y: float
    row: int


@dataclasses.dataclass(frozen=True)
class SearchState:
    """Everything that a search knows. Values are those of the objective as told.

    Args:
        bnn: the problem that the method solves.
        key: random key of the search.
        sign: 1 where the objective is maximized, -1 where it is minimized.
        x: (N, D) points told.
        y: (N,) their values; NaN where the objective failed.
        constraints: (N, C) outcomes, feasible where all are >= 0; NaN where it failed.
        mean, std: (N,) what was predicted for the observation before; NaN for points
            of the initial design and those that were not asked for.
        smooth: (N,) posterior means of a noisy objective at the last `ask`.
        round: (N,) the number of `tell`s before.
        theta: (1 + C, P) hyper-parameters found last, of the objective and of each
            constraint; (0, 0) for methods that begin anew.
        pending: (Q, D + 2) points asked for and not told: x, mean, std.
        diagnostics: how the last point was chosen.
    """

    bnn: BNN
    key: Array
    sign: float
    x: Float[np.ndarray, "N D"]
    y: Float[np.ndarray, " N"]
    constraints: Float[np.ndarray, "N C"]
    mean: Float[np.ndarray, " N"]
    std: Float[np.ndarray, " N"]
    smooth: Float[np.ndarray, " N"]
    round: Int[np.ndarray, " N"]
    theta: Float[np.ndarray, "K P"]
    pending: Float[np.ndarray, "Q W"]
    diagnostics: dict[str, Any]

    @property
    def rounds(self) -> int:
        """The number of `tell`s."""
        return int(self.round.max()) + 1 if self.round.size else 0

    @property
    def feasible(self) -> np.ndarray:
        """(N,) which points have a value and meet all constraints."""
        return np.isfinite(self.y) & np.all(self.constraints >= 0, axis=1)

    @property
    def best(self) -> Best | None:
        """The best feasible point: by value, of a noisy objective by posterior mean."""
        rows = np.flatnonzero(self.feasible)
        if not rows.size:
            return None
        values = self.smooth if np.isfinite(self.smooth[rows]).any() else self.y
        ranked = self.sign * values[rows]
        row = int(rows[np.argmax(np.where(np.isnan(ranked), -np.inf, ranked))])
        return Best(self.x[row], float(self.y[row]), row)

    @property
    def trace(self) -> Float[np.ndarray, " N"]:
        """The best feasible value among the first 1, 2, …, N; NaN while none is."""
        values = np.where(self.feasible, self.sign * self.y, -np.inf)
        best = np.maximum.accumulate(values)
        return np.where(np.isfinite(best), self.sign * best, np.nan)

    @property
    def calibration(self) -> ChosenCalibration:
        """Predictions at the points that the search chose, against what came."""
        return calibration(self.y, self.mean, self.std)

    def arrays(self) -> dict[str, np.ndarray]:
        """What `BayesOpt.restored` needs, for a `Checkpoint` or `np.savez`."""
        return {name: np.asarray(getattr(self, name)) for name in ARRAYS}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> SearchState:
        """The state whose `arrays()` these are.

        Raises:
            ValueError: where one is missing, or of another width.
        """
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            raise ValueError(
                f"SearchState: expected the arrays {', '.join(ARRAYS)}, got none named "
                f"{missing[0]}: give what arrays() returned"
            )
        for name in ("x", "constraints", "pending"):
            was, now = getattr(self, name).shape[1:], arrays[name].shape[1:]
            if was != now:
                raise ValueError(
                    f"SearchState: expected {name} of width {was}, got {now}: these "
                    "are the arrays of another search"
                )
        return dataclasses.replace(
            self, **{name: np.asarray(arrays[name]) for name in ARRAYS}
        )

    def to_dict(self) -> dict[str, Any]:
        """The search as JSON, schema `ntkuq/search/1`."""
        best = self.best
        found = None
        if best is not None:
            found = {"x": best.x.tolist(), "y": best.y, "row": best.row}
        return {
            "schema": SCHEMA,
            "direction": "maximize" if self.sign > 0 else "minimize",
            "x": self.x.tolist(),
            "y": self.y.tolist(),
            "constraints": self.constraints.tolist(),
            "round": self.round.tolist(),
            "failed": int(np.sum(np.isnan(self.y))),
            "trace": self.trace.tolist(),
            "best": found,
            "calibration": self.calibration.to_dict(),
            "diagnostics": self.diagnostics,
        }


ARRAYS = (
    "x",
    "y",
    "constraints",
    "mean",
    "std",
    "smooth",
    "round",
    "theta",
    "pending",
)


class Asked(NamedTuple):
    """Points to evaluate next, (n, D), and the state that remembers them."""

    x: Float[np.ndarray, "n D"]
    state: SearchState


def asked(
    state: SearchState,
    x: Float[np.ndarray, "n D"],
    guesses: Float[np.ndarray, "n 2"],
    diagnostics: dict[str, Any],
) -> Asked:
    """Points, and the state that remembers them and what is predicted of each."""
    pending = np.concatenate([state.pending, np.column_stack([x, guesses])])
    return Asked(
        x, dataclasses.replace(state, pending=pending, diagnostics=diagnostics)
    )
