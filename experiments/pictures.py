"""Images with classes, from `$NTKUQ_DATA`, as arrays of all parts."""

from typing import NamedTuple

import numpy as np

import ntkuq as nq
from ntkuq.data.images import IMAGES


class Pictures(NamedTuple):
    """Grey levels or colors in [0, 1], channels last, and classes 0 to 9."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


NAMES = tuple(IMAGES)


def load(name: str) -> Pictures:
    """The images of this name, as `ntkuq.data.load_images` has them."""
    split = nq.data.load_images(name)
    return Pictures(split.train.x, split.train.y, split.test.x, split.test.y)
