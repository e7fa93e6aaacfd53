"""What a report says, section by section, before it takes the form of a view.

Each section is a heading, the reader's question, and blocks: text, tables, listings and
figures. HTML and Markdown show the same blocks. A block that cannot be computed is
replaced by a `Missing` block that says why. Nothing here is escaped: views do that.
"""

from collections.abc import Mapping, Sequence

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten

from .after import after_section
from .blocks import Figure, Missing, Section
from .changes import changes_section
from .closing import audit_section, reproduce_section
from .cost import cost_section
from .failures import failures_section
from .hyperparameters import hyperparameter_section
from .kinds import kinds_section
from .knows import knows_section
from .method import method_section
from .second_order import second_order_section
from .seeds import seeds_section
from .setup import setup_section
from .theory import reference_section, regime_section
from .trust import trust_section


# Verdict codes in words.
CODE_WORDS: Mapping[str, str] = {
    "method": "A clear choice",
    "intervals": "Intervals",
    "reliability": "Probabilities",
    "shape": "Shape",
    "group": "Holds in every group",
    "regime": "Kernel regime",
    "probe": "Second order helps",
    "reference": "Near to exact",
    "cost": "Cost",
    "audit": "Clean audit",
}


def sections(
    document: Document, baseline: Document | None = None
) -> tuple[Section, ...]:
    """All sections of a report in reading order, changes since a baseline first."""
    changes = () if baseline is None else (changes_section(document, baseline),)
    return (
        *changes,
        method_section(document),
        *((seeds_section(document),) if document.get("seeds") else ()),
        trust_section(document),
        after_section(document),
        failures_section(document),
        knows_section(document),
        kinds_section(document),
        regime_section(document),
        second_order_section(document),
        reference_section(document),
        hyperparameter_section(document),
        cost_section(document),
        setup_section(document),
        audit_section(document),
        reproduce_section(document),
    )


def anchors(parts: Sequence[Section]) -> frozenset[str]:
    """The names that a verdict line can link to."""
    blocks = (block for section in parts for block in section.blocks)
    keys = {block.key for block in blocks if isinstance(block, Figure | Missing)}
    return frozenset(keys | {section.key for section in parts})


def title(document: Document) -> str:
    """The heading of a report."""
    name = plain(document["problem"]["data"]["name"] or "unnamed data")
    return f"Which uncertainty to trust: {shorten(name, 80)}"


def subtitle(document: Document) -> str:
    """One line: network, task, sizes."""
    problem = document["problem"]
    network = problem.get("network") or {}
    n = problem["data"].get("n_test")
    parts = [
        shorten(plain(network.get("text") or "network not described"), 120),
        problem["task"],
        formats.plural(n, "test point") if n is not None else "test size not recorded",
        formats.plural(len(document["methods"]), "method"),
    ]
    return " · ".join(parts)
