"""The same images, turned a little further in each task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntkuq.continual.streams.base import DOMAIN, Stream, Task
from ntkuq.data import Dataset, Split
from ntkuq.data.shifts.sampling import bilinear, grid


def rotated(
    data: Split, angles: Sequence[float] = (0.0, 22.5, 45.0, 67.5, 90.0)
) -> Stream:
    """The same images turned by one angle a task: a single head.

    Points between pixels are interpolated, and beyond the border the nearest pixel
    counts. The classes stay, so that neighboring tasks are alike.

    Args:
        data: images, (N, H, W) or (N, H, W, C).
        angles: of the tasks in degrees, counter-clockwise.

    Raises:
        ValueError: for other inputs, or no angle.

    References: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).

    >>> image = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    >>> data = Dataset(image, [0])
    >>> (task,) = rotated(Split(data, None, data), [90.0])
    >>> task.train.x.round(6).tolist()
    [[[1.0, 0.0], [0.0, 0.0]]]
    """
    shape = np.shape(data.train.x)
    if len(shape) not in (3, 4):
        raise ValueError(
            "rotated: expected images of shape (N, H, W) or (N, H, W, C), got "
            f"{shape or 'a pytree'}: reshape them first"
        )
    if not len(angles):
        raise ValueError("rotated: expected at least one angle, got none")

    def make(index: int) -> Task:
        train, test = data.train, data.test
        train, test = (_turned(part, angles[index]) for part in (train, test))
        return Task(index, train, test, name=names[index])

    names = tuple(f"{angle:g} degrees" for angle in angles)
    return Stream(make, names, DOMAIN)


def _turned(data: Dataset, degrees: float) -> Dataset:
    x = np.asarray(data.x)
    if degrees == 0:
        return data.with_inputs(x)
    images = x[..., None] if x.ndim == 3 else x
    images = images if np.issubdtype(x.dtype, np.floating) else images.astype(float)
    angle = np.deg2rad(degrees)
    rows, columns = grid(images)
    rows, columns = rows - rows.mean(), columns - columns.mean()
    height, width = images.shape[1:3]
    place = (
        rows * np.cos(angle) + columns * np.sin(angle) + (height - 1) / 2,
        -rows * np.sin(angle) + columns * np.cos(angle) + (width - 1) / 2,
    )
    # in parts: the places are computed for each image
    parts = np.array_split(images, max(1, len(images) // 4096))
    turned = np.concatenate([bilinear(part, *place) for part in parts])
    return data.with_inputs(turned.astype(images.dtype).reshape(x.shape))
