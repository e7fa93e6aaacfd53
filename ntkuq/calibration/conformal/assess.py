"""How often regions hold the outcome, and how large they are."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.coverage import coverage, exact_interval, share
from ntkuq.calibration.means import mean_score
from ntkuq.calibration.records import Score

from .groups import group_names
from .law import CoverageLaw
from .order import need_level
from .regions import Boxes, ClassSets, Ellipsoids, Interval, Region


#: Fewest points of a stratum of region sizes; smaller ones are joined.
SMALLEST = 30


def region_scores(
    region: Region,
    y: ArrayLike,
    *,
    level: float | None = None,
    calibrated: int | None = None,
) -> dict[str, Score]:
    """Score regions against what was observed.

    `coverage` with its exact binomial interval; `width` (units of the data), `size`
    (classes) or `volume`; `empty` and `infinite`, shares of such regions;
    `size_stratified`, the lowest coverage among points with regions of similar size
    (Angelopoulos et al. 2021), and for classes `class_conditional`, the lowest coverage
    among the classes. The interval of a lowest coverage holds for all strata at once
    (Bonferroni), since the lowest was picked for being low.

    Args:
        region: intervals, sets, boxes or ellipsoids at N points.
        y: outcomes of the shape of the regions, or class codes.
        level: the kept probability, kept along in the records.
        calibrated: number n of calibrate points of a split method; then `coverage.p`
            is the p-value of the hits under `CoverageLaw(level, n)`, which allows for
            the luck of the calibrate part as well as of the test part.

    Raises:
        ValueError: when shapes do not fit, y is not finite, there are no points, or
            `calibrated` comes without `level` or for several outputs.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> ends = Interval(np.full(400, -1.645), np.full(400, 1.645))
    >>> s = region_scores(ends, rng.normal(size=400), level=0.9, calibrated=999)
    >>> print(f"{s['coverage'].value:.2f} p = {s['coverage'].p:.1f}")
    0.92 p = 0.2
    """
    if level is not None:
        need_level(level)
    inside = np.asarray(region.contains(y))
    if not inside.size:
        raise ValueError("expected at least one region to score, got none")
    law = None
    if calibrated is not None:
        if level is None or inside.ndim > 1:
            raise ValueError(
                "the law of coverage needs the level as well as `calibrated`, and one "
                "outcome a point"
            )
        law = CoverageLaw(level, calibrated)
    size = np.asarray(region.size, np.float64)
    values = {"coverage": _covered(inside, level, law)}
    by_point = size.mean(axis=1) if size.ndim == 2 else size
    values[_size_name(region)] = mean_score(by_point, level=level)
    values |= _extremes(region)
    if inside.ndim > 1:
        return values
    strata = coverage_by(region, y, size_strata(size), level=level)
    values["size_stratified"] = lowest(strata)
    if isinstance(region, ClassSets):
        classes = coverage_by(region, y, np.asarray(y).reshape(-1), level=level)
        values["class_conditional"] = lowest(classes)
    return values


def coverage_by(
    region: Region, y: ArrayLike, group: ArrayLike, *, level: float | None = None
) -> dict[object, Score]:
    """The coverage inside each group: of the data, of a class (pass y), of size.

    Args:
        region: one region a point, N points.
        y: outcomes.
        group: the group of each point, (N,).
        level: the kept probability, kept along in the records.

    Returns:
        The share covered with its exact binomial interval, by group.

    Raises:
        ValueError: when shapes do not fit or each output has a region of its own.
    """
    inside = np.asarray(region.contains(y))
    if inside.ndim != 1:
        raise ValueError(
            f"expected one region a point, got {inside.shape}; take one output at a "
            "time"
        )
    names, code = np.unique(group_names(group, inside.size), return_inverse=True)
    hits = np.bincount(code, inside, minlength=names.size)
    total = np.bincount(code, minlength=names.size)
    return {
        name: share(int(hit), int(n), level=level)
        for name, hit, n in zip(names.tolist(), hits, total)
    }


def lowest(groups: Mapping[object, Score]) -> Score:
    """The group with the lowest coverage, with an interval that allows for the choice.

    The exact binomial interval at $1 - 0.05 / K$ among K groups.
    """
    worst = min(groups.values(), key=lambda s: (s.value, -s.n))
    ends = exact_interval(worst.hits or 0, worst.n, 1 - 0.05 / len(groups))
    return replace(worst, interval=ends)


def size_strata(size: np.ndarray, most: int = 10) -> np.ndarray:
    """Points by the size of their region, (N,): equal sizes stay together.

    Each stratum holds at least a tenth of the points and at least 30; what is left
    over joins the last one.

    Args:
        size: (N,).
        most: most strata.

    >>> print(size_strata(np.repeat([1, 2, 3], [40, 50, 5])))
    [0 0 ... 1 1]
    """
    values, counts = np.unique(size, return_counts=True)
    least = max(SMALLEST, -(-size.size // most))
    stratum, held, label = np.empty(values.size, int), 0, 0
    for place, count in enumerate(counts.tolist()):
        stratum[place] = label
        held += count
        if held >= least:
            label, held = label + 1, 0
    if held and label:
        stratum[stratum == label] = label - 1
    return stratum[np.searchsorted(values, size)]


def _covered(inside: np.ndarray, level: float | None, law: CoverageLaw | None) -> Score:
    if inside.ndim > 1:
        # the record alone has no level where none was given
        return replace(coverage(inside, level or 0.0), level=level)
    s = _share(inside, level)
    if law is None or s.hits is None:
        return s
    p = law.p_value(s.hits, s.n)
    return replace(s, p=p)


def _share(hit: np.ndarray, level: float | None = None) -> Score:
    return share(int(hit.sum()), hit.size, level=level)


def _size_name(region: Region) -> str:
    if isinstance(region, Interval):
        return "width"
    return "size" if isinstance(region, ClassSets) else "volume"


def _extremes(region: Region) -> dict[str, Score]:
    if isinstance(region, ClassSets):
        return {"empty": _share(region.size == 0)}
    if isinstance(region, Interval | Boxes):
        lower, upper = region.lower, region.upper
        empty, infinite = lower > upper, np.isinf(upper - lower) & (lower < upper)
        if lower.ndim > 1:
            empty, infinite = empty.any(axis=1), infinite.any(axis=1)
        return {"empty": _share(empty), "infinite": _share(infinite)}
    if isinstance(region, Ellipsoids):
        radius = region.radius
        return {"empty": _share(radius < 0), "infinite": _share(np.isinf(radius))}
    return {}
