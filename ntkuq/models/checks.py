"""Checks that hold for concrete values and let traced ones pass."""

from __future__ import annotations

import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike


def positive(value: ArrayLike) -> bool:
    """Whether every number is finite and above zero, or not known yet (traced).

    >>> positive(2.0), positive(np.array([1.0, 0.0])), positive(float("inf"))
    (True, False, False)
    """
    if isinstance(value, Tracer):
        return True
    value = np.asarray(value)
    return bool(np.all(np.isfinite(value) & (value > 0)))
