"""The rules of the verdict: pure functions of numbers, and their text."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .formats import Number


if TYPE_CHECKING:
    from ntkuq.calibration.reliability import ErrorTest


type Answer = Literal["yes", "slightly", "no", "cannot tell"]

TOLERANCE = 0.03  # how far coverage or calibration error may be off

LEVEL = 0.90  # the intervals that the verdict judges

ALPHA = 0.05  # a calibration error with a smaller p-value is not due to chance

SHAPE_P = 0.01  # a uniformity test below this is a wrong shape

SMALLEST_GROUP = 30  # points below which a group is shown but not judged

NEAR = 1.5  # a distance below this many times the floor cannot be told from exact

SMALLEST_RANKING = 100  # test points below which no ranking is attempted

POWER = 0.8  # chance of a "yes" for a calibrated method in "about n are needed"

# Each rule as printed beside its sentence; {tolerance} is in percentage points.
RULES: Mapping[str, str] = {
    "method": (
        "Candidates are the methods whose Holm-adjusted paired difference to the best"
        " mean score is not distinguishable from zero. Recommended is the one that is"
        " cheapest to fit, among those whose intervals are not judged “no” if there"
        f" are any. With fewer than {SMALLEST_RANKING} test points, or if every method"
        " is a candidate, the test set cannot rank them."
    ),
    "intervals": (
        "Exact binomial intervals for the coverage. Yes: the 90 % interval lies within"
        " {tolerance} points of the nominal level (two one-sided tests at 5 %)."
        " No: the 95 % interval, which is the one shown, lies wholly outside that"
        " range. Slightly: it excludes the nominal level but touches the range."
        " Otherwise: cannot tell. Points needed: for a calibrated method to get its"
        f" yes with {100 * POWER:.0f} % chance. Points are taken as independent; with"
        " groups of rows, or several outputs, the interval over groups, or points, is"
        " used in place of the exact one."
    ),
    "reliability": (
        "The expected calibration error is compared with simulated test sets of the"
        " same size and confidences. No: larger than in 95 % of those in which every"
        " confidence is off by {tolerance} points, up or down, and of those with the"
        " likeliest errors of {tolerance} points on average. Yes: smaller than in 95 %"
        " of those with an error of {tolerance} points, equal in all bins or placed"
        " where it is hardest to see. Slightly: neither, but larger than in 95 % of"
        " those without error. Otherwise: cannot tell. Points needed: for a calibrated"
        f" method to get its yes with {100 * POWER:.0f} % chance. The interval shown"
        " decides nothing. Points are taken as independent."
    ),
    "shape": (
        "Fires when the test of uniform probability integral transforms has"
        f" p < {SHAPE_P} although the coverage is not judged “no”."
    ),
    "group": (
        "Of the recommended method, in the groups with"
        f" {SMALLEST_GROUP} points or more, with exact binomial intervals that hold for"
        " all groups of all groupings together with 95 % confidence. No: the interval"
        " of the weakest group lies wholly more than {tolerance} points below the"
        " nominal level. Yes: no interval reaches that far. Otherwise: cannot tell."
        " Points are taken as independent."
    ),
    "regime": (
        "Yes if both claims of kernel theory are confirmed, no if one is refuted, by"
        " the whole interval of its statistic: the linearization at initialization"
        " misses less than 0.1 (refuted: more than 0.3) of what training changed in"
        " the outputs, and the tangent kernel changes by less than 0.1 (0.5) of its"
        " norm. Otherwise: cannot tell."
    ),
    "probe": (
        "Each step is made from one batch and judged on another. A step is worth its"
        " time where the 95 % interval of what it gains there per second beyond the"
        " first step, paired over batches and for all steps together, lies above 0 and"
        " so does its own decrease. Yes: one of them is. No: none is told to lower the"
        " loss on other batches, or the intervals of all lie below 0 or within 5 % of"
        " what the first step gains. Otherwise: cannot tell."
    ),
    "reference": (
        "Of the recommended method. Yes: the upper end of the 95 % interval of its"
        f" distance to the chains is below {NEAR} times the distance of two halves of"
        " the chains. No: the lower end is above that. Otherwise: cannot tell."
    ),
    "audit": (
        "Issues: failed methods, scores that are not finite. Tips: remarks on the data,"
        " skipped methods, hyper-parameters at a search bound, cautions of the"
        " comparison, jitter added to a factorization. No if there is an issue,"
        " slightly if there are only tips."
    ),
}


def binomial_interval(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Exact (Clopper–Pearson) interval of a proportion.

    Args:
        hits: successes, 0 to n.
        n: trials.
        confidence: two-sided, such as 0.95.

    Returns:
        Lower and upper end; (0, 1) for n = 0.

    References:
        Clopper and Pearson, Biometrika 26 (1934).

    >>> [round(end, 3) for end in binomial_interval(90, 100, 0.95)]
    [0.824, 0.951]
    """
    from scipy.special import betaincinv  # quantile function of the beta law

    tail = (1 - confidence) / 2
    lower = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    upper = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return lower, upper


