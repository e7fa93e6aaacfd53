"""Blur: soft, out of focus, in motion."""

import dataclasses
from typing import final

import numpy as np

from ntkuq.data.shifts.images import AbstractImageShift
from ntkuq.data.shifts.sampling import bilinear, grid


@final
@dataclasses.dataclass(frozen=True)
class GaussianBlur(AbstractImageShift):
    """A Gaussian filter; beyond the border the nearest pixel counts.

    Args:
        levels: standard deviations in pixels; those of CIFAR-10-C, for images of about
            32 x 32. ImageNet-C (224 x 224) has 1, 2, 3, 4, 6.

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.4, 0.6, 0.7, 0.8, 1.0)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        from scipy import ndimage

        return ndimage.gaussian_filter(images, (0, level, level, 0), mode="nearest")


@final
@dataclasses.dataclass(frozen=True)
class DefocusBlur(AbstractImageShift):
    r"""The mean over a disk, its edge softened by a 3 x 3 Gaussian.

    Beyond the border the nearest pixel counts.

    Args:
        levels: pairs of the radius of the disk and the standard deviation of the
            Gaussian, in pixels; those of CIFAR-10-C, for images of about 32 x 32.
            ImageNet-C (224 x 224) has (3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5),
            (10, 0.5).

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[tuple[float, float], ...] = (
        (0.3, 0.4),
        (0.4, 0.5),
        (0.5, 0.6),
        (1.0, 0.2),
        (1.5, 0.1),
    )

    def apply(
        self,
        images: np.ndarray,
        level: tuple[float, float],
        rng: np.random.Generator,
    ) -> np.ndarray:
        from scipy import ndimage

        kernel = soft_disk(*level).astype(images.dtype)
        return ndimage.correlate(images, kernel[None, :, :, None], mode="nearest")


def soft_disk(radius: float, softness: float) -> np.ndarray:
    """The kernel of `DefocusBlur`: pixels with their center in the disk, softened.

    >>> soft_disk(1.0, 1e-3).round(2)[2].tolist()
    [0.0, 0.2, 0.2, 0.2, 0.0]
    """
    reach = int(radius) + 1
    steps = np.arange(-reach, reach + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(float)
    taps = np.exp(-0.5 * (np.array([-1.0, 0.0, 1.0]) / softness) ** 2)
    taps /= taps.sum()
    # The disk reaches no border of its frame, so nothing is lost there.
    band = sum(tap * np.eye(len(steps), k=k) for k, tap in zip((-1, 0, 1), taps))
    disk = band @ disk @ band
    return disk / disk.sum()


@final
@dataclasses.dataclass(frozen=True)
class MotionBlur(AbstractImageShift):
    r"""A trail behind every point, in a direction of its own for each image.

    The mean of the image moved by 0, 1, …, r pixels, with weights
    $\exp(-i^2 / 2 \sigma^2)$; the direction is uniform within 45 degrees of the
    horizontal one. Points between pixels are interpolated, and beyond the border the
    nearest pixel counts.

    Args:
        levels: pairs (r, σ) in pixels; those of CIFAR-10-C, for images of about
            32 x 32, of which the third and the fourth hardly differ. ImageNet-C
            (224 x 224) has (10, 3), (15, 5), (15, 8), (15, 12), (20, 15).

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[tuple[int, float], ...] = (
        (6, 1.0),
        (6, 1.5),
        (6, 2.0),
        (8, 2.0),
        (9, 2.5),
    )

    def apply(
        self,
        images: np.ndarray,
        level: tuple[int, float],
        rng: np.random.Generator,
    ) -> np.ndarray:
        reach, spread = level
        angle = rng.uniform(-np.pi / 4, np.pi / 4, size=(len(images), 1, 1))
        steps = np.arange(reach + 1)
        weights = np.exp(-0.5 * (steps / spread) ** 2)
        weights = (weights / weights.sum()).astype(images.dtype)
        rows, columns = grid(images)
        out = weights[0] * images
        for step, weight in zip(steps[1:], weights[1:], strict=True):
            moved = bilinear(
                images, rows + step * np.sin(angle), columns + step * np.cos(angle)
            )
            out = out + weight * moved
        return out
