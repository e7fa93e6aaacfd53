"""The errors and warnings of data from outside, and the wording they share."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """Data that cannot be used: the message says what was expected, came, and to do."""


class DataWarning(UserWarning):
    """Data that were used in a way the user should know about."""


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint at the option spelled most like `word`, or an empty string.

    Args:
        word: the name that was not found.
        options: the names that exist.

    Returns:
        `" (nearest: 'age')"`, or `""` when nothing is close.

    >>> nearest("Ages", ["age", "cement"])
    " (nearest: 'age')"
    """
    folded = {option.casefold().strip(): option for option in options}
    found = difflib.get_close_matches(word.casefold().strip(), folded, n=1)
    return f" (nearest: {folded[found[0]]!r})" if found else ""


def listing(names: Iterable[str], most: int = 30) -> str:
    """Names in quotes, separated by commas; past `most` of them only their number."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    rest = len(names) - most
    return f"{shown} and {rest} more" if rest > 0 else shown
