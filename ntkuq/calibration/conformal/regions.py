"""Regions that hold an outcome with a stated probability."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.exact import need_finite
from ntkuq.posteriors.distributions import first_bad


@runtime_checkable
class Region(Protocol):
    """One region a point: what holds which outcomes, and how large it is."""

    @property
    def size(self) -> np.ndarray:
        """Width, number of classes or volume."""
        ...

    def contains(self, y: ArrayLike) -> np.ndarray:
        """Whether each outcome lies in its region."""
        ...


class Interval(NamedTuple):
    """Intervals with both ends included; `lower, upper = interval` unpacks them.

    An empty interval has lower = +inf and upper = -inf; one without bounds the
    reverse.

    Args:
        lower: (N,) or (N, C), in the units of the data.
        upper: the same shape.

    >>> ends = Interval(np.array([0.0, 1.0]), np.array([2.0, 4.0]))
    >>> print(ends.contains(np.array([2.0, 5.0])), ends.size)
    [ True False] [2. 3.]
    """

    lower: np.ndarray
    upper: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """The width, in the units of the data; 0 for an empty interval."""
        empty = self.lower > self.upper
        # inf - inf must not warn where the interval is empty
        return np.where(empty, 0.0, self.upper - np.where(empty, 0.0, self.lower))

    def contains(self, y: ArrayLike) -> np.ndarray:
        """Whether each outcome lies inside, shape of the ends."""
        y = outcomes_like(y, self.lower.shape)
        return (self.lower <= y) & (y <= self.upper)


@dataclass(frozen=True)
class ClassSets:
    """Sets of classes.

    Args:
        member: (N, C), whether each class is in the set of each point.

    >>> sets = ClassSets(np.array([[True, False, True], [False, True, False]]))
    >>> print(sets.size, sets.contains(np.array([1, 1])))
    [2 1] [False  True]
    """

    member: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """The number of classes in each set, (N,); 0 for an empty set."""
        return self.member.sum(axis=1)

    def contains(self, y: ArrayLike) -> np.ndarray:
        """Whether each class code is in its set, (N,)."""
        n, classes = self.member.shape
        codes = np.asarray(y)
        if codes.shape not in ((n,), (n, 1)):
            raise ValueError(f"expected class codes of shape {(n,)}, got {codes.shape}")
        codes = codes.reshape(n)
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"expected integer class codes, got dtype {codes.dtype}")
        ok = (codes >= 0) & (codes < classes)
        if not ok.all():
            row = first_bad(ok)
            raise ValueError(
                f"expected class codes 0 to {classes - 1}, got {codes[row]} at row "
                f"{row}"
            )
        return self.member[np.arange(n), codes]


@dataclass(frozen=True)
class Boxes:
    """Boxes for several outputs at once, faces included.

    Args:
        lower: (N, C), in the units of the data.
        upper: (N, C).

    >>> boxes = Boxes(np.zeros((2, 2)), np.ones((2, 2)))
    >>> print(boxes.contains(np.array([[0.5, 1.0], [0.5, 1.1]])), boxes.size)
    [ True False] [1. 1.]
    """

    lower: np.ndarray
    upper: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """The volume, (N,), in the product of the units of the outputs."""
        return np.prod(Interval(self.lower, self.upper).size, axis=1)

    def contains(self, y: ArrayLike) -> np.ndarray:
        """Whether all outputs of a point lie inside, (N,)."""
        return Interval(self.lower, self.upper).contains(y).all(axis=1)


@dataclass(frozen=True)
class Ellipsoids:
    r"""Ellipsoids $\{y : \|L^{-1} \mathrm{diag}(s)^{-1} (y - m)\| \le r\}$.

    Args:
        center: m, (N, C), in the units of the data.
        std: s, (N, C), the same units.
        factor: L, (C, C), lower triangular: the shape shared by all points.
        radius: r, (N,).

    >>> disk = Ellipsoids(np.zeros((1, 2)), np.ones((1, 2)), np.eye(2), np.ones(1))
    >>> print(disk.contains(np.array([[0.6, 0.8]])), disk.size.round(4))
    [ True] [3.1416]
    """

    center: np.ndarray
    std: np.ndarray = field(repr=False)
    factor: np.ndarray
    radius: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """The volume, (N,), in the product of the units of the outputs."""
        outputs = self.center.shape[1]
        ball = math.pi ** (outputs / 2) / math.gamma(outputs / 2 + 1)
        shape = np.prod(np.diag(self.factor)) * np.prod(self.std, axis=1)
        return ball * shape * np.maximum(self.radius, 0.0) ** outputs

    def contains(self, y: ArrayLike) -> np.ndarray:
        """Whether each point lies inside, (N,)."""
        y = outcomes_like(y, self.center.shape)
        return mahalanobis((y - self.center) / self.std, self.factor) <= self.radius


def mahalanobis(residual: np.ndarray, factor: np.ndarray) -> np.ndarray:
    r"""$\|L^{-1} r\|$ of each row, (N,).

    Args:
        residual: r, (N, C).
        factor: L, (C, C), lower triangular.
    """
    from scipy.linalg import solve_triangular

    white = solve_triangular(factor, residual.T, lower=True)
    return np.sqrt(np.sum(white**2, axis=0))


def outcomes_like(y: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Finite outcomes as float64 of the given shape; a last axis of 1 may be missing.

    Raises:
        ValueError: for another shape, and for a value that is not finite.
    """
    got = np.shape(y)
    if got not in (shape, (*shape, 1)) and (*got, 1) != shape:
        raise ValueError(f"expected y of shape {shape}, got {got}")
    known = np.asarray(y, np.float64).reshape(shape)
    need_finite("y", known)
    return known
