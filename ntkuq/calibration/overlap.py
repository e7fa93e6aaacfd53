"""A warning when points of a calibration are predicted again as if they were new."""

import warnings
from pathlib import Path

import jax
import numpy as np
from numpyro import distributions as dist

from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive


#: The warning points at the first line outside.
PACKAGE = str(Path(__file__).parents[1])


class OverlapWarning(UserWarning):
    """Points to be judged are among those that a calibration was fitted on."""


def rows(p: Predictive) -> np.ndarray:
    """A number for each point that stands for its predicted distribution.

    Two points get the same number when all parameters of their observed distributions
    are equal; other pairs do so with probability $2^{-64}$. Models give equal
    parameters to equal inputs, so the number stands for the input, too. Class
    probabilities that are 0 and 1 only are shared by many inputs: their number is 0,
    which means unknown.

    Args:
        p: predictions at N points.

    Returns:
        Shape (N,), unsigned 64-bit integers, the same on every run and machine.

    >>> import numpy as np
    >>> a = rows(Predictive.normal(np.array([0.0, 1.0, 0.0]), np.ones(3)))
    >>> bool(a[0] == a[2]), bool(a[0] == a[1])
    (True, False)
    """
    parts = _parameters(p.observed)
    count = parts[0].shape[0]
    total = np.full(count, 0x9E3779B97F4A7C15, np.uint64)
    for part in parts:
        columns = part.reshape(part.shape[0], -1)
        for number in range(columns.shape[1]):
            # + 0.0 makes one zero of the two; float32 values are exact in float64
            column = columns[:, number].astype(np.float64) + 0.0
            total = _mixed(total ^ _mixed(column.view(np.uint64) + np.uint64(1)))
    if isinstance(p.observed, dist.CategoricalProbs):
        table = np.asarray(p.observed.probs).reshape(count, -1)
        total[((table == 0) | (table == 1)).all(axis=1)] = 0
    return total


def warn_overlap(seen: np.ndarray, now: np.ndarray, what: str) -> None:
    r"""Warn when points of a calibration are among the points predicted now.

    Counted are points that occur exactly once on either side, so constant predictions
    and inputs that repeat raise no alarm. Data with some equal rows share a few of
    them between any two parts by chance: where d values occur just twice on one side
    and nowhere else, chance shares
    $e = 2nm\,d / (n(n-1) + m(m-1))$ of the others, since an equal pair falls on two
    sides as often as there are pairs across and inside. The warning comes when the
    count exceeds $e$ by 4 standard deviations and is at least 0.2 % of the smaller
    side (two float32 numbers are equal by chance once in some ten millions).

    Args:
        seen: `rows` of the points of the calibration, (n,).
        now: `rows` of the points predicted now, (m,).
        what: the name of the calibration, for the message.

    Warns:
        OverlapWarning: with the number of shared points and what to do.
    """
    shared, inside = _shared(seen, now)
    n, m = seen.size, now.size
    pairs = n * (n - 1) + m * (m - 1)
    ratio = 2 * n * m / pairs if pairs else 0.0
    chance = inside * ratio
    limit = chance + 4 * np.sqrt(chance * (1 + ratio))
    if shared <= limit or shared < 0.002 * min(n, m):
        return
    warnings.warn(
        f"{what}: {shared} of these {m} points have exactly the predictions of points "
        f"that it was fitted on ({n} points), so they are hardly new to it and scores "
        "on them look too good; keep the calibrate part apart from the test part, or "
        "remove equal rows from one of them",
        OverlapWarning,
        skip_file_prefixes=(PACKAGE,),
    )


def _shared(seen: np.ndarray, now: np.ndarray) -> tuple[int, int]:
    """Values once on each side, and values twice on one side and not on the other."""
    values, code = np.unique(np.concatenate([seen, now]), return_inverse=True)
    known = values > 0
    left = np.bincount(code[: seen.size], minlength=values.size)
    right = np.bincount(code[seen.size :], minlength=values.size)
    shared = known & (left == 1) & (right == 1)
    inside = known & (left + right == 2) & ~shared
    return int(shared.sum()), int(inside.sum())


def _parameters(observed: dist.Distribution) -> list[np.ndarray]:
    """The parameters of each point, the points on the first axis."""
    if isinstance(observed, dist.MixtureSameFamily):
        weights = np.asarray(observed.mixing_distribution.probs)  # pyright: ignore[reportAttributeAccessIssue]
        parts = jax.tree.leaves(observed.component_distribution)
        return _alike([weights, *parts])
    if isinstance(observed, Empirical | QuantileTable):
        return [np.asarray(observed.values)]
    if isinstance(observed, dist.CategoricalLogits):
        return [np.asarray(observed.logits)]
    if isinstance(observed, dist.CategoricalProbs):
        return [np.asarray(observed.probs)]
    leaves = [np.asarray(a) for a in jax.tree.leaves(observed)]
    shape = tuple(observed.batch_shape)
    whole = [a for a in leaves if a.shape == shape]
    # mapping over a distribution leaves its recorded batch shape behind
    return _alike(leaves, shape if whole else None)


def _alike(
    arrays: list[np.ndarray], shape: tuple[int, ...] | None = None
) -> list[np.ndarray]:
    """The arrays that speak of single points, at one common shape; others left out."""
    shape = shape or max((a.shape for a in arrays), key=lambda s: (len(s), s))
    return [np.broadcast_to(a, shape) for a in arrays if _fits(a.shape, shape)]


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    ends = zip(reversed(shape), reversed(target))
    return len(shape) <= len(target) and all(a in (1, b) for a, b in ends)


def _mixed(a: np.ndarray) -> np.ndarray:
    """The bits well mixed, one to one: the finalizer of SplitMix64 (Steele 2014)."""
    a = (a ^ (a >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    a = (a ^ (a >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return a ^ (a >> np.uint64(31))