def coverage_answer(
    hits: int, n: int, level: Number, tolerance: Number = TOLERANCE
) -> Answer:
    """Do intervals of this level hold this fraction of the points?

    Yes if the exact 90 % interval of the coverage lies in level ± tolerance, no if the
    95 % interval lies wholly outside, slightly if it excludes the level, else unknown.

    >>> coverage_answer(2718, 3000, 0.9), coverage_answer(90, 100, 0.9)
    ('yes', 'cannot tell')
    """
    if n == 0:
        return "cannot tell"
    bottom, top = level - tolerance, level + tolerance
    lower, upper = binomial_interval(hits, n, 0.90)
    if bottom <= lower and upper <= top:
        return "yes"
    lower, upper = binomial_interval(hits, n, 0.95)
    if upper < bottom or lower > top:
        return "no"
    return "cannot tell" if lower <= level <= upper else "slightly"


def group_answer(
    intervals: Sequence[tuple[float, float]],
    level: Number,
    tolerance: Number = TOLERANCE,
) -> tuple[Answer, int]:
    """Do all groups hold, and which is the weakest?

    Args:
        intervals: of the coverage of each group, simultaneous.
        level: nominal coverage.
        tolerance: as in `coverage_answer`.

    Returns:
        The answer, and the place of the group with the smallest upper end.

    >>> group_answer([(0.88, 0.95), (0.6, 0.8)], 0.9)
    ('no', 1)
    """
    weakest = min(range(len(intervals)), key=lambda i: intervals[i][1])
    limit = level - tolerance
    if intervals[weakest][1] < limit:
        return "no", weakest
    if all(low >= limit for low, _ in intervals):
        return "yes", weakest
    return "cannot tell", weakest


def reference_answer(distance: Mapping[str, Any], floor: Mapping[str, Any]) -> Answer:
    """Is a distance as small as that of two halves of the chains?

    >>> reference_answer({"value": 0.2, "interval": [0.18, 0.22]}, {"value": 0.05})
    'no'
    """
    limit = NEAR * floor["value"]
    ends = [end for end in distance.get("interval") or () if end is not None]
    low, high = ends if len(ends) == 2 else (distance["value"],) * 2
    if high < limit:
        return "yes"
    return "no" if low > limit else "cannot tell"


def clustered_answer(
    interval: Sequence[Number], level: Number, tolerance: Number = TOLERANCE
) -> Answer:
    """`coverage_answer` where points depend on each other, or have several outputs.

    There the 95 % interval of the score, about its middle, takes the place of the exact
    one, and its 1.645 / 1.960 part that of the 90 % interval.

    >>> clustered_answer((0.885, 0.915), 0.9), clustered_answer((0.80, 0.84), 0.9)
    ('yes', 'no')
    """
    lower, upper = interval
    bottom, top = level - tolerance, level + tolerance
    middle, half = (lower + upper) / 2, (upper - lower) / 2 * 1.645 / 1.960
    if bottom <= middle - half and middle + half <= top:
        return "yes"
    if upper < bottom or lower > top:
        return "no"
    return "cannot tell" if lower <= level <= upper else "slightly"


def judged_coverage(score: Mapping[str, Any], tolerance: Number = TOLERANCE) -> Answer:
    """The answer on a coverage score, by its hits or by its interval."""
    if score.get("hits") is not None:
        return coverage_answer(score["hits"], score["n"], score["level"], tolerance)
    return clustered_answer(score["interval"], score["level"], tolerance)


def points_needed(
    level: Number, tolerance: Number = TOLERANCE, power: Number = POWER
) -> int:
    """Test points for which a calibrated method gets its yes with this chance.

    Args:
        level: nominal coverage.
        tolerance: as in `coverage_answer`.
        power: the chance.

    Returns:
        A number of points, rounded up to two digits.

    >>> points_needed(0.9)
    900
    """
    return _smallest_n(lambda n: _chance_of_yes(n, level, tolerance), power)


