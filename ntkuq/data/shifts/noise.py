"""Noise in every pixel: of the sensor, of counted photons, of dead pixels."""

import dataclasses
from typing import final

import numpy as np

from ntkuq.data.shifts.images import AbstractImageShift


@final
@dataclasses.dataclass(frozen=True)
class GaussianNoise(AbstractImageShift):
    r"""$x + \sigma z$ with standard normal $z$ in each channel of each pixel.

    Args:
        levels: standard deviations; those of CIFAR-10-C. ImageNet-C has 0.08, 0.12,
            0.18, 0.26, 0.38.

    >>> import jax
    >>> x = np.full((1, 2, 2), 0.5)
    >>> noisy = GaussianNoise()(x, severity=5, key=jax.random.key(0))
    >>> noisy.shape, bool(abs(noisy - x).max() < 0.4)
    ((1, 2, 2), True)

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.04, 0.06, 0.08, 0.09, 0.10)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        return images + _like(images, level) * _normal(images, rng)


@final
@dataclasses.dataclass(frozen=True)
class ShotNoise(AbstractImageShift):
    r"""Poisson noise: $\mathrm{Poisson}(c\,x) / c$ for c photons at intensity 1.

    The variance is $x / c$; black stays black. Draws of several severities are
    independent, since a Poisson draw at another rate is another draw.

    Args:
        levels: photons at intensity 1; those of CIFAR-10-C. ImageNet-C has 60, 25, 12,
            5, 3.

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (500, 250, 100, 75, 50)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        rate = np.clip(images, 0, 1) * _like(images, level)
        return rng.poisson(rate).astype(images.dtype) / _like(images, level)


@final
@dataclasses.dataclass(frozen=True)
class ImpulseNoise(AbstractImageShift):
    """Salt and pepper: a share of the entries becomes 0 or 1, each with chance 1/2.

    Entries hit at one severity are hit in the same way at every higher one.

    Args:
        levels: shares of the entries (pixel and channel); those of CIFAR-10-C.
            ImageNet-C has 0.03, 0.06, 0.09, 0.17, 0.27.

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.07)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        hit = rng.random(images.shape) < level
        salt = rng.random(images.shape) < 0.5
        return np.where(hit, salt.astype(images.dtype), images)


@final
@dataclasses.dataclass(frozen=True)
class SpeckleNoise(AbstractImageShift):
    r"""$x + \sigma x z$ with standard normal $z$ in each channel of each pixel.

    Args:
        levels: standard deviations at intensity 1; those of CIFAR-10-C. ImageNet-C has
            0.15, 0.2, 0.35, 0.45, 0.6.

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.06, 0.10, 0.12, 0.16, 0.20)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        return images + _like(images, level) * images * _normal(images, rng)


def _like(images: np.ndarray, level: float) -> np.floating:
    return images.dtype.type(level)


def _normal(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(images.shape, dtype=images.dtype.type)
