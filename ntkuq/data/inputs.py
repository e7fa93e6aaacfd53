"""New inputs to predict at: what is read as arrays, and what is refused."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ntkuq.data.arrays import (
    as_array,
    check_finite,
    is_real,
    named_leaves,
    whole_lists,
)
from ntkuq.data.batches import Batches
from ntkuq.data.dataset import Dataset, Split
from ntkuq.data.errors import DataError


#: Where the inputs of a form of data are.
_INPUTS = {
    Dataset: "data.x",
    Batches: "batches.to_dataset().x",
    Split: "split.test.x",
}


def as_inputs(x: Any) -> PyTree:
    """Inputs (N, …) as an array or a pytree of arrays; no value is looked at.

    JAX arrays, traced ones too, stay what they are; all else becomes NumPy arrays as in
    a `Dataset`.

    Raises:
        DataError: for no arrays, entries that are no real numbers, no rows.

    >>> as_inputs([[0.0, 1.0], [2.0, 3.0]]).shape
    (2, 2)
    """
    for form, inputs in _INPUTS.items():
        if isinstance(x, form):
            raise DataError(
                f"x: expected inputs (N, …), came a {form.__name__}; give {inputs}"
            )
    arrays = jax.tree.map(_array, whole_lists(x))
    named = named_leaves(arrays)
    if not named:
        raise DataError(
            f"x: expected at least one array of inputs (N, …), came {x!r}; give an "
            "array, or a pytree of arrays as in training"
        )
    for what, leaf in named:
        if leaf.ndim == 0 or not is_real(leaf):
            raise DataError(
                f"{what}: expected numbers with a leading axis of examples, came "
                f"{leaf.dtype} of shape {leaf.shape}; give one row for each example, "
                "and text as numbers"
            )
        if leaf.shape[0] == 0:
            raise DataError(
                f"{what}: expected at least one input, came shape {leaf.shape}; leave "
                "the call out where there are none"
            )
    return arrays


def checked_inputs(x: Any) -> PyTree:
    """`as_inputs`, whose values are finite where they are known.

    Raises:
        DataError: also for an entry that is not finite.
    """
    arrays = as_inputs(x)
    for what, leaf in named_leaves(arrays):
        if _is_known(leaf):
            check_finite(np.asarray(leaf), what, before="predicting")
    return arrays


def _array(leaf: Any) -> np.ndarray | jax.Array:
    return leaf if isinstance(leaf, jax.Array) else as_array(leaf, "x")


def _is_known(leaf: np.ndarray | jax.Array) -> bool:
    """Not traced, and not spread over the devices of other processes."""
    if isinstance(leaf, Tracer):
        return False
    return isinstance(leaf, np.ndarray) or leaf.is_fully_addressable
