"""Inputs of GP posteriors: one array, in chunks, old and new joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.data import Dataset
from ntkuq.models import BNN


#: New inputs handled at a time, so that memory does not grow with their number.
CHUNK = 1024


def inputs(bnn: BNN, x: PyTree) -> Array:
    """The scaled inputs of a problem in float64."""
    return single_array(bnn.inputs(x, np.float64))


def single_array(x: PyTree) -> Array:
    """The one array of the inputs; TypeError where there are several."""
    leaves = jax.tree.leaves(x)
    if len(leaves) != 1:
        raise TypeError(
            f"expected inputs that are one array, got a tree of {len(leaves)}: "
            "GP kernels need one; concatenate the columns"
        )
    return leaves[0]


def in_chunks(function: Callable, x: Array, size: int = CHUNK) -> Any:
    """Apply a function of rows to chunks of rows, at most two shapes of them.

    Args:
        function: rows (M, ...) to arrays with leading axis M.
        x: rows (N, ...).
        size: rows of a chunk.

    Returns:
        The arrays of all rows, leading axis N.
    """
    if x.shape[0] <= size:
        return function(x)
    parts = [function(x[i : i + size]) for i in range(0, x.shape[0], size)]
    return jax.tree.map(lambda *each: jnp.concatenate(each), *parts)


def concatenate(first: Dataset, second: Dataset) -> Dataset:
    """The rows of both data sets; names and units of the first."""
    old, new = jax.tree.structure(first.x), jax.tree.structure(second.x)
    if old != new:
        raise ValueError(f"update: expected inputs like {old}, got {new}")
    one, two = first.noise_scale, second.noise_scale
    if (one is None) != (two is None) or (
        one is not None and two is not None and one.ndim != two.ndim
    ):
        raise ValueError(
            "update: expected data with noise_scale as the first had it, got "
            f"{None if two is None else two.shape} after "
            f"{None if one is None else one.shape}"
        )
    return Dataset(
        jax.tree.map(lambda a, b: np.concatenate([a, b]), first.x, second.x),
        np.concatenate([first.y, second.y]),
        noise_scale=(
            None if one is None or two is None else np.concatenate([one, two])
        ),
        features=first.features,
        target=first.target,
        classes=first.classes,
        units=first.units,
        name=first.name,
    )
