"""Conformal prediction with the guarantee inside each group."""

from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.overlap import rows, warn_overlap
from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractConformal, AbstractScore, any_equal, method_scores
from .inputs import exact
from .order import need_enough, threshold
from .regions import Region


@dataclass(frozen=True)
class FittedGroups:
    """A score with a threshold for each group.

    Args:
        level: the kept probability.
        score: how strange an outcome is.
        groups: the names of the groups, sorted, (G,).
        threshold: of each group, (G,) or (G, C).
        n: how many points each group was calibrated on, (G,).
        seen: a number for each of those points, for the warning about overlap.
    """

    level: float
    score: AbstractScore
    groups: np.ndarray
    threshold: np.ndarray
    n: np.ndarray
    seen: np.ndarray = field(repr=False, compare=False)

    def region(self, p: Predictive, group: ArrayLike) -> Region:
        r"""Regions that hold the outcome with probability L inside every group.

        Args:
            p: predictions at N new points.
            group: the group of each, (N,).

        Raises:
            ValueError: for a group that the calibrate part did not have.
        """
        now = rows(p)
        if any_equal(self.seen, now):
            warn_overlap(self.seen, now, "GroupConformal")
        p = exact(p)
        names = group_names(group, int(p.observed.batch_shape[0]))
        place = np.searchsorted(self.groups, names)
        place = np.minimum(place, self.groups.size - 1)
        ok = self.groups[place] == names
        if not ok.all():
            row = first_bad(ok)
            known = ", ".join(str(name) for name in self.groups[:10])
            raise ValueError(
                f"expected groups of the calibrate part ({known}), got {names[row]} "
                f"at row {row}; a group needs points of its own to calibrate on"
            )
        return self.score.region(p, self.threshold[place], self.level)


@dataclass(frozen=True)
class GroupConformal:
    r"""Mondrian conformal prediction: an order statistic for each group.

    $P(y \in C(x) \mid g) \ge L$ for every group g, which must be known before the
    outcome is. The price is $n_g$ points in place of n.

    Args:
        base: the method whose scores are ordered: `SplitConformal`, `CQR`, `LAC`,
            `APS`, `RAPS`.

    >>> import numpy as np
    >>> from ntkuq.posteriors import Predictive
    >>> from ntkuq.calibration.conformal import SplitConformal
    >>> group = np.repeat(["calm", "rough"], 100)
    >>> y = np.where(group == "calm", 1.0, 5.0) * np.linspace(-1, 1, 200)
    >>> p = Predictive.normal(np.zeros(200), np.ones(200))
    >>> fitted = GroupConformal(SplitConformal(level=0.9)).fit(p, y, group)
    >>> new = Predictive.normal(np.zeros(2), np.ones(2))
    >>> fitted.region(new, np.array(["calm", "rough"])).upper.round(2)
    array([0.91, 4.55])

    References:
        Vovk, 2012, Proceedings of ACML (arXiv 1209.2673). Barber, Candès, Ramdas and
        Tibshirani, 2021, Information and Inference 10 (arXiv 1903.04684).
    """

    base: AbstractConformal

    def fit(self, p: Predictive, y: ArrayLike, group: ArrayLike) -> FittedGroups:
        """Find the threshold of each group.

        Args:
            p: predictions at the n points of the calibrate part.
            y: their outcomes.
            group: (n,), names or numbers.

        Raises:
            ValueError: when a group has too few points for the level; it is named,
                and so is the number needed.
        """
        level = self.base.level
        scores = method_scores(self.base, p, y)
        names, code = np.unique(group_names(group, len(scores)), return_inverse=True)
        sizes = np.bincount(code)
        for name, size in zip(names, sizes):
            need_enough(int(size), level, f"GroupConformal: group {name}")
        parts = np.split(scores[np.argsort(code, kind="stable")], np.cumsum(sizes)[:-1])
        at = [threshold(part, level, "GroupConformal") for part in parts]
        return FittedGroups(
            level, self.base.scoring, names, np.stack(at), sizes, rows(p)
        )


def group_names(group: ArrayLike, n: int) -> np.ndarray:
    """Groups as an array (n,).

    Raises:
        ValueError: for another shape and for NaN.
    """
    names = np.asarray(group)
    if names.shape != (n,):
        raise ValueError(f"expected groups of shape {(n,)}, got {names.shape}")
    if np.issubdtype(names.dtype, np.floating) and np.isnan(names).any():
        raise ValueError(f"expected groups, got NaN at row {first_bad(names == names)}")
    return names
