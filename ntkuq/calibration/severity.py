"""How scores change as the inputs move away from those that were trained on."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import PRNGKeyArray

from ntkuq.data.dataset import Dataset
from ntkuq.data.shifts.base import AbstractShift, label
from ntkuq.data.shifts.corrupted import corrupted
from ntkuq.posteriors.predictive import Predictive

from .binning import EqualWidth
from .blocks import Blocks, blocks
from .records import Score, Scores
from .sampling import AbstractSampling, sampling
from .scores import score
from .severity_table import MEAN, SeverityTable


def severity_curve(
    predict: Callable[[Any], Predictive],
    data: Dataset,
    shifts: Mapping[str, Callable[..., Any]] | Sequence[AbstractShift],
    severities: Sequence[int] = (0, 1, 2, 3, 4, 5),
    *,
    reference: npt.ArrayLike | None = None,
    level: float = 0.9,
    key: PRNGKeyArray,
) -> SeverityTable:
    r"""Score predictions on shifted inputs with the targets as they are.

    Classes: `nll` (nats), `brier`, `accuracy`, `ece`; regression: `nll` (nats), `crps`
    and `rmse` (units of the data) and `coverage_90` for level 0.9; conventions as in
    `score`, with the groups of the data where it has them. All severities of a shift
    use one key, which its name and `key` determine, so they differ by strength only and
    adding a shift does not change the others.

    Means over the shifts are $\frac{1}{K} \sum_k s_k$. The same points are behind every
    $s_k$, so the standard error is that of the points' own means over the shifts (for
    `rmse` by the delta method, for `ece` by resampling the points once for all
    shifts). It says how the mean would vary with other points, not with other shifts.

    Args:
        predict: from inputs, (N, …), to their `Predictive`; `posterior.predict`.
        data: the test part.
        shifts: shifts by name, or in a row, with their class as name.
        severities: which ones, 0 being the data as they are.
        reference: inputs of the training part, (M, D), for shifts that need them.
        level: kept probability of the intervals whose coverage is found.
        key: random key.

    Returns:
        A `SeverityTable`.

    Raises:
        ValueError: when there are no shifts, two have the same name, severities repeat,
            or an input is refused by a shift or by `score`.
        TypeError: when `predict` returns no `Predictive`.

    >>> import ntkuq as nq
    >>> from ntkuq.data.shifts import FeatureNoise, MeanShift
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> data = Dataset(x, x[:, 0])
    >>> table = severity_curve(
    ...     lambda x: nq.Predictive.normal(x[:, 0], np.full(len(x), 0.5)),
    ...     data,
    ...     [FeatureNoise(), MeanShift()],
    ...     (0, 5),
    ...     reference=x,
    ...     key=jax.random.key(0),
    ... )
    >>> [f"{value:.2f}" for value in table.curve("coverage_90")["value"]]
    ['1.00', '0.29']

    References:
        Ovadia et al., 2019, Can you trust your model's uncertainty?, arXiv 1906.02530.
    """
    named = _named(shifts)
    order = _ordered(severities)
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")

    def scored(part: Dataset) -> Scores:
        prediction = predict(part.x)
        if not isinstance(prediction, Predictive):
            raise TypeError(
                "expected predict to return a Predictive, got "
                f"{type(prediction).__name__}; wrap outside predictions with "
                "Predictive.normal, .samples, .quantiles or .probabilities"
            )
        return score(prediction, part.y, levels=(level,), group=data.group)

    found: dict[tuple[str, int], Scores] = {}
    clean = scored(data) if 0 in order else None
    for name, shift in named.items():
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        for severity in order:
            if severity == 0 and clean is not None:
                found[name, 0] = clean
                continue
            part = corrupted(
                data, shift, severity=severity, reference=reference, key=own
            )
            found[name, severity] = scored(part)
    return _table(found, tuple(named), order, level, data.group)


def _table(
    found: Mapping[tuple[str, int], Scores],
    shifts: tuple[str, ...],
    severities: tuple[int, ...],
    level: float,
    group: np.ndarray | None,
) -> SeverityTable:
    first = next(iter(found.values()))
    wanted = _wanted(first.task, level)
    omitted: dict[str, str] = {}
    for scores in found.values():
        omitted |= {k: why for k, why in scores.omitted.items() if k in wanted}
    names = [name for name in wanted if name not in omitted]
    return SeverityTable(
        first.task,
        first.n,
        level,
        severities,
        shifts,
        {cell: {k: scores[k] for k in names} for cell, scores in found.items()},
        {
            severity: {
                k: _mean(k, [found[shift, severity] for shift in shifts], level, group)
                for k in names
            }
            for severity in severities
        },
        omitted,
    )


def _wanted(task: str, level: float) -> tuple[str, ...]:
    if task == "classification":
        return "nll", "brier", "accuracy", "ece"
    return "nll", "crps", "rmse", f"coverage_{100 * level:g}"


def _mean(
    name: str, parts: Sequence[Scores], level: float, group: np.ndarray | None
) -> Score:
    """The mean of one score over the shifts, from the points behind it."""
    if all(part is parts[0] for part in parts):
        return parts[0][name]

    def points(column: str) -> np.ndarray:
        return np.stack([part.pointwise[column] for part in parts])

    drawn = sampling(parts[0].n, group)
    if name == "ece":
        dealt = blocks(parts[0].n, group)
        return _mean_ece(points("confidence"), points("error"), dealt)
    if name == "rmse":
        return _mean_rmse(points("squared_error"), drawn)
    if name == "accuracy":
        return _share(drawn.mean(1 - points("error").mean(axis=0)))
    if name.startswith("coverage"):
        covered = points(f"covered_{100 * level:g}")
        return _share(drawn.mean(covered.mean(axis=0), level))
    return drawn.mean(points(name).mean(axis=0))


def _mean_rmse(squares: np.ndarray, drawn: AbstractSampling) -> Score:
    r"""The mean of $r_k$, the roots of the mean squares of the shifts, (K, n).

    $\bar r$ has the standard error of the points' means of $q_{ki} / (2 r_k)$.
    """
    roots = np.sqrt(squares.mean(axis=1))
    value = float(roots.mean())
    # Without an error at a shift its root has no slope, and no spread either.
    slopes = np.divide(0.5, roots, out=np.zeros_like(roots), where=roots > 0)
    spread = drawn.mean((slopes[:, None] * squares).mean(axis=0))
    if spread.se is None or spread.interval is None:
        return Score(value, None, spread.n, None)
    half = spread.interval[1] - spread.value
    ends = max(value - half, 0.0), value + half
    return Score(value, spread.se, spread.n, ends)


def _mean_ece(confidence: np.ndarray, error: np.ndarray, dealt: Blocks) -> Score:
    """The mean of the calibration errors of the shifts, (K, n)."""
    binning, values, replicates = EqualWidth(15), [], []
    for sure, wrong in zip(confidence, error, strict=True):
        gaps = dealt.sums(binning.index(sure), binning.bins, 1 - wrong - sure)
        values.append(np.abs(gaps.sum(axis=0)).sum() / dealt.n)
        # The same blocks are drawn for every shift.
        replicates.append(np.abs(dealt.again(gaps)).sum(axis=1) / dealt.n)
    return dealt.distance(float(np.mean(values)), np.mean(replicates, axis=0))


def _share(found: Score) -> Score:
    """A mean of shares, its interval cut off at 0 and 1."""
    if found.interval is None:
        return found
    low, high = found.interval
    return dataclasses.replace(found, interval=(max(low, 0.0), min(high, 1.0)))


def _named(
    shifts: Mapping[str, Callable[..., Any]] | Sequence[AbstractShift],
) -> dict[str, Callable[..., Any]]:
    if isinstance(shifts, Mapping):
        named = dict(shifts)
    else:
        named = {label(shift): shift for shift in shifts}
        if len(named) < len(shifts):
            raise ValueError(
                "expected shifts with different names, got "
                f"{', '.join(label(shift) for shift in shifts)}; give them by name, "
                "{'weak': ..., 'strong': ...}"
            )
    if not named:
        raise ValueError("expected at least one shift, got none")
    if MEAN in named:
        raise ValueError(
            f"expected names of shifts other than {MEAN!r}, the mean over all of them"
        )
    return named


def _ordered(severities: Sequence[int]) -> tuple[int, ...]:
    order = tuple(sorted(int(severity) for severity in severities))
    if not order or len(set(order)) < len(order):
        raise ValueError(
            f"expected severities that differ, at least one, got {tuple(severities)}"
        )
    return order
