"""The box of a search: bounds of each variable, whole numbers where wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from scipy.stats import qmc


@dataclasses.dataclass(frozen=True)
class Box:
    """Lower and upper bounds of D variables, both included.

    Args:
        lower, upper: (D,), in the units of the variables.
        integer: (D,) of bool, which variables are whole numbers; none by default.

    Raises:
        ValueError: for bounds that are not finite, in the wrong order, of unequal
            shapes, or not whole for a whole variable.

    >>> Box([0.0, 1.0], [1.0, 4.0], integer=[False, True]).snap(np.array([[0.3, 2.6]]))
    array([[0.3, 3. ]])
    """

    lower: ArrayLike | Sequence
    upper: ArrayLike | Sequence
    integer: ArrayLike | Sequence | None = None

    def __post_init__(self):
        lower, upper = (np.array(a, np.float64) for a in (self.lower, self.upper))
        whole = np.zeros(lower.shape, bool) if self.integer is None else self.integer
        whole = np.array(whole, bool)
        if lower.ndim != 1 or not lower.shape == upper.shape == whole.shape:
            raise ValueError(
                "Box: expected lower, upper and integer of one shape (D,), got "
                f"{lower.shape}, {upper.shape} and {whole.shape}"
            )
        bad = np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)))
        wrong = np.flatnonzero(~(lower < upper))
        if bad.size or wrong.size:
            at = int((bad if bad.size else wrong)[0])
            raise ValueError(
                f"Box: expected finite bounds with lower < upper, got {lower[at]} and "
                f"{upper[at]} for variable {at}: exchange them, or leave it out"
            )
        split = np.flatnonzero(whole & ((lower % 1 != 0) | (upper % 1 != 0)))
        if split.size:
            at = int(split[0])
            raise ValueError(
                f"Box: expected whole bounds of the whole variable {at}, got "
                f"{lower[at]} and {upper[at]}: round them"
            )
        for name, value in (("lower", lower), ("upper", upper), ("integer", whole)):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """The number of variables D."""
        return np.shape(self.lower)[0]

    @property
    def side(self) -> Float[np.ndarray, " D"]:
        """The length of each side."""
        return np.asarray(self.upper) - np.asarray(self.lower)

    @property
    def count(self) -> float:
        """How many points there are; infinite unless all variables are whole."""
        if not np.all(np.asarray(self.integer)):
            return float("inf")
        return float(np.prod(self.side + 1))

    def unit(self, x: ArrayLike | Sequence) -> Float[np.ndarray, "N D"]:
        """Points (N, D) as positions in the unit cube."""
        return (np.asarray(x, np.float64) - np.asarray(self.lower)) / self.side

    def scaled(self, u: ArrayLike | Sequence) -> Float[np.ndarray, "N D"]:
        """Positions in the unit cube (N, D) as points, whole where wanted."""
        u = np.clip(np.asarray(u, np.float64), 0.0, 1.0)
        x = np.asarray(self.lower) + u * self.side
        return self.snap(np.clip(x, self.lower, self.upper))

    def snap(self, x: ArrayLike | Sequence) -> Float[np.ndarray, "N D"]:
        """Points with their whole variables rounded."""
        x = np.asarray(x, np.float64)
        return np.where(np.asarray(self.integer), np.round(x), x)

    def check(self, x: ArrayLike | Sequence) -> Float[np.ndarray, "N D"]:
        """Points as an array (N, D), inside and whole where wanted.

        Raises:
            ValueError: with the first row that is not.
        """
        x = np.asarray(x, np.float64)
        if x.ndim != 2 or x.shape[1] != self.size:
            raise ValueError(
                f"x: expected points of shape (N, {self.size}), got {x.shape}"
            )
        slack = 1e-9 * self.side
        inside = (x >= self.lower - slack) & (x <= self.upper + slack)
        bad = np.argwhere(~inside | ~np.isclose(x, self.snap(x), rtol=0, atol=1e-9))
        if bad.size:
            row, at = bad[0]
            kind = " (whole)" if np.asarray(self.integer)[at] else ""
            raise ValueError(
                f"x: expected variable {at} from {np.asarray(self.lower)[at]} to "
                f"{np.asarray(self.upper)[at]}{kind}, got {x[row, at]} in row {row}: "
                "tell points of the box only"
            )
        return x

    def spread(self, n: int, *, key: Array) -> Float[np.ndarray, "N D"]:
        """n positions of a scrambled Sobol sequence in the unit cube."""
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        engine = qmc.Sobol(self.size, scramble=True, rng=np.random.default_rng(seed))
        # whole powers of two, so that the sequence keeps its balance
        return engine.random_base2(max(n - 1, 0).bit_length())[:n]
