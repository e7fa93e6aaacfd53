"""How far a point lies from the training data."""

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.exact import need_finite


TREE = 15  # features above which a tree visits nearly all points

COMPONENTS = 50

BLOCK = 20_000_000  # numbers of one block of distances


def distance_to_training(x: ArrayLike, x_train: ArrayLike, *, k: int = 5) -> np.ndarray:
    r"""The distance of each input to its k-th nearest training input.

    Inputs are flattened to D features and standardized by the mean and standard
    deviation of the training inputs; features that are constant there are left as they
    are. Above 50 features the distance is taken in the space of the 50 leading
    principal components of the training inputs, each with its own variance: what an
    input has outside of that space does not count, so this is a distance along the
    directions in which training inputs differ.

    Coverage by distance is `coverage_by_group(p, y, quantile_groups(distance,
    by="distance"), level=0.9)`.

    Args:
        x: inputs, (N, ...).
        x_train: training inputs, (M, ...), M >= k. A training input counts as its own
            nearest neighbor.
        k: which neighbor, at least 1.

    Returns:
        (N,), in standard deviations of the training inputs.

    Raises:
        ValueError: when shapes do not fit, an input is not finite, or there are fewer
            than k training inputs.

    >>> train = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    >>> distance_to_training(np.array([[0.0], [3.0]]), train, k=1).tolist()
    [1.0, 2.0]

    References:
        Sun, Ming, Zhu and Li, 2022, ICML (arXiv 2204.06507).
    """
    points, train = flat("x", x), flat("x_train", x_train)
    if points.shape[1] != train.shape[1]:
        raise ValueError(
            f"expected x with {train.shape[1]} features like x_train, got "
            f"{points.shape[1]}"
        )
    if not 1 <= k <= train.shape[0]:
        raise ValueError(
            f"expected k between 1 and the {train.shape[0]} training inputs, got {k}"
        )
    center, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(np.abs(center), 1e-300), scale, 1.0)
    points, train = (points - center) / scale, (train - center) / scale
    if train.shape[1] > COMPONENTS:
        axes = _leading(train)
        points, train = points @ axes, train @ axes
    if train.shape[1] <= TREE:
        from scipy.spatial import KDTree

        near = np.asarray(KDTree(train).query(points, k=k)[0])
        return near.reshape(points.shape[0], k)[:, -1]
    return _by_blocks(points, train, k)


def flat(name: str, x: ArrayLike) -> np.ndarray:
    """Inputs as (N, D) in float64, checked to be finite.

    Raises:
        ValueError: for inputs that are no array of numbers or not finite.
    """
    array = np.asarray(x)
    if array.dtype == object or not (
        np.issubdtype(array.dtype, np.number) or array.dtype == bool
    ):
        raise ValueError(
            f"expected {name} to be one array of numbers, got {type(x).__name__} of "
            f"dtype {array.dtype}; give the arrays of a tree side by side"
        )
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"expected {name} with at least one input, shape (N, ...), got "
            f"{array.shape}"
        )
    out = array.astype(np.float64).reshape(array.shape[0], -1)
    need_finite(name, out)
    return out


def _leading(train: np.ndarray) -> np.ndarray:
    """The leading principal directions of centered inputs, (D, 50)."""
    from scipy import linalg

    # With fewer rows than features the same directions come from the smaller product.
    wide = train.shape[0] < train.shape[1]
    product = train @ train.T if wide else train.T @ train
    last = product.shape[0] - 1
    low = max(last + 1 - COMPONENTS, 0)
    values, vectors = linalg.eigh(product, subset_by_index=(low, last))
    # Directions in which training inputs do not differ are no part of their space.
    kept = values > 1e-10 * values[-1]
    vectors = vectors[:, kept]
    return train.T @ (vectors / np.sqrt(values[kept])) if wide else vectors


def _by_blocks(points: np.ndarray, train: np.ndarray, k: int) -> np.ndarray:
    """Distances by matrix products, with those of the neighbors computed once more.

    $|a|^2 + |b|^2 - 2 a b$ cancels for close points, so it only chooses a few more
    than the k neighbors.
    """
    squares = np.sum(train**2, axis=1)
    chosen = min(k + 5, train.shape[0])
    out = np.empty(points.shape[0])
    step = max(1, BLOCK // train.shape[0])
    for start in range(0, points.shape[0], step):
        block = points[start : start + step]
        rough = squares - 2 * block @ train.T
        near = np.argpartition(rough, chosen - 1, axis=1)[:, :chosen]
        distance = np.linalg.norm(block[:, None, :] - train[near], axis=2)
        out[start : start + step] = np.partition(distance, k - 1, axis=1)[:, k - 1]
    return out
