"""Numbers as a reader wants them: rounded from their standard error, with units."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


type Number = int | float  # a number read from JSON may be either

NARROW = "\u202f"  # narrow no-break space, between groups of three digits
SPACE = "\u00a0"  # no-break space, between a number and its unit
MINUS = "\u2212"
PLUS_MINUS = f"{SPACE}±{SPACE}"
MISSING = "not available"


def number(value: Number | None, spread: Number | None = None) -> str:
    """A number to two significant digits of its spread, or to three of its own.

    Args:
        value: the number; None is "not available".
        spread: its standard error, or the half width of its interval.

    >>> number(2.9034, 0.0812), number(0.0000123), number(None)
    ('2.903', '1.23e−5', 'not available')
    >>> number(2.9034, 0.812)
    '2.90'
    """
    if value is None or not math.isfinite(value):
        return MISSING
    places = _places(value, spread)
    if places is None:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return _fixed(value, places)


def estimate(score: Mapping[str, Any]) -> str:
    r"""Value ± standard error.

    >>> estimate({"value": 2.9034, "se": 0.0812})
    '2.903\xa0±\xa00.081'
    """
    value, se = score.get("value"), score.get("se")
    if value is None:
        return f"{MISSING} (not finite)"
    if se is None:
        return f"{number(value)} (standard error {MISSING})"
    if se == 0:
        return f"{number(value)}{PLUS_MINUS}0"
    return f"{number(value, se)}{PLUS_MINUS}{number(se, se)}"


def interval(score: Mapping[str, Any]) -> str:
    r"""The interval, rounded like its value; empty when there is none.

    >>> interval({"value": 2.9034, "se": 0.0812, "interval": [2.7512, 3.0499]})
    '[2.751,\xa03.050]'
    """
    ends = score.get("interval")
    if not ends or any(end is None for end in ends):
        return ""
    return bracket(ends, score.get("se") or (ends[1] - ends[0]) / 4)


def bracket(ends: Sequence[Number], spread: Number | None = None) -> str:
    """Two ends in brackets."""
    return "[" + f",{SPACE}".join(number(end, spread) for end in ends) + "]"


def p_value(p: Number | None) -> str:
    """A p-value; below 0.0001 its size means nothing.

    >>> p_value(0.0312), p_value(3e-20)
    ('0.031', '< 0.0001')
    """
    if p is None:
        return MISSING
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def percents(ends: Sequence[Number]) -> str:
    """Two fractions in per cent, in brackets."""
    return "[" + f",{SPACE}".join(percent(end) for end in ends) + "]"


def percent(fraction: Number, places: int = 1) -> str:
    """A fraction in per cent, without the sign.

    >>> percent(0.9061)
    '90.6'
    """
    return _fixed(100 * fraction, places)


def level(fraction: Number) -> str:
    """A nominal level in per cent, without trailing zeros.

    >>> level(0.9), level(0.975)
    ('90', '97.5')
    """
    return f"{100 * fraction:.10g}"


def count(n: Number | None) -> str:
    """A whole number, its digits in groups of three from 10 000 on."""
    if n is None:
        return MISSING
    whole = round(n)
    text = f"{abs(whole):,}" if abs(whole) >= 10_000 else str(abs(whole))
    return (MINUS if whole < 0 else "") + text.replace(",", NARROW)


def seconds(duration: Number | None) -> str:
    r"""A duration in the unit that suits it.

    >>> seconds(0.0021), seconds(1.43), seconds(252.0), seconds(9000.0)
    ('2.1\xa0ms', '1.4\xa0s', '4.2\xa0min', '2.5\xa0h')
    """
    if duration is None:
        return MISSING
    for scale, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if duration >= scale or unit == "µs":
            break
    amount = duration / scale
    return (f"{amount:.1f}" if amount < 9.95 else count(amount)) + SPACE + unit


def plural(n: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "issue"), plural(2, "issue")
    ('1 issue', '2 issues')
    """
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def _places(value: Number, spread: Number | None) -> int | None:
    """Decimal places to show (negative: round to tens), None for e-notation."""
    if spread is not None and math.isfinite(spread) and spread > 0:
        places = 1 - math.floor(math.log10(spread))
    elif value == 0:
        places = 0
    else:
        places = 2 - math.floor(math.log10(abs(value)))
    scale = max(abs(value), spread or 0.0)
    if scale >= 1e7 or places > 7 or (0 < scale < 1e-4):
        return None
    return places


def _fixed(value: Number, places: int) -> str:
    text = f"{round(value, places):.{max(places, 0)}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)
