"""Coverage of intervals and reliability of classes, group by group."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.coverage import exact_interval, share
from ntkuq.calibration.ends import central
from ntkuq.calibration.exact import matched, need_regression
from ntkuq.calibration.means import mean_score
from ntkuq.calibration.records import Score
from ntkuq.calibration.regression import by_point, squeeze
from ntkuq.calibration.top_label import top_label
from ntkuq.posteriors.predictive import Predictive

from .labels import Groups
from .tables import SMALL, GroupRow, GroupTable, detectable_gap, simultaneous_level


def coverage_by_group(
    p: Predictive,
    y: ArrayLike,
    group: Groups | ArrayLike | Sequence,
    *,
    level: float,
) -> GroupTable:
    r"""How often the central interval holds the observation in each group.

    The exact binomial (Clopper-Pearson) intervals of the groups hold together with
    95 % probability: each has the level $0.95^{1/G}$ (Šidák), since the groups share
    no points. With several outputs the covered share of each point is averaged, and
    intervals are Student's. Each group has `nll` (nats; where there is a density) and
    the mean `width` of the interval (units of the data) besides.

    To see coverage by the predicted mean, the predicted width or the distance to the
    training data, give `quantile_groups` of it.

    Args:
        p: predictions at N points.
        y: shape of the predictions, in the units of the data.
        group: a label for each point, (N,), or `Groups`.
        level: the kept probability of the intervals, between 0 and 1.

    Raises:
        TypeError: for classes.
        ValueError: when shapes do not fit, a label is missing, or y is not finite.

    >>> rng = np.random.default_rng(0)
    >>> std = np.where(np.arange(400) < 200, 1.0, 3.0)
    >>> p = Predictive.normal(np.zeros(400), np.ones(400))
    >>> site = np.repeat(["A", "B"], 200)
    >>> table = coverage_by_group(p, std * rng.normal(size=400), site, level=0.9)
    >>> weakest = table.weakest
    >>> weakest.name, weakest.small, f"{weakest.gap:.2f}"
    ('B', False, '-0.53')

    References:
        Clopper and Pearson, 1934, Biometrika 26, 404-413. Šidák, 1967, Journal of the
        American Statistical Association 62, 626-633.
    """
    need_regression(p, "coverage_by_group", "reliability_by_group")
    with jax.enable_x64(True):
        double, outcome = matched(p, y)
        groups = _fitting(group, outcome.shape[0])
        lower, upper = central(double, level)
        try:
            nll = -np.asarray(double.log_prob(outcome))
        except NotImplementedError:
            nll = None  # samples and quantiles have no density
    inside = squeeze((lower <= outcome) & (outcome <= upper))
    others = {} if nll is None else {"nll": nll}
    others["width"] = by_point(upper - lower)
    target = np.full(outcome.shape[0], float(level))
    rows = _rows(groups, inside, target, others, float(level))
    return GroupTable("coverage", groups.by, float(level), rows)


def reliability_by_group(
    p: Predictive, y: ArrayLike, group: Groups | ArrayLike | Sequence
) -> GroupTable:
    r"""How often the predicted class is right in each group, against its confidence.

    A row's `target` is the mean confidence; `gap` is accuracy less confidence,
    negative where the group is overconfident. Given the predictions, the number of
    right ones is a sum of independent draws, whose law is narrower than the binomial
    one, so the exact intervals hold; those of all groups hold together with 95 %
    probability (Šidák). Each group has `nll` (nats) besides. With several positions
    of a point (images, sequences) their shares are averaged and intervals are
    Student's.

    Args:
        p: class probabilities at N points.
        y: class codes, shape of the predictions.
        group: a label for each point, (N,), or `Groups`.

    Raises:
        TypeError: for predictions that are not of classes.
        ValueError: when shapes do not fit or a label is missing.

    >>> p = Predictive.probabilities(np.tile([0.9, 0.1], (100, 1)))
    >>> y = np.r_[np.zeros(50, int), np.ones(50, int)]
    >>> table = reliability_by_group(p, y, np.repeat(["good", "bad"], 50))
    >>> table.weakest.name, f"{table.weakest.gap:.1f}"
    ('bad', '-0.9')

    References:
        Hoeffding, 1956, Annals of Mathematical Statistics 27, 713-721.
    """
    if not p.is_classification:
        raise TypeError(
            "reliability_by_group expects class probabilities, got observations on a "
            "scale; use coverage_by_group"
        )
    with jax.enable_x64(True):
        double, codes = matched(p, y)
        probs = np.asarray(double.mean)
        nll = -np.asarray(double.log_prob(codes))
    groups = _fitting(group, codes.shape[0])
    confidence, right = top_label(probs.reshape(-1, probs.shape[-1]), codes.reshape(-1))
    if codes.ndim > 1:
        right = right.reshape(codes.shape[0], -1)
        confidence = confidence.reshape(codes.shape[0], -1).mean(axis=1)
    rows = _rows(groups, squeeze(right), confidence, {"nll": nll}, None)
    return GroupTable("accuracy", groups.by, None, rows)


def _fitting(group: Groups | ArrayLike | Sequence, n: int) -> Groups:
    groups = Groups.of(group)
    if groups.code.shape != (n,):
        raise ValueError(
            f"expected a group for each of the {n} points, got {groups.code.size}"
        )
    return groups


def _rows(
    groups: Groups,
    hit: np.ndarray,
    target: np.ndarray,
    others: dict[str, np.ndarray],
    level: float | None,
) -> tuple[GroupRow, ...]:
    each = simultaneous_level(len(groups.names))
    order = np.argsort(groups.code, kind="stable")
    sizes = np.bincount(groups.code, minlength=len(groups.names))
    parts = np.split(order, np.cumsum(sizes)[:-1])
    rows = []
    for name, rows_of in zip(groups.names, parts, strict=True):
        if not rows_of.size:
            continue  # a group of a larger set, without points here
        aim = math.fsum(target[rows_of]) / rows_of.size
        value, ends = _share(hit[rows_of], each, level)
        exact = hit.ndim == 1
        rows.append(
            GroupRow(
                name=name,
                n=rows_of.size,
                small=rows_of.size < SMALL,
                value=value,
                target=aim,
                simultaneous=ends,
                detectable=detectable_gap(rows_of.size, aim, each) if exact else None,
                others={key: mean_score(v[rows_of]) for key, v in others.items()},
            )
        )
    return tuple(rows)


def _share(
    hit: np.ndarray, each: float, level: float | None
) -> tuple[Score, tuple[float, float] | None]:
    """The share with its own interval, and the interval at the level of each group."""
    if hit.ndim == 1:
        hits, n = int(hit.sum()), hit.size
        return share(hits, n, level=level), exact_interval(hits, n, each)
    from scipy import special

    mean = mean_score(hit.mean(axis=1), level=level)
    if mean.se is None:
        return mean, None

    def ends(kept: float) -> tuple[float, float]:
        half = float(special.stdtrit(mean.n - 1, (1 + kept) / 2)) * float(mean.se or 0)
        return max(mean.value - half, 0.0), min(mean.value + half, 1.0)

    return Score(mean.value, mean.se, mean.n, ends(0.95), level=level), ends(each)