def error_points_needed(
    confidence: np.ndarray,
    count: np.ndarray,
    tolerance: Number = TOLERANCE,
    power: Number = POWER,
) -> int:
    """Test points for which calibrated class probabilities get their yes.

    Args:
        confidence: mean confidence of each bin, (bins,).
        count: points of each bin, (bins,); only their shares matter.
        tolerance: as in `reliability_answer`.
        power: the chance of the yes.

    Returns:
        A number of points, rounded up to two digits.

    >>> error_points_needed(np.array([0.99]), np.array([1.0])) < 500
    True
    """
    # views need the rules' texts alone, and this imports JAX
    from ntkuq.calibration.reliability import chance_of_pass

    return _smallest_n(
        lambda n: chance_of_pass(confidence, count, n, float(tolerance)), power
    )


def _smallest_n(chance: Callable[[int], float], power: Number) -> int:
    """Points for which a growing chance reaches the power, to two digits."""
    low, high = 1, 16
    while chance(high) < power:
        low, high = high, 2 * high
        if high > 10**7:
            break
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        if chance(middle) < power:
            low = middle
        else:
            high = middle
    return two_digits_up(high)


def _chance_of_yes(n: int, level: Number, tolerance: Number) -> float:
    """Probability of the yes region of hits, found by bisection at both ends."""
    from scipy.stats import binom

    bottom, top = level - tolerance, level + tolerance
    first = _first(n, lambda k: binomial_interval(k, n, 0.90)[0] >= bottom)
    last = _first(n, lambda k: binomial_interval(k, n, 0.90)[1] > top) - 1
    if first > last:
        return 0.0
    return float(binom.cdf(last, n, level) - binom.cdf(first - 1, n, level))


def _first(n: int, condition) -> int:
    """Smallest k in 0..n that meets a condition monotone in k, else n + 1."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        if condition(middle):
            high = middle
        else:
            low = middle + 1
    return low


def two_digits_up(n: Number) -> int:
    """Round up to two significant digits, forgiving one per cent.

    >>> two_digits_up(901), two_digits_up(915)
    (900, 910)
    """
    unit = 10 ** max(0, math.floor(math.log10(max(n, 1))) - 1)
    return int(math.ceil(0.99 * n / unit) * unit)


def reliability_answer(test: "ErrorTest") -> Answer:
    """Is the expected calibration error of class probabilities within the tolerance?

    No if an error within the tolerance does not explain the observed one, yes if an
    error beyond it does not, slightly if the data contradict perfect calibration, each
    at 5 %; else unknown.

    Args:
        test: of the observed error against this tolerance.

    >>> from ntkuq.calibration.reliability import ErrorTest
    >>> reliability_answer(ErrorTest(0.01, calibrated=0.3, within=0.9, beyond=0.01))
    'yes'
    """
    if test.within < ALPHA:
        return "no"
    if test.beyond < ALPHA:
        return "yes"
    return "slightly" if test.calibrated < ALPHA else "cannot tell"


def shape_is_wrong(p: Number | None, coverage: Answer) -> bool:
    """Whether to say that the shape is wrong although the coverage is not."""
    return p is not None and p < SHAPE_P and coverage != "no"


class Candidate(NamedTuple):
    """What the recommendation needs to know of a method."""

    label: str
    seconds: Number | None  # to fit; None counts as the most expensive
    intervals: Answer  # coverage verdict, or reliability for classes
    tied: bool  # not distinguishable from the best, or the best itself


class Choice(NamedTuple):
    """The recommended candidate and why."""

    place: int  # among the candidates
    tied: tuple[int, ...]  # not distinguishable from the best
    passed_over: tuple[int, ...]  # cheaper, but their intervals are judged "no"
    ranked: bool  # False: this test set cannot rank the methods
    sound: bool  # False: the intervals of every tied method are judged "no"


def choose(candidates: Sequence[Candidate], n: int) -> Choice:
    """The cheapest method that the data cannot tell from the best.

    Args:
        candidates: at least one, at least one of them tied.
        n: test points.

    Returns:
        The choice. Equal costs go to the earlier method.

    >>> methods = [
    ...     Candidate("MAP", 0.4, "no", True),
    ...     Candidate("Laplace", 1.4, "yes", True),
    ...     Candidate("NTK-GP", 0.1, "yes", False),
    ... ]
    >>> choose(methods, n=3000)
    Choice(place=1, tied=(0, 1), passed_over=(0,), ranked=True, sound=True)
    """

    def price(i: int) -> Number:
        cost = candidates[i].seconds
        return math.inf if cost is None else cost

    tied = tuple(i for i, method in enumerate(candidates) if method.tied)
    sound = tuple(i for i in tied if candidates[i].intervals != "no")
    index = min(sound or tied, key=price)
    passed_over = tuple(i for i in tied if sound and price(i) < price(index))
    ranked = n >= SMALLEST_RANKING and len(tied) < len(candidates)
    return Choice(index, tied, passed_over, ranked, bool(sound))
