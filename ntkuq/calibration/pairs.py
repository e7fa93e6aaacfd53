"""Which methods the test data can tell from the best one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .bootstrap import group_means
from .records import finite


ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """The mean score of a method less that of the best method.

    Args:
        label: the method.
        value: mean difference, in the units of the score; 0 for the best itself.
        se: its standard error, or None where it cannot be had.
        interval: Holm-adjusted 95 % interval; it excludes 0 just when
            `distinguishable`.
        p: Holm-adjusted two-sided p-value; None for the best itself.
        n: number of points.
        distinguishable: whether the data tell this method from the best.
        caution: why the numbers may mislead, or None.
        is_best: whether this is the method compared with.
    """

    label: str
    value: float
    se: float | None
    interval: tuple[float, float] | None
    p: float | None
    n: int
    distinguishable: bool
    caution: str | None
    is_best: bool = False

    def to_dict(self) -> dict:
        """As plain numbers for JSON; what is not finite becomes None."""
        ends = self.interval
        return {
            "label": self.label,
            "value": finite(self.value),
            "se": finite(self.se),
            "interval": None if ends is None else [finite(end) for end in ends],
            "p": finite(self.p),
            "n": self.n,
            "distinguishable": self.distinguishable,
            "caution": self.caution,
        }


def paired(
    pointwise: Mapping[str, np.ndarray],
    *,
    group: np.ndarray | None = None,
    small: float = 4.0,
) -> list[Difference]:
    r"""Differences to the best mean, point by point, adjusted for their number.

    With $d_i = s_i - s_i^{\mathrm{best}}$ the test is Student's on $\bar d$ with
    $\mathrm{se} = \mathrm{sd}(d)/\sqrt n$; with groups the standard error is that of
    means of resampled whole groups, and groups are counted instead of points. p-values
    are adjusted by Holm's procedure, and each interval has the level of its step, so
    that both say the same. A method with an infinite mean score is told from a best
    one with a finite mean without a test.

    The best is chosen by the same data, so a difference is a little too large on
    average.

    Args:
        pointwise: a score per point for each method, (n,), smaller is better, the same
            points in the same order.
        group: points with the same value depend on each other, (n,).
        small: a total difference (summed over the points) below this is marked as not
            to be trusted; 4 fits scores in nats, 0 marks none.

    Returns:
        One per method, in the order given, the best included.

    Raises:
        ValueError: when shapes differ or nothing is given.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=200)
    >>> [d.distinguishable for d in paired({"a": a, "same": a, "worse": a + 1})]
    [False, False, True]

    References:
        Holm, 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    scores = _checked(pointwise, group)
    labels = list(scores)
    n = scores[labels[0]].size
    best = min(labels, key=lambda label: _rank(scores[label]))
    reference = scores[best]
    size = n if group is None else len(np.unique(group))

    raw = {
        label: _Raw.of(scores[label], reference, group)
        for label in labels
        if label != best
    }
    steps = holm({label: r.p for label, r in raw.items() if r.p is not None})
    out = []
    for label in labels:
        if label == best:
            zero = 0.0 if n > 1 else None
            ends = None if zero is None else (0.0, 0.0)
            caution = _unbounded(reference)
            out.append(
                Difference(label, 0.0, zero, ends, None, n, False, caution, True)
            )
            continue
        r = raw[label]
        caution = _caution(r, scores[label], reference, n, size, group, small)
        if r.p is None or r.se is None:
            told = bool(r.value == np.inf)
            out.append(Difference(label, r.value, r.se, None, None, n, told, caution))
            continue
        p, share = steps[label]
        half = _critical(ALPHA * share, size) * r.se
        ends = r.value - half, r.value + half
        out.append(
            Difference(label, r.value, r.se, ends, p, n, bool(p <= ALPHA), caution)
        )
    return out


