"""All analyses of one method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from ntkuq.data import Split
from ntkuq.posteriors import Predictive

from .after import after
from .curves import curves
from .groups import confident, groups, slab
from .table import classes


def analyses(
    predict: Callable[[PyTree], Predictive], p: Predictive, data: Split
) -> dict[str, Any]:
    """Entries of the method's record, among them `curves`, `scores` and `omitted`.

    Args:
        predict: from inputs to predictions; for the calibrate part.
        p: predictions of the test part.
        data: all parts.
    """
    omitted: dict[str, str] = {}
    found: dict[str, Any] = {}
    parts = (
        ("after", lambda: after(predict, p, data)),
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
