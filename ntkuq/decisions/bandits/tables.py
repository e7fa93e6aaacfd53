"""Classification tables as bandits, by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ntkuq.data.images import IMAGES, load_images
from ntkuq.data.npz import unpack
from ntkuq.decisions.bandits.environments import Rows, classification


#: Names that `table` knows.
TABLES = ("mushroom", "adult", "shuttle", "covertype", "mnist", "fashion_mnist")


def table(name: str, *, normalize: bool = False) -> Rows:
    """One arm a class of a known table; read from the folder $NTKUQ_DATA.

    Args:
        name: one of `TABLES`.
        normalize: as in `classification`.

    Raises:
        ValueError: for another name, or without the folder.
    """
    if name not in TABLES:
        raise ValueError(f"name: expected one of {', '.join(TABLES)}, got {name}")
    folder = os.environ.get("NTKUQ_DATA")
    if not folder:
        raise ValueError(
            f"{name}: expected the folder with tabular/{name}.npz, got none: set the "
            "environment variable NTKUQ_DATA"
        )
    if name in IMAGES:
        images = load_images(name).train
        pixels = np.asarray(images.x, np.float32).reshape(len(images.x), -1)
        labels = np.asarray(images.y, np.int64)
        return classification(pixels, labels, normalize=normalize)
    path = Path(folder) / "tabular" / f"{name}.npz"
    arrays = unpack(path, str(path))
    return classification(*_parts(name, arrays), normalize=normalize)


def _parts(name: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if name == "mushroom":
        return _one_hot(arrays["x"]), arrays["y"].astype(np.int64)
    if name == "adult":
        numbers = arrays["x_num_train"].astype(np.float64)
        # capital gain and loss: mostly 0, else thousands
        skewed = numbers.min(axis=0) >= 0
        logs = np.log1p(np.where(skewed, numbers, 0.0))
        x = np.concatenate([numbers, logs, _one_hot(arrays["x_cat_train"])], axis=1)
        return x, arrays["y_train"].astype(np.int64)
    if name == "shuttle":
        numbers = arrays["x_train"].astype(np.float64)
        # heavy tails: the signed logarithm beside the number itself
        logs = np.sign(numbers) * np.log1p(np.abs(numbers))
        x = np.concatenate([numbers, logs], axis=1)
        return x, arrays["y_train"].astype(np.int64)
    return arrays["x"].astype(np.float64), arrays["y"].astype(np.int64)


def _one_hot(codes: np.ndarray) -> np.ndarray:
    columns = [np.eye(int(c.max()) + 1)[c.astype(np.int64)] for c in codes.T]
    return np.concatenate(columns, axis=1)
