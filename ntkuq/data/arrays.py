"""Arrays from outside: how they are read, and which of their entries are refused."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkuq.data.errors import DataError


def is_real(array: np.ndarray | jax.Array) -> bool:
    """Whether the dtype is boolean, integer or floating (bfloat16 included)."""
    kinds = (np.bool_, jnp.integer, jnp.floating)
    return any(jnp.issubdtype(array.dtype, kind) for kind in kinds)


def is_floating(array: np.ndarray) -> bool:
    """Whether the dtype is floating (bfloat16 included)."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def as_array(value: Any, what: str) -> np.ndarray:
    """Whatever `numpy.asarray` takes.

    Raises:
        DataError: for rows of unequal length.
    """
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"{what}: expected an array, came rows of unequal length ({error}); "
            "give every row the same number of entries"
        ) from error


def whole_lists(x: Any) -> Any:
    """Nested lists of plain numbers as one array; any other pytree as it is."""
    if isinstance(x, list | tuple):
        leaves = jax.tree.leaves(x)
        if all(isinstance(leaf, numbers.Real) for leaf in leaves):
            return as_array(x, "x")
    return x


def named_leaves(x: Any) -> list[tuple[str, Any]]:
    """`(name, leaf)` pairs: `x` for a bare array, `x['image']` inside a pytree."""
    return [
        (f"x{jax.tree_util.keystr(path)}", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(x)
    ]


def check_finite(
    array: np.ndarray,
    what: str,
    columns: Sequence[str] | None = None,
    *,
    before: str = "making the Dataset",
) -> None:
    """Raise `DataError` where an entry is not finite, naming the first such place."""
    if not is_floating(array):
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    place = tuple(int(i) for i in np.argwhere(~finite)[0])
    where = f"row {place[0]}"
    if columns is not None:
        where += f", column {columns[place[1] if len(place) > 1 else 0]!r}"
    elif len(place) == 2:
        where += f", column {place[1]}"
    elif len(place) > 2:
        where += f", position {place[1:]}"
    more = int((~finite).sum()) - 1
    raise DataError(
        f"{what}: expected finite numbers, came {array[place]} in {where} "
        f"(counted from 0{f'; {more} more such entries' if more else ''}); remove or "
        f"repair such rows before {before}"
    )
