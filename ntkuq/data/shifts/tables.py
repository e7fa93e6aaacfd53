"""Shifts of tables: checks of (N, D) inputs, the change itself in `apply`."""

import abc
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PRNGKeyArray

from ntkuq.data.errors import DataError
from ntkuq.data.shifts.base import AbstractShift, generator, label, level_at


class AbstractTableShift(AbstractShift):
    """A shift of the D features of N rows, (N, D); (N,) counts as one feature.

    Nothing is clipped. The result is rounded to the dtype of `x`. `levels` holds one
    entry for each severity.
    """

    levels: tuple[Any, ...]

    def __call__(
        self,
        x: npt.ArrayLike,
        *,
        severity: int,
        reference: npt.ArrayLike | None = None,
        key: PRNGKeyArray,
    ) -> np.ndarray:
        level = level_at(self, severity, self.levels)
        given = np.asarray(x)
        if given.ndim not in (1, 2) or given.size == 0:
            raise DataError(
                f"{label(self)}: expected a table of shape (N, D), came shape "
                f"{given.shape}; for images use an image shift"
            )
        table = given.reshape(len(given), -1)
        known = None if reference is None else _reference(self, table, reference)
        if level is None:
            return given.copy()
        changed = self.apply(table, level, known, generator(key))
        return changed.astype(given.dtype).reshape(given.shape)

    @abc.abstractmethod
    def apply(
        self,
        x: np.ndarray,
        level: Any,
        reference: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The changed rows, (N, D).

        Args:
            x: (N, D).
            level: the entry of `levels` for the severity asked for.
            reference: rows of the training part, (M, D), or `None`.
            rng: source of randomness; the same draws whatever the level.
        """


def needed(shift: AbstractTableShift, reference: np.ndarray | None) -> np.ndarray:
    """The reference, or an error that asks for it."""
    if reference is None:
        raise DataError(
            f"{label(shift)}: expected reference=, the inputs of the training part, "
            "which say what is usual for each feature; came none"
        )
    return reference


def spread(reference: np.ndarray) -> np.ndarray:
    """Standard deviation of each feature, (D,), in float64; 0 where it is constant."""
    exact = reference.astype(np.float64)
    # Rounding of the mean must not give a constant feature a spread.
    return np.where(np.ptp(exact, axis=0) > 0, exact.std(axis=0), 0.0)


def floats(shift: AbstractTableShift, x: np.ndarray) -> np.ndarray:
    """The rows in float64; whole numbers, which cannot move a little, are refused."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DataError(
            f"{label(shift)}: expected floats, came {x.dtype}; convert them, or use "
            "CategoryFlip for codes"
        )
    return x.astype(np.float64)


def _reference(
    shift: AbstractShift, x: np.ndarray, reference: npt.ArrayLike
) -> np.ndarray:
    given = np.asarray(reference)
    known = given.reshape(len(given), -1) if given.ndim == 1 else given
    if known.ndim != 2 or known.shape[1] != x.shape[1] or len(known) == 0:
        raise DataError(
            f"{label(shift)}: expected a reference of shape (M, {x.shape[1]}), rows "
            f"with the features of x, came shape {given.shape}"
        )
    if not np.isfinite(known.astype(np.float64)).all():
        raise DataError(
            f"{label(shift)}: expected a reference of finite numbers, came some that "
            "are not; leave out or repair such rows"
        )
    return known
