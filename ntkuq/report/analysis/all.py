"""All analyses of one method."""

from __future__ import annotations

from typing import Any

from ntkuq.data import Split
from ntkuq.posteriors import AbstractPosterior, Predictive

from .after import after
from .curves import curves
from .groups import confident, groups, slab
from .table import classes


def analyses(
    posterior: AbstractPosterior, p: Predictive, data: Split
) -> dict[str, Any]:
    """Entries of the method's record, among them `curves`, `scores` and `omitted`.

    Args:
        posterior: predicts the calibrate part.
        p: predictions of the test part.
        data: all parts.
    """
    omitted: dict[str, str] = {}
    found: dict[str, Any] = {}
    parts = (
        ("after", lambda: after(posterior, p, data)),
        ("classes", lambda: classes(p, data.test)),
        ("groups", lambda: groups(p, data)),
        ("slab", lambda: slab(p, data)),
        ("errors", lambda: confident(p, data.test)),
    )
    for name, part in parts:
        try:
            found[name] = part()
        except (ValueError, TypeError, NotImplementedError) as error:
            omitted[name] = " ".join(str(error).split())
    found["curves"], found["scores"], missing = curves(p, data.test)
    return found | {"omitted": omitted | missing}
