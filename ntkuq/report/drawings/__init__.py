"""One drawing a file: a function of the run document, to a Matplotlib figure."""

from collections.abc import Callable, Mapping
from typing import Any

from ntkuq.report.document import Document

from .coverage import coverage
from .differences import differences
from .price import price
from .reliability import reliability
from .shape import shape


#: Key of a figure in the report -> its drawing.
DRAWINGS: Mapping[str, Callable[[Document], Any]] = {
    "differences": differences,
    "coverage": coverage,
    "shape": shape,
    "reliability": reliability,
    "price": price,
}
