"""Checks that hold for concrete values and let traced ones pass."""

from __future__ import annotations

import operator
from types import UnionType
from typing import Any

import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike

from ntkuq.data.arrays import is_real


def positive(value: ArrayLike) -> bool:
    """Whether every number is finite and above zero, or not known yet (traced).

    >>> positive(2.0), positive(np.array([1.0, 0.0])), positive(float("inf"))
    (True, False, False)
    """
    if isinstance(value, Tracer):
        return True
    try:
        value = np.asarray(value)
    except ValueError:  # rows of unequal length
        return False
    return is_real(value) and bool(np.all(np.isfinite(value) & (value > 0)))


def whole(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number, by its type, that is large enough.

    >>> whole(2), whole(np.int64(2)), whole(0), whole(2.0)
    (True, True, False, False)
    """
    try:
        return operator.index(value) >= least
    except TypeError:
        return False


def need(value: Any, kind: type | UnionType, what: str, choices: str) -> None:
    """Raise `TypeError` unless the value is of a kind.

    >>> need(dict, dict, "table", "a dict")
    Traceback (most recent call last):
    TypeError: table: expected a dict, got the class dict: call it, dict()
    """
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected {choices}, got {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}: call it, {value.__name__}()"
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    return type(value).__name__
