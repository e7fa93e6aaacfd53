"""A data set whose inputs are shifted and whose targets are not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import PRNGKeyArray

from ntkuq.data.dataset import Dataset
from ntkuq.data.errors import DataError
from ntkuq.data.shifts.base import AbstractShift, label


def corrupted(
    data: Dataset,
    shift: AbstractShift | Callable[..., Any],
    *,
    severity: int,
    reference: npt.ArrayLike | None = None,
    key: PRNGKeyArray,
) -> Dataset:
    """The data set with shifted inputs; targets, groups, weights and names stay.

    Args:
        data: a `Dataset` whose `x` is one array.
        shift: an `AbstractShift`, or a function of the same arguments.
        severity: 0 (unchanged) to 5.
        reference: inputs of the training part, (M, D); needed by most shifts of
            tables.
        key: random key.

    Returns:
        A new `Dataset`; shift and severity are added to its name.

    Raises:
        DataError: when `x` is a pytree, when the shift refuses the inputs, or when a
            function returns another shape.

    >>> import jax
    >>> from ntkuq.data import load
    >>> from ntkuq.data.shifts import FeatureNoise
    >>> data = load("concrete")
    >>> new = corrupted(
    ...     data.test,
    ...     FeatureNoise(),
    ...     severity=3,
    ...     reference=data.train.x,
    ...     key=jax.random.key(0),
    ... )
    >>> new.name, bool((new.y == data.test.y).all())
    ('concrete, FeatureNoise 3', True)
    """
    if not isinstance(data.x, np.ndarray):
        raise DataError(
            f"{label(shift)}: expected inputs that are one array, came "
            f"{type(data.x).__name__}; shift its parts and make the Dataset from them"
        )
    x = np.asarray(shift(data.x, severity=severity, reference=reference, key=key))
    if x.shape != data.x.shape:
        raise DataError(
            f"{label(shift)}: expected shifted inputs of shape {data.x.shape}, as "
            f"before, came {x.shape}"
        )
    name = f"{data.name or 'data'}, {label(shift)} {severity}"
    return data.with_inputs(
        x, features=data.features, name=name if severity else data.name
    )
