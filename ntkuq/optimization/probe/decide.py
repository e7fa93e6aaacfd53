"""From the numbers of a probe to its record: intervals, decisions, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ntkuq.calibration.claims import in_words
from ntkuq.calibration.records import Score
from ntkuq.optimization.probe.intervals import mean_over, ratio_of
from ntkuq.optimization.probe.measure import Measured
from ntkuq.optimization.probe.record import NOTE, Against, Probe, StepRow, Word


#: A difference of less than this share of what the first step gains is none.
SAME = 0.05


def decide(
    measured: Sequence[Measured],
    *,
    shared: float,
    rounding: float,
    setting: Mapping[str, str],
) -> Probe:
    """The record of these measurements.

    Args:
        measured: each step, the first is what the others are held against.
        shared: correlation of the pairs of batches, see `mean_over`.
        rounding: a decrease below this is rounding.
        setting: what the numbers depend on.
    """
    named = _distinct(measured)
    rows = tuple(_row(one, shared) for one in named)
    first, *others = named
    against = tuple(
        _against(one, first, shared=shared, tests=len(others), rounding=rounding)
        for one in others
    )
    gaining = [_above(row.elsewhere, rounding) for row in rows]
    if not any(gaining):
        words = _nothing(rows, rounding)
        return Probe(rows, against, "no", f"{words} {NOTE}", setting)
    answer = _answer(against)
    words = _in_words(rows, against)
    return Probe(rows, against, answer, f"{words} {NOTE}", setting)


def _distinct(measured: Sequence[Measured]) -> list[Measured]:
    """The same with numbered names where steps share one."""
    names = [one.name for one in measured]
    found = []
    for at, one in enumerate(measured):
        before = names[:at].count(one.name)
        name = f"{one.name} ({before + 1})" if names.count(one.name) > 1 else one.name
        found.append(one._replace(name=name))
    return found


def _row(one: Measured, shared: float) -> StepRow:
    def mean(values: np.ndarray) -> Score:
        return mean_over(values, shared=shared)

    columns = (one.predicted, one.realized, one.elsewhere)
    return StepRow(
        one.name,
        one.how,
        one.damping,
        *(mean(values) for values in (*columns, one.seconds)),
        *(mean(values / one.seconds) for values in columns),
        remarks=_remarks(one),
    )


def _remarks(one: Measured) -> tuple[str, ...]:
    found = []
    total = one.finite.size
    failed = int(np.sum(~one.finite))
    if failed:
        found.append(
            f"no finite direction on {failed} of {total} batches; the parameters were "
            "kept there"
        )
    shortened = int(np.sum((one.halvings > 0) & one.finite))
    if shortened:
        found.append(
            f"shortened on {shortened} of {total} batches, where the quadratic model "
            "asked for too long a step"
        )
    if one.at_end:
        found.append(
            f"its damping {one.damping:.3g} is at an end of what was tried: other "
            "dampings=… may do better"
        )
    return tuple(found)


def _against(
    one: Measured, first: Measured, *, shared: float, tests: int, rounding: float
) -> Against:
    rate, base = one.elsewhere / one.seconds, first.elsewhere / first.seconds
    difference = mean_over(rate - base, shared=shared, tests=tests)
    own = mean_over(one.elsewhere, shared=shared)
    seconds = float(np.mean(one.seconds) + np.mean(first.seconds)) / 2
    margin = max(SAME * abs(float(np.mean(base))), rounding / seconds)
    return Against(
        one.name,
        _word(difference, margin, gains=_above(own, rounding)),
        difference,
        ratio_of(one.elsewhere, first.elsewhere, shared=shared, tests=tests),
        ratio_of(rate, base, shared=shared, tests=tests),
    )


def _word(difference: Score, margin: float, *, gains: bool) -> Word:
    """The decision by the whole interval of the difference.

    gains: is the step's own decrease told from 0? A step that does nothing is not worth
    it where the first one does harm.
    """
    if difference.interval is None or not np.isfinite(difference.interval).all():
        return "cannot tell"
    low, high = difference.interval
    if -margin < low and high < margin:
        return "no difference"
    if high < 0:
        return "not worth it"
    return "worth it" if low > 0 and gains else "cannot tell"


def _answer(against: Sequence[Against]) -> Literal["yes", "no", "cannot tell"]:
    words = {one.word for one in against}
    if "worth it" in words:
        return "yes"
    return "no" if words and "cannot tell" not in words else "cannot tell"


def _above(score: Score, least: float) -> bool:
    return score.interval is not None and score.interval[0] > least


def _nothing(rows: Sequence[StepRow], rounding: float) -> str:
    """That no step gains anything on other batches."""
    best = max(rows, key=lambda row: np.nan_to_num(row.elsewhere.value, nan=-np.inf))
    text = (
        f"Nothing to gain that these batches show: no step lowers the loss on another "
        f"batch by what could be told from 0; the best, {best.name}, by "
        f"{in_words(best.elsewhere)} nats an example ({best.elsewhere.n} pairs of "
        "batches). "
    )
    if max(row.realized.value for row in rows) <= rounding:
        return text + (
            f"Even on its own batch a step gains no more than rounding "
            f"({rounding:.1g}): train in float64, or stop."
        )
    if any(_above(row.realized, rounding) for row in rows):
        return text + (
            "On their own batches steps gain: they fit the noise of a batch. Larger "
            "batches would show what is left."
        )
    return text + "The network stands at a minimum, or the batches are too few."


def _in_words(rows: Sequence[StepRow], against: Sequence[Against]) -> str:
    first, *others = rows
    if not others:
        return (
            f"Cannot tell: there is one step only, {first.name}, which lowers the loss "
            f"on other batches by {in_words(first.elsewhere)} nats an example."
        )
    pairs = zip(others, against, strict=True)
    # what decides comes first
    order = {"worth it": 0, "cannot tell": 1, "no difference": 2, "not worth it": 3}
    lead, decided = min(
        pairs, key=lambda pair: (order[pair[1].word], -pair[0].per_second.value)
    )
    text = (
        f"A {lead.name} step lowers the loss on other batches by "
        f"{in_words(lead.elsewhere)} nats an example, a {first.name} step by "
        f"{in_words(first.elsewhere)}: {_times(decided)}. "
    )
    difference = in_words(decided.per_second)
    unit = f"nats an example and second ({decided.per_second.n} pairs of batches)"
    text += {
        "worth it": f"Worth it: {difference} {unit} more.",
        "not worth it": f"Not worth it: a difference of {difference} {unit}.",
        "no difference": f"No difference that matters: {difference} {unit}.",
        "cannot tell": f"Cannot tell: a difference of {difference} {unit}.",
    }[decided.word]
    rest = [
        f"{one.name}: {one.word}, {_times(one)}" for one in against if one != decided
    ]
    return " ".join([text, *(f"{line}." for line in rest)])


def _times(one: Against) -> str:
    if one.times is None or one.times_per_second is None:
        return "too uncertain for a ratio"
    return (
        f"{in_words(one.times)} times as much a step, "
        f"{in_words(one.times_per_second)} times a second"
    )
