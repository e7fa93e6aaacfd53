"""Reading images between their pixels."""

import numpy as np


def bilinear(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear interpolation; beyond the border the nearest pixel counts.

    Args:
        images: (n, H, W, C).
        rows, columns: where to read, (n, H, W), in pixels from the first one's center.

    Returns:
        (n, H, W, C).

    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]])[None, ..., None]
    >>> at = np.full((1, 1, 1), 0.5)
    >>> bilinear(image, at, at).item(), bilinear(image, at * 0, at * 9).item()
    (1.5, 1.0)
    """
    n, height, width, channels = images.shape
    pixels = images.reshape(-1, channels)
    first = np.arange(n)[:, None, None] * (height * width)
    top, bottom, down = _neighbors(rows, height)
    left, right, across = _neighbors(columns, width)
    down, across = (share.astype(images.dtype)[..., None] for share in (down, across))
    above = first + top * width
    below = first + bottom * width

    def at(index: np.ndarray) -> np.ndarray:
        return np.take(pixels, index, axis=0)

    upper = at(above + left) * (1 - across) + at(above + right) * across
    lower = at(below + left) * (1 - across) + at(below + right) * across
    return upper * (1 - down) + lower * down


def grid(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel, each (1, H, W)."""
    height, width = images.shape[1:3]
    rows, columns = np.meshgrid(
        np.arange(height, dtype=float), np.arange(width, dtype=float), indexing="ij"
    )
    return rows[None], columns[None]


def _neighbors(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels before and after, and how far on from the one before."""
    at = np.clip(at, 0, size - 1)
    before = np.floor(at).astype(np.intp)
    return before, np.minimum(before + 1, size - 1), at - before
