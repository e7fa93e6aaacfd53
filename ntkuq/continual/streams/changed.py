"""A data set with other inputs or rows."""

from __future__ import annotations

import numpy as np
from jaxtyping import PyTree

from ntkuq.data import Dataset


def with_inputs(data: Dataset, x: PyTree) -> Dataset:
    """The same targets with other inputs; the names of the features are gone."""
    return Dataset(
        x,
        data.y,
        noise_scale=data.noise_scale,
        group=data.group,
        groups=data.groups,
        weight=data.weight,
        target=data.target,
        classes=data.classes,
        units=data.units,
        name=data.name,
    )


def with_head(data: Dataset, number: int) -> Dataset:
    """Inputs with the number of their head beside them, as `MultiHead` takes them."""
    head = np.full(len(data), number, np.int32)
    return with_inputs(data, (data.x, head))
