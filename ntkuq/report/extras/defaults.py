"""Shifts and outside sets that fit the inputs of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ntkuq.data import Split
from ntkuq.data.shifts import (
    AbstractShift,
    Contrast,
    FeatureDropout,
    FeatureNoise,
    GaussianBlur,
    GaussianNoise,
    ScaleShift,
    permuted_features,
    uniform_noise,
)


def default_shifts(data: Split) -> Mapping[str, AbstractShift]:
    """Three shifts of tables, (N, D), or three of images, (N, H, W) or with channels.

    Raises:
        TypeError: for inputs that are no array of numbers.
    """
    x = _array(data, "Shifts")
    if x.ndim == 2:
        return {
            "noise": FeatureNoise(),
            "dropout": FeatureDropout(),
            "scale": ScaleShift(),
        }
    return {"noise": GaussianNoise(), "blur": GaussianBlur(), "contrast": Contrast()}


def default_outside(data: Split, *, key: Array) -> dict[str, Any]:
    """Uniform noise, and the test inputs with their features permuted.

    Raises:
        TypeError: for inputs that are no array of numbers.
    """
    x = _array(data, "OutsideSets")
    noise_key, permute_key = jax.random.split(key)
    return {
        "uniform noise": uniform_noise(x, key=noise_key),
        "permuted features": permuted_features(x, key=permute_key),
    }


def _array(data: Split, who: str) -> np.ndarray:
    if not isinstance(data.test.x, np.ndarray | jax.Array):
        raise TypeError(
            f"{who}: expected inputs in one array, got {type(data.test.x).__name__}: "
            "name the shifts or sets yourself"
        )
    return np.asarray(data.test.x)
