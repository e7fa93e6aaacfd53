"""Shifts of images: shapes and dtypes in one place, the change itself in `apply`."""

import abc
import dataclasses
import math
from typing import Any, final

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PRNGKeyArray

from ntkuq.data.errors import DataError
from ntkuq.data.shifts.base import AbstractShift, generator, label, level_at


_CHANNELS = (1, 3, 4)
_ENTRIES = 2**22  # entries of the images that are changed at a time
_SLACK = 1e-6  # intensities may pass 0 and 1 by rounding


class AbstractImageShift(AbstractShift):
    """A shift of images with intensities in [0, 1], or of uint8 images.

    Shapes `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`. The channels of four axes are
    the last one where it has length 1, 3 or 4, else the second; `AsImages` takes other
    layouts and flat rows. The result is clipped to [0, 1] (0 to 255 for uint8, rounded
    to the nearest level). Everything is computed in float32, for float64 images in
    float64. `levels` holds one entry for each severity.
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
        images = _channels_last(given, label(self))
        if level is None:
            return given.copy()
        out = np.empty_like(images)
        step = max(1, _ENTRIES // images[0].size)
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            changed = self.apply(_unit(images[rows]), level, generator(key, start))
            out[rows] = _restored(np.clip(changed, 0, 1), given.dtype)
        axis = _channel_axis(given.shape)
        if axis is None:
            return out[..., 0]
        return np.moveaxis(out, -1, axis)

    @abc.abstractmethod
    def apply(
        self, images: np.ndarray, level: Any, rng: np.random.Generator
    ) -> np.ndarray:
        """The changed images, not yet clipped.

        Args:
            images: (n, H, W, C), intensities in [0, 1], float32 or float64.
            level: the entry of `levels` for the severity asked for.
            rng: source of randomness; a fixed number of draws whatever the level.
        """


@final
@dataclasses.dataclass(frozen=True)
class AsImages(AbstractShift):
    """An image shift for rows that are images in another layout.

    Args:
        shift: the shift of images.
        shape: shape of one image; (H, W), (H, W, C) or (C, H, W).
        channel_axis: axis of the channels in `shape`; `None` for none, or to have them
            found as in `AbstractImageShift`.

    Raises:
        DataError: when a row of `x` does not hold as many numbers as `shape`.

    >>> import jax
    >>> from ntkuq.data import load
    >>> from ntkuq.data.shifts import Contrast
    >>> x = load("digits").test.x
    >>> shift = AsImages(Contrast(), (8, 8))
    >>> shift(x, severity=3, key=jax.random.key(0)).shape
    (539, 64)
    """

    shift: AbstractImageShift
    shape: tuple[int, ...]
    channel_axis: int | None = None

    def __post_init__(self):
        axes = len(self.shape)
        axis = self.channel_axis
        if axes not in (2, 3) or (axis is not None and not -axes <= axis < axes):
            raise DataError(
                "AsImages: expected shape (H, W), (H, W, C) or (C, H, W) and "
                f"channel_axis among its axes, came {self.shape} and {axis}"
            )

    def __call__(
        self,
        x: npt.ArrayLike,
        *,
        severity: int,
        reference: npt.ArrayLike | None = None,
        key: PRNGKeyArray,
    ) -> np.ndarray:
        given = np.asarray(x)
        if given.ndim < 2 or math.prod(given.shape[1:]) != math.prod(self.shape):
            raise DataError(
                f"{label(self)}: expected rows of {math.prod(self.shape)} numbers, one "
                f"image of shape {self.shape} each, came shape {given.shape}"
            )
        images = given.reshape(len(given), *self.shape)
        axis = self.channel_axis
        if axis is None:
            moved = self.shift(images, severity=severity, key=key)
            return moved.reshape(given.shape)
        axis = 1 + axis % len(self.shape)
        last = np.moveaxis(images, axis, -1)
        moved = self.shift(last, severity=severity, key=key)
        return np.ascontiguousarray(np.moveaxis(moved, -1, axis)).reshape(given.shape)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of the channels, `None` for images without one, -1 where not found."""
    if len(shape) == 3:
        return None
    return next((axis for axis in (3, 1) if shape[axis] in _CHANNELS), -1)


def _channels_last(x: np.ndarray, who: str) -> np.ndarray:
    """(N, H, W, C) as given otherwise; what is no image is refused."""
    if x.ndim not in (3, 4) or x.size == 0:
        raise DataError(
            f"{who}: expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), "
            f"came shape {x.shape}; for flat rows use AsImages({who}(), (H, W))"
        )
    axis = _channel_axis(x.shape)
    if axis == -1:
        raise DataError(
            f"{who}: expected 1, 3 or 4 channels on the last or on the second axis, "
            f"came shape {x.shape}"
        )
    if x.dtype != np.uint8:
        _check_range(x, who)
    return x[..., None] if axis is None else np.moveaxis(x, axis, -1)


def _check_range(x: np.ndarray, who: str) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DataError(
            f"{who}: expected intensities as floats in [0, 1] or as uint8, came "
            f"{x.dtype}; convert them"
        )
    low, high = float(x.min()), float(x.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise DataError(
            f"{who}: expected intensities in [0, 1], came {low:g} to {high:g}; shift "
            "images before they are standardized, or divide by the largest intensity"
        )


def _unit(images: np.ndarray) -> np.ndarray:
    """Intensities in [0, 1] in the precision of the computation."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float64 if images.dtype == np.float64 else np.float32)


def _restored(images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint8:
        return np.rint(images * 255).astype(np.uint8)
    return images.astype(dtype)
