"""The studies of `ntkuq regime`: names, read before anything heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ntkuq.cli.errors import UsageError


#: Name on the command line -> what it decides, in the order in which they are done.
NAMES: dict[str, str] = {
    "conditions": "positive kernel, stable Jacobian",
    "rate": "rate of natural gradient",
    "layers": "layer-wise Fisher",
    "settling": "early or late",
    "phase": "step size",
    "limit": "distance to infinite width",
    "width": "law over --width",
    "uncertainty": "ensembles, NTK-GP, Laplace: costly",
}
#: Those that are done where none is named.
CHEAP: tuple[str, ...] = ("conditions", "rate", "layers", "settling", "phase", "limit")


def read_studies(texts: Sequence[str], *, widths: Sequence[int]) -> tuple[str, ...]:
    """The names among comma-separated texts, each once, in the order of `NAMES`.

    Args:
        texts: as given; none for the cheap ones, "none" for no study.
        widths: of `--width`, which the study "width" needs and asks for.

    Raises:
        UsageError: for another name, or "width" without widths.

    >>> read_studies(("rate,limit", "rate"), widths=())
    ('rate', 'limit')
    """
    given = [name.strip() for text in texts for name in text.split(",")]
    if given == ["none"]:
        given = []
    elif not given:
        given = list(CHEAP)
    for name in given:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"--study: expected some of {', '.join(NAMES)}, or none alone, got "
                f"{name!r}{hint}"
            )
    if "width" in given and not widths:
        raise UsageError(
            "--study width compares networks of several widths: add them, such as "
            "--width 16 --width 64 --width 256"
        )
    if widths:
        given.append("width")
    return tuple(name for name in NAMES if name in given)


def not_asked(names: Sequence[str]) -> str | None:
    """Of the claims that are decided only when asked for, those left out.

    >>> not_asked(("width", "uncertainty")) is None
    True
    """
    left = []
    if "width" not in names:
        left.append("3 (the law over widths: --width, three times or more)")
    if "uncertainty" not in names:
        left.append("11 to 14 (ensembles beside kernels, costly: --study uncertainty)")
    return "decided only when asked for: claims " + ", ".join(left) if left else None
