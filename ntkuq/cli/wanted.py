"""What `--with` asks for, read before anything heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ntkuq.cli.errors import UsageError


#: Names in the order in which they are done.
NAMES = ("shift", "outside", "regime", "probe", "reference")


def read_extras(texts: Sequence[str]) -> tuple[str, ...]:
    """The names among comma-separated texts, each once, in the order of `NAMES`.

    Raises:
        UsageError: for another name.

    >>> read_extras(("regime,shift", "shift"))
    ('shift', 'regime')
    """
    given = [name.strip() for text in texts for name in text.split(",")]
    for name in given:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"--with: expected some of {', '.join(NAMES)}, got {name!r}{hint}"
            )
    return tuple(name for name in NAMES if name in given)
