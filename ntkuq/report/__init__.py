"""The run document and its views: page, Markdown, tables, terminal.

A run document (`run.json`) holds everything a report says; the views only draw it.
"""

from . import figures, html, markdown, tables, terminal
from .catalog import default_methods
from .comparison import Comparison
from .document import SCHEMA, Document, DocumentError, dumps, load, validate
from .extras import (
    AbstractExtra,
    KernelRegime,
    OutsideSets,
    Reference,
    SecondOrder,
    Shifts,
)
from .limits import Limits
from .progress import AbstractProgress, Silent
from .run import compare
from .verdicts import verdict
from .views import write


__all__ = [
    "AbstractExtra",
    "AbstractProgress",
    "Comparison",
    "KernelRegime",
    "Limits",
    "OutsideSets",
    "Reference",
    "SecondOrder",
    "Shifts",
    "Silent",
    "compare",
    "default_methods",
    "SCHEMA",
    "Document",
    "DocumentError",
    "dumps",
    "figures",
    "html",
    "load",
    "markdown",
    "tables",
    "terminal",
    "validate",
    "verdict",
    "write",
]
