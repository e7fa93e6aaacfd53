"""What a shift is: inputs in, shifted inputs of the same shape and dtype out."""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import PRNGKeyArray

from ntkuq.data.errors import DataError


class AbstractShift(abc.ABC):
    """A change of the inputs that leaves the targets as they are.

    Severity 0 changes nothing; severity s uses the s-th of the shift's `levels`. The
    same key gives the same result, and one key at several severities gives the same
    random draws at other strengths, so that severities differ by their strength only.
    """

    @abc.abstractmethod
    def __call__(
        self,
        x: npt.ArrayLike,
        *,
        severity: int,
        reference: npt.ArrayLike | None = None,
        key: PRNGKeyArray,
    ) -> np.ndarray:
        """Shifted inputs.

        Args:
            x: inputs of N examples; the leading axis is N.
            severity: 0 to the number of `levels`, usually 5.
            reference: inputs of the training part, (M, D), where a shift needs their
                mean or spread; ignored by the others.
            key: random key.

        Returns:
            A new array with the shape and dtype of `x`, on the host.

        Raises:
            DataError: when the severity, the shape, the dtype or the range does not
                fit, or a reference is needed and absent.
        """


def level_at(shift: Any, severity: int, levels: Sequence[Any]) -> Any:
    """The level of a severity from 1 on, or `None` for severity 0.

    Raises:
        DataError: for a severity that is no whole number from 0 to `len(levels)`.
    """
    whole = isinstance(severity, int | np.integer) and not isinstance(severity, bool)
    if not whole or not 0 <= severity <= len(levels):
        raise DataError(
            f"{label(shift)}: expected a severity from 0 (unchanged) to {len(levels)}, "
            f"came {severity!r}"
        )
    return levels[severity - 1] if severity else None


def generator(key: PRNGKeyArray, *more: int) -> np.random.Generator:
    """A generator on the host that the key, and further whole numbers, determine."""
    words = np.ravel(jax.random.key_data(key)).tolist()
    return np.random.default_rng([*words, *more])


def label(shift: Any) -> str:
    """The name of a shift in tables and messages: that of its class, or function.

    A shift that wraps another one (attribute `shift`) has the name of that.
    """
    while isinstance(getattr(shift, "shift", None), AbstractShift):
        shift = shift.shift
    if isinstance(shift, AbstractShift):
        return type(shift).__name__
    return getattr(shift, "__name__", type(shift).__name__)
