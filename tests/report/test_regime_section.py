"""The section on the kernel regime: complete, escaped, and kind to old documents."""

import copy

import pytest

from ntkuq.calibration import Score
from ntkuq.optimization import Below, Claim, Regime
from ntkuq.report import DocumentError, html, markdown, validate
from ntkuq.report.extras.regime import regime_entry
from ntkuq.report.sections.theory import regime_section


HOSTILE = "<b>x</b> & | \x1b[31m"


def score(value):
    return Score(value, 0.01, 5, (value - 0.03, value + 0.03))


@pytest.fixture
def document(regression):
    """A document with every kind of claim."""
    claims = (
        Claim(HOSTILE, score(0.2), Below(0.1, 0.5), 6, worst=0.7, note=HOSTILE),
        Claim("untested", None, Below(0.1, 0.5), 3, reason=HOSTILE),
    )
    values = [score(0.01 * n) for n in range(1, 6)]
    found = Regime(*values, "seeds", claims, {"step size": HOSTILE})
    document = copy.deepcopy(dict(regression))
    document["regime"] = regime_entry(found)
    return document


def rows(document, number):
    tables = [b for b in regime_section(document).blocks if hasattr(b, "rows")]
    return tables[number].rows


def test_the_section_holds_every_claim_with_its_numbers(document):
    validate(document)
    claims = rows(document, 1)
    # in the order of their numbers
    assert [row.header[:2] for row in claims] == ["1.", "2.", "3.", "6."]
    untested, worst = claims[2], claims[3]
    assert untested.cells[0] == "not tested"
    assert untested.cells[1] == ""
    assert "x" in untested.cells[4]
    assert worst.cells[0] == "refuted"
    assert "most extreme: 0.700" in worst.cells[1]
    assert worst.cells[2:4] == ("below 0.1", "above 0.5")
    for text in (document["regime"]["verdict"], *document["regime"]["consequences"]):
        assert text[:60] in markdown.page(document)


def test_text_from_outside_is_escaped(document):
    page = html.page(document)
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "\x1b" not in page + markdown.page(document)


def test_documents_of_earlier_versions_are_read(document):
    entry = document["regime"]
    del entry["consequences"], entry["setting"]
    entry["claims"] = [
        {"statement": "it is lazy", "word": "undecided", "confirm": 0.1, "refute": 0.5}
    ]
    validate(document)
    (row,) = rows(document, 1)
    assert row.cells[:4] == ("undecided", "", "below 0.100", "above 0.500")
    html.page(document)
    entry["consequences"] = [3]
    with pytest.raises(DocumentError, match="consequences"):
        validate(document)