def holm(p: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Holm-adjusted p-values, and the share of the error rate spent on each.

    From the first hypothesis that is not rejected at 5 % on, all have its share.

    >>> for label, (p, share) in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items():
    ...     print(label, round(p, 3), round(share, 3))
    a 0.03 0.333
    c 0.06 0.5
    b 0.06 0.5
    """
    ordered = sorted(p, key=p.__getitem__)
    out, largest, share = {}, 0.0, 1.0
    for step, label in enumerate(ordered):
        if largest <= ALPHA:
            share = 1 / (len(ordered) - step)
        largest = max(largest, min(p[label] * (len(ordered) - step), 1.0))
        out[label] = largest, share
    return out


@dataclass(frozen=True)
class _Raw:
    value: float
    se: float | None
    p: float | None

    @staticmethod
    def of(
        score: np.ndarray, reference: np.ndarray, group: np.ndarray | None
    ) -> "_Raw":
        if not np.isfinite(score).all() or not np.isfinite(reference).all():
            better = _rank(reference) < _rank(score)
            return _Raw(np.inf if better else np.nan, None, None)
        d = score - reference
        value = float(d.mean())
        size = d.size
        if group is None:
            se = float(d.std(ddof=1) / np.sqrt(size)) if size > 1 else None
        else:
            means, size = group_means(d, group)
            se = float(means.std(ddof=1)) if size > 1 else None
        return _Raw(value, se, None if se is None else _p(value, se, size))


def _p(value: float, se: float, size: int) -> float:
    from scipy import special

    # A difference that is the same at every point has no noise to be tested against.
    if se <= 1e-12 * abs(value):
        return 1.0 if value == 0 else 0.0
    return float(2 * special.stdtr(size - 1, -abs(value) / se))


def _critical(alpha: float, size: int) -> float:
    from scipy import special

    return float(-special.stdtrit(size - 1, alpha / 2))


def _rank(score: np.ndarray) -> tuple[int, float]:
    """Fewest infinite points first, then the mean of the others."""
    good = np.isfinite(score)
    return int((~good).sum()), float(score[good].mean()) if good.any() else 0.0


def _unbounded(score: np.ndarray) -> str | None:
    count = int((~np.isfinite(score)).sum())
    return f"no finite score at {count} of {score.size} points" if count else None


def _caution(
    r: _Raw,
    score: np.ndarray,
    reference: np.ndarray,
    n: int,
    size: int,
    group: np.ndarray | None,
    small: float,
) -> str | None:
    if not np.isfinite(r.value):
        return _unbounded(score) or _unbounded(reference)
    words = []
    if n < 100:
        words.append(f"n < 100 ({n} points)")
    if group is not None and size < 30:
        words.append(f"fewer than 30 groups ({size})")
    if 0 < n * abs(r.value) < small:
        words.append(f"total difference below {small:g}")
    d = score - reference
    spread = (d - d.mean()) ** 2
    if n > 2 and spread.sum() > 0 and spread.max() > 0.5 * spread.sum():
        words.append("one point makes up more than half of the variance")
    return "; ".join(words) or None


def _checked(
    pointwise: Mapping[str, np.ndarray], group: np.ndarray | None
) -> dict[str, np.ndarray]:
    if not pointwise:
        raise ValueError("expected the scores of at least one method, got none")
    scores = {k: np.asarray(v, np.float64) for k, v in pointwise.items()}
    first, shape = next((k, v.shape) for k, v in scores.items())
    for label, values in scores.items():
        if values.ndim != 1 or values.size == 0:
            raise ValueError(
                f"expected scores of shape (n,) for {label!r}, got {values.shape}"
            )
        if values.shape != shape:
            raise ValueError(
                f"expected scores of shape {shape} for {label!r} like {first!r}, got "
                f"{values.shape}"
            )
    if group is not None and np.shape(group) != shape:
        raise ValueError(f"expected group of shape {shape}, got {np.shape(group)}")
    return scores
