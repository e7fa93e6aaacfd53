"""Changes of place: coarse pixels, warps, turns and moves."""

import dataclasses
from typing import final

import numpy as np

from ntkuq.data.shifts.images import AbstractImageShift
from ntkuq.data.shifts.sampling import bilinear, grid


@final
@dataclasses.dataclass(frozen=True)
class Pixelate(AbstractImageShift):
    """Coarser pixels: averages over the cells of a grid with fewer pixels a side.

    A side of H pixels is divided into int(c H) equal cells, at least one; every pixel
    takes the mean over the pixels with their center in the same cell.

    Args:
        levels: c; those of CIFAR-10-C, for sides of 28 pixels or more. On smaller
            images some of them give the same grid, or grids that are not ordered by
            strength: give 1/2, 1/4, 1/8 there. ImageNet-C has 0.6, 0.5, 0.4, 0.3, 0.25.

    >>> import jax
    >>> x = np.arange(4.0).reshape(1, 2, 2) / 4
    >>> Pixelate((0.5,))(x, severity=1, key=jax.random.key(0)).tolist()
    [[[0.375, 0.375], [0.375, 0.375]]]

    References:
        Hendrycks and Dietterich, 2019, arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.95, 0.9, 0.85, 0.75, 0.65)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        down, across = (
            _averages(size, max(1, int(level * size))).astype(images.dtype)
            for size in images.shape[1:3]
        )
        planes = np.moveaxis(images, -1, 1)
        return np.moveaxis(down @ planes @ across.T, 1, -1)


def _averages(size: int, cells: int) -> np.ndarray:
    """From pixels to the mean over each one's cell, (size, size)."""
    cell = (2 * np.arange(size) + 1) * cells // (2 * size)
    same = cell[:, None] == cell
    return same / same.sum(axis=1, keepdims=True)


@final
@dataclasses.dataclass(frozen=True)
class ElasticTransform(AbstractImageShift):
    r"""A smooth random warp: each pixel is read at $p + s\,u(p)$.

    $u$ is white noise under a Gaussian filter, with root mean square 1 in each
    direction and image. Points between pixels are interpolated, and beyond the border
    the nearest pixel counts.

    The published constants mix a random affine map, which gets weaker with severity,
    with a warp of changing smoothness, so that they are not ordered by strength; here
    one warp grows.

    Args:
        levels: s, the root mean square move in each direction, as shares of the
            shorter side.
        smoothness: standard deviation of the filter, as a share of the shorter side.

    References:
        Simard, Steinkraus and Platt, 2003, ICDAR; Hendrycks and Dietterich, 2019,
        arXiv 1903.12261.
    """

    levels: tuple[float, ...] = (0.01, 0.02, 0.03, 0.045, 0.06)
    smoothness: float = 0.1

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        from scipy import ndimage

        n, height, width = images.shape[:3]
        side = min(height, width)
        sigma = self.smoothness * side
        field = rng.standard_normal((2, n, height, width))
        field = ndimage.gaussian_filter(field, (0, 0, sigma, sigma), mode="reflect")
        field /= np.sqrt(np.mean(field**2, axis=(2, 3), keepdims=True))
        rows, columns = grid(images)
        moves = level * side * field
        return bilinear(images, rows + moves[0], columns + moves[1])


@final
@dataclasses.dataclass(frozen=True)
class Rotation(AbstractImageShift):
    """A turn about the center, by the same angle to a random side for each image.

    Points between pixels are interpolated, and beyond the border the nearest pixel
    counts.

    Args:
        levels: angles in degrees; the first five steps of rotated MNIST.

    References:
        Ovadia et al., 2019, arXiv 1906.02530.
    """

    levels: tuple[float, ...] = (15, 30, 45, 60, 75)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        side = rng.choice([-1.0, 1.0], size=(len(images), 1, 1))
        angle = side * np.deg2rad(level)
        rows, columns = grid(images)
        rows, columns = rows - rows.mean(), columns - columns.mean()
        height, width = images.shape[1:3]
        return bilinear(
            images,
            rows * np.cos(angle) - columns * np.sin(angle) + (height - 1) / 2,
            rows * np.sin(angle) + columns * np.cos(angle) + (width - 1) / 2,
        )


@final
@dataclasses.dataclass(frozen=True)
class Translation(AbstractImageShift):
    """A move by the same distance in a random direction for each image.

    Points between pixels are interpolated, and beyond the border the nearest pixel
    counts.

    Args:
        levels: distances as shares of the shorter side.
    """

    levels: tuple[float, ...] = (1 / 16, 2 / 16, 3 / 16, 4 / 16, 5 / 16)

    def apply(
        self, images: np.ndarray, level: float, rng: np.random.Generator
    ) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi, size=(len(images), 1, 1))
        far = level * min(images.shape[1:3])
        rows, columns = grid(images)
        return bilinear(
            images, rows - far * np.sin(angle), columns - far * np.cos(angle)
        )
