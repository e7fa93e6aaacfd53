"""Which group each point belongs to."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.exact import need_finite


MOST = 1000  # groups in one table


@dataclass(frozen=True)
class Groups:
    """A group for each point, and the names of the groups in the order to show them.

    Args:
        code: which of `names` each point has, (N,), integers.
        names: one name a group; each has at least one point.
        by: what the points are grouped by.

    >>> Groups.of(["b", "a", "b"]).names
    ('a', 'b')
    """

    code: np.ndarray = field(repr=False)
    names: tuple[str, ...]
    by: str = "group"

    @staticmethod
    def of(labels: "Groups | ArrayLike | Sequence", by: str = "group") -> "Groups":
        """Groups from a label for each point, in the order of the labels.

        Args:
            labels: (N,), numbers, booleans or texts; groups stay as they are.
            by: what the points are grouped by.

        Raises:
            ValueError: for another shape, a missing label, or more than 1000 groups.
        """
        if isinstance(labels, Groups):
            return labels
        array = np.asarray(labels)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1 or array.size == 0:
            raise ValueError(
                f"expected one label for each point, shape (N,), got {array.shape}"
            )
        # None and NaN: the only labels that are missing or differ from themselves.
        missing = np.asarray([v is None or v != v for v in array.tolist()])
        if missing.any():
            raise ValueError(
                f"expected a group for every point, got {array[np.argmax(missing)]} at "
                f"row {int(np.argmax(missing))}; leave such rows out or name them"
            )
        if array.dtype == object:
            array = np.asarray([str(v) for v in array])
        labels_seen, code = np.unique(array, return_inverse=True)
        if labels_seen.size > MOST:
            raise ValueError(
                f"expected at most {MOST} groups, got {labels_seen.size}; group "
                "numbers by quantile_groups(values)"
            )
        return Groups(code, tuple(str(v) for v in labels_seen.tolist()), by)


def quantile_groups(
    values: ArrayLike | Sequence[float],
    *,
    bins: int = 5,
    by: str = "value",
    names: Sequence[str] | None = None,
) -> Groups:
    """Group points by the size of a number, about the same count in each group.

    The edges are quantiles of the values, and a group holds what is above its lower
    edge and up to its upper one; equal values stay together, so that there may be
    fewer groups than asked for. Good numbers are the predicted mean, the predicted
    width, `distance_to_training`, or a column of the inputs.

    Args:
        values: (N,), finite.
        bins: number of groups, at least 2.
        by: what the values are; it stands in the names.
        names: one name a group, smallest values first, in place of the ranges.

    Raises:
        ValueError: for another shape, values that are not finite, or names whose
            number does not fit.

    >>> g = quantile_groups(np.arange(10.0), bins=2, by="age")
    >>> g.names, g.code.tolist()
    (('age to 4.5', 'age 4.5 to 9'), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    array = np.asarray(values, np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"expected one number for each point, shape (N,), got {array.shape}"
        )
    if bins < 2:
        raise ValueError(f"expected at least 2 bins, got {bins}")
    need_finite("values", array)
    edges = np.unique(np.quantile(array, np.arange(1, bins + 1) / bins))
    # The largest quantile may lie below the largest value by rounding.
    edges[-1] = array.max()
    used, code = np.unique(
        np.searchsorted(edges, array, side="left"), return_inverse=True
    )
    if names is None:
        return Groups(code, _ranges(edges[used], by), by)
    if len(names) != used.size or len(set(names)) != used.size:
        raise ValueError(
            f"expected {used.size} different names for the {used.size} groups that the "
            f"values form, got {list(names)}"
        )
    return Groups(code, tuple(names), by)


def _ranges(upper: np.ndarray, by: str) -> tuple[str, ...]:
    """Names from the upper edges, with as many digits as tell them apart."""

    def texts(digits: int) -> list[str]:
        return [f"{edge:.{digits}g}" for edge in upper]

    enough = (d for d in range(3, 18) if len(set(texts(d))) == upper.size)
    shown = texts(next(enough, 17))
    first = f"{by} to {shown[0]}"
    return (first, *(f"{by} {a} to {b}" for a, b in itertools.pairwise(shown)))
