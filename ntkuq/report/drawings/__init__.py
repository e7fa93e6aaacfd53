"""One drawing a file: a function of the run document, to a Matplotlib figure."""

from collections.abc import Callable, Mapping
from typing import Any

from ntkuq.report.document import Document

from .after import after
from .coverage import coverage
from .differences import differences
from .groups import groups
from .kinds import kinds
from .price import price
from .reliability import reliability
from .selective import selective
from .severity import severity
from .shape import shape
from .spread import spread


#: Key of a figure in the report -> its drawing.
DRAWINGS: Mapping[str, Callable[[Document], Any]] = {
    "differences": differences,
    "coverage": coverage,
    "shape": shape,
    "spread": spread,
    "reliability": reliability,
    "repairs": after,
    "groups": groups,
    "selective": selective,
    "severity": severity,
    "split": kinds,
    "price": price,
}
