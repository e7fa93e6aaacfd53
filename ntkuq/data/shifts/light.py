"""Light and weather: fog, brightness, contrast, saturation."""

import dataclasses
import math
from typing import final

import numpy as np

from ntkuq.data.errors import DataError
from ntkuq.data.shifts.images import AbstractImageShift


@final
@dataclasses.dataclass(frozen=True)
class Fog(AbstractImageShift):
    r"""A cloud over the image: $(x + c f) \, m / (m + c)$.

    $m$ is the largest intensity of the image and $f$ a random cloud from 0 to 1, the
    same in all channels: smooth noise on grids of 2, 3, 5, 9, … points a side, the
    k-th with weight $d^{-k}$. (The published fog takes a diamond-square fractal.)

    Args:
        levels: pairs (c, d) of thickness and decay; those of CIFAR-10-C. ImageNet-C has
            (1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4).

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[tuple[float, float], ...] = (
        (0.2, 3.0),
        (0.5, 3.0),
        (0.75, 2.5),
        (1.0, 2.0),
        (1.5, 1.75),
    )

    def apply(
        self,
        images: np.ndarray,
        level: tuple[float, float],
        rng: np.random.Generator,
    ) -> np.ndarray:
        thickness, decay = level
        cloud = clouds(images.shape[:3], decay, rng).astype(images.dtype)[..., None]
        most = images.max(axis=(1, 2, 3), keepdims=True)
        scale = most / (most + images.dtype.type(thickness))
        return (images + images.dtype.type(thickness) * cloud) * scale


def clouds(
    shape: tuple[int, ...], decay: float, rng: np.random.Generator
) -> np.ndarray:
    """Smooth random fields from 0 to 1, of shape (n, H, W).

    >>> f = clouds((2, 8, 8), 2.0, np.random.default_rng(0))
    >>> f.shape, f.min(axis=(1, 2)).tolist(), f.max(axis=(1, 2)).tolist()
    ((2, 8, 8), [0.0, 0.0], [1.0, 1.0])
    """
    n, height, width = shape
    total = np.zeros(shape)
    for octave in range(1 + math.ceil(math.log2(max(height, width, 2)))):
        points = 2**octave + 1
        noise = rng.uniform(-1, 1, size=(n, points, points))
        down, across = _ramps(height, points), _ramps(width, points)
        total += decay**-octave * (down @ noise @ across.T)
    low = total.min(axis=(1, 2), keepdims=True)
    reach = np.ptp(total, axis=(1, 2), keepdims=True)
    return (total - low) / np.where(reach > 0, reach, 1)


def _ramps(size: int, points: int) -> np.ndarray:
    """Linear interpolation from `points` values to `size` pixels, (size, points)."""
    at = np.linspace(0, points - 1, size)[:, None]
    return np.maximum(0, 1 - np.abs(at - np.arange(points)))


@final
@dataclasses.dataclass(frozen=True)
class Brightness(AbstractImageShift):
    """More light: the intensity c is added.

    For three channels it is added to the value V of hue, saturation and value (the
    largest channel), so that the color stays; for others to every channel.

    Args:
        levels: what is added; those of CIFAR-10-C. ImageNet-C has 0.1 to 0.5.

    >>> import jax
    >>> x = np.array([[[0.0, 0.5]]])
    >>> Brightness()(x, severity=5, key=jax.random.key(0)).tolist()
    [[[0.3, 0.8]]]

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.05, 0.10, 0.15, 0.20, 0.30)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        more = images.dtype.type(level)
        if images.shape[-1] != 3:
            return images + more
        value = images.max(axis=-1, keepdims=True)
        brighter = np.minimum(value + more, 1)
        # Black has no color to keep and turns gray.
        share = np.divide(
            images,
            value,
            out=np.ones_like(images),
            where=np.broadcast_to(value > 0, images.shape),
        )
        return brighter * share


@final
@dataclasses.dataclass(frozen=True)
class Contrast(AbstractImageShift):
    r"""$\bar x + c (x - \bar x)$ with the mean $\bar x$ of each channel of each image.

    Args:
        levels: c; those of CIFAR-10-C. ImageNet-C has 0.4, 0.3, 0.2, 0.1, 0.05.

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.75, 0.5, 0.4, 0.3, 0.15)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        mean = images.mean(axis=(1, 2), keepdims=True)
        return mean + images.dtype.type(level) * (images - mean)


@final
@dataclasses.dataclass(frozen=True)
class Saturate(AbstractImageShift):
    r"""Stronger colors: the saturation S of hue, saturation, value becomes $a S + b$.

    It is cut off at 1; hue and value stay, and gray, which has no hue, stays gray. For
    images of three channels.

    Args:
        levels: pairs (a, b). The last three are severities 3 to 5 of CIFAR-10-C, whose
            first two, (0.3, 0) and (0.1, 0), take color away instead: they would not
            be a weaker form of the others.

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[tuple[float, float], ...] = (
        (1.2, 0.0),
        (1.35, 0.0),
        (1.5, 0.0),
        (2.0, 0.1),
        (2.5, 0.2),
    )

    def apply(
        self,
        images: np.ndarray,
        level: tuple[float, float],
        rng: np.random.Generator,
    ) -> np.ndarray:
        if images.shape[-1] != 3:
            raise DataError(
                "Saturate: expected three channels, red, green and blue, came "
                f"{images.shape[-1]}; gray images have no saturation to change"
            )
        value = images.max(axis=-1, keepdims=True)
        least = images.min(axis=-1, keepdims=True)
        colored = value > least
        saturation = (value - least) / np.where(colored, value, 1)
        gain, offset = (images.dtype.type(number) for number in level)
        wanted = np.minimum(gain * saturation + offset, 1)
        # Each channel lies below V by a multiple of S that the hue alone determines.
        factor = np.where(colored, wanted / np.where(colored, saturation, 1), 1)
        return value - factor * (value - images)
