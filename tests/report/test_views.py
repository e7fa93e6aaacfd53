"""The views: deterministic, small, escaped, complete, and honest about gaps."""

import copy
import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from rich.console import Console

from ntkuq.report import figures, html, load, markdown, tables, terminal, write


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a | b\n| c |",
    r"\input{/etc/passwd} $x^2$ %",
    "</svg></title><script>alert(1)</script>",
    "[link](javascript:alert(1)) **bold** `code`",
    "_leading [red]markup[/red] \x1b[31m \x00 \ud800 \u202e end",
    "{{ 7*7 }} {% raw %} & &amp; \"'",
    "=HYPERLINK('x')",
    "日本語 🙂",
    "",
    "x" * 500,
)
VOID = {"meta", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on wrong nesting."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, tag
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}


@pytest.fixture(scope="module")
def hostile(documents, regression):
    """A document in which everything from outside tries to break out."""
    document = regression
    for index, label in enumerate(HOSTILE[:6]):
        document = documents.with_label(document, index, label)
    document = copy.deepcopy(document)
    for number, method in enumerate(document["methods"]):
        method["text"] = HOSTILE[number]
        method["reason"] = HOSTILE[(number + 1) % len(HOSTILE)]
        method["diagnostics"] = {HOSTILE[number]: HOSTILE[number + 2]}
        for fitted in method["hyperparameters"] or ():
            fitted |= {"name": HOSTILE[0], "unit": HOSTILE[3], "at_bound": True}
    data = document["problem"]["data"]
    data |= {
        "name": HOSTILE[3],
        "features": list(HOSTILE),
        "warnings": list(HOSTILE),
        "units": HOSTILE[0],
        "target": HOSTILE[1],
    }
    document["problem"] |= {"likelihood": HOSTILE[2], "prior": HOSTILE[4]}
    document["provenance"] |= {"command": "```\n" + HOSTILE[3], "device": HOSTILE[5]}
    document["provenance"]["versions"] = {label: label for label in HOSTILE}
    document["comparison"]["differences"][0]["caution"] = HOSTILE[0]
    return documents.judged(document)


@pytest.fixture(scope="module")
def pages(regression, classification, hostile):
    return [html.page(document) for document in (regression, classification, hostile)]


# ---- the page ----------------------------------------------------------------------


def test_the_same_bytes_twice(regression, classification, pages):
    assert html.page(regression) == pages[0]
    assert html.page(copy.deepcopy(classification)) == pages[1]


def test_user_settings_do_not_change_the_page(regression, pages):
    with mpl.rc_context({"lines.linewidth": 9, "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert html.page(regression) == pages[0]
        figures.draw(regression, "coverage")
        assert dict(mpl.rcParams) == before


def test_no_script_and_nothing_loaded(pages):
    for text in pages:
        page = Page(text)
        assert not page.tags & {"script", "img", "iframe", "object", "embed", "link"}
        assert "<script" not in text.lower()
        for tag, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("href", "xlink:href", "src"):
                if name in attributes:
                    assert attributes[name].startswith("#"), (tag, attributes)
        assert "@import" not in text
        assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_links_lead_somewhere(pages):
    for text in pages:
        page = Page(text)
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        for _, attributes in page.elements:
            for name in ("href", "xlink:href"):
                if name in attributes:
                    assert attributes[name][1:] in ids
            for target in (attributes.get("aria-labelledby") or "").split():
                assert target in ids
        used = set(re.findall(r"url\(#([^)]*)\)", text))
        assert used <= set(ids)


def test_drawings_are_well_formed_and_described(pages):
    for text in pages:
        drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
        assert drawings
        for drawing in drawings:
            root = ET.fromstring(drawing)  # noqa: S314  our own output
            assert root.get("role") == "img"
            names = [child.tag.rpartition("}")[2] for child in root][:2]
            assert names == ["title", "desc"]
            assert all(len(child.text) > 10 for child in root[:2])
            assert "currentColor" in drawing
            assert figures.INK not in drawing
            assert "metadata" not in drawing


def test_tables_are_accessible(pages):
    for text in pages:
        assert text.count("<table>") == text.count("<caption>")
        headers = [a for tag, a in Page(text).elements if tag == "th"]
        assert headers
        assert all(a.get("scope") in ("row", "col") for a in headers)
        assert 'lang="en"' in text
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text


def test_hundred_thousand_points_stay_below_one_megabyte(documents):
    document = documents.regression(n=100_000)
    assert sum(method["status"] == "done" for method in document["methods"]) >= 5
    assert len(html.page(document).encode()) < 1_000_000


def test_unfinished_methods_are_rows_with_their_reason(regression, pages):
    text = "".join(Page(pages[0]).text)
    for method in regression["methods"][-2:]:
        assert f"{method['status']}: {method['reason']}" in text


def test_every_verdict_sentence_is_on_the_page(regression, pages):
    text = "".join(Page(pages[0]).text)
    for line in regression["verdict"]:
        assert line["sentence"] in text
        assert line["rule"] in text


def test_the_drawing_is_described_by_the_sentences_of_the_verdict(regression, pages):
    drawing = re.search(r'<desc id="fig-coverage-desc">(.*?)</desc>', pages[0])[1]
    for line in regression["verdict"]:
        if line["code"] == "intervals":
            assert line["sentence"] in drawing


def test_sections_stay_when_nothing_can_be_computed(documents, regression):
    document = copy.deepcopy(regression)
    document["comparison"] = None
    for method in document["methods"]:
        method |= dict.fromkeys(
            ("curves", "cost", "hyperparameters", "diagnostics"), None
        )
    text = html.page(documents.judged(document))
    for anchor in ("differences", "coverage", "shape", "price", "diagnostics"):
        block = text[text.index(f'<div id="{anchor}">') :]
        assert block.index("Not available: ") < block.index("</div>")
    assert "<svg" not in text


def test_missing_values_are_never_nan(documents, regression):
    document = copy.deepcopy(regression)
    score = document["methods"][1]["scores"]["nll"]
    score |= {"value": None, "se": None, "interval": None}
    document["methods"][2]["scores"]["crps"]["se"] = None
    document["methods"][3]["cost"] = None
    del document["methods"][4]["scores"]["rmse"]
    document = documents.judged(document)
    for view in (html.page, markdown.page):
        text = view(document)
        assert "not available (not finite)" in text
        assert "not available (not computed)" in text
        assert "not available (not measured)" in text
    for view in (html.page, markdown.page, tables.latex, tables.csv):
        assert not re.search(r"\bnan\b|\bNaN\b|\binf\b|\bNone\b", view(document))


def test_finished_methods_only_in_the_drawings(regression):
    figure = figures.draw(regression, "coverage")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "MAP" in labels
    assert "NUTS" not in labels


def test_a_label_with_an_underscore_is_in_the_legend(hostile):
    figure = figures.draw(hostile, "shape")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label for label in labels if label.startswith("_leading")]


def test_one_far_value_does_not_hide_the_others(documents, regression):
    document = copy.deepcopy(regression)
    far = document["comparison"]["differences"][-1]
    far |= {"value": 1e6, "se": 1e5, "interval": [8e5, 1.2e6]}
    axes = figures.draw(documents.judged(document), "differences").axes[0]
    assert axes.get_xscale() == "symlog"


def test_unknown_figure(regression):
    with pytest.raises(ValueError, match="there are differences, coverage"):
        figures.draw(regression, "pie")


# ---- hostile text ------------------------------------------------------------------


def test_page_escapes(pages):
    text = pages[2]
    assert "<img" not in text
    assert "onerror=alert(1)&gt;" in text
    assert "49" not in re.findall(r"\{\{.{9}", text)
    for bad in ("\x1b", "\x00", "\u202e", "\ud800"):
        assert bad not in text
    text.encode("utf-8")


def test_markdown_escapes(hostile):
    text = markdown.page(hostile)
    text.encode("utf-8")
    outside = re.sub(r"(?ms)^(`{3,})\n.*?^\1$", "", text)
    assert "<" not in outside
    assert "](" not in outside
    assert "**bold**" not in outside
    for line in outside.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[0] == cells[-1] == ""
    blocks = re.split(r"\n\n", outside)
    for block in blocks:
        widths = {
            len(re.split(r"(?<!\\)\|", line))
            for line in block.splitlines()
            if line.startswith("|")
        }
        assert len(widths) <= 1


def test_latex_escapes(hostile):
    text = tables.latex(hostile)
    assert r"\input" not in text
    assert r"\textbackslash{}input\{" in text
    commands = set(re.findall(r"\\[a-zA-Z]+", text))
    allowed = {"begin", "end", "toprule", "midrule", "bottomrule", "pm", "usepackage"}
    allowed |= {"textbackslash", "textbar", "textless", "textgreater", "ldots", "mu"}
    allowed |= {"textasciicircum", "textasciitilde"}
    assert commands <= {"\\" + name for name in allowed}
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 6
            assert not re.search(r"(?<!\\)%", line)


def test_terminal_escapes(hostile, capsys):
    for forced in (False, True):
        console = Console(file=io.StringIO(), force_terminal=forced, width=100)
        terminal.render(hostile, console)
        text = console.file.getvalue()
        assert "[red]markup[/red]" in re.sub(r"\s+|\x1b\[[\d;]*m", "", text)
        if not forced:
            assert "\x1b" not in text
        assert "\x00" not in text


def test_csv_holds_formulas_as_text(documents, regression):
    document = documents.with_label(regression, 0, "=1+1")
    rows = list(csv.DictReader(io.StringIO(tables.csv(document))))
    assert rows[0]["label"] == "'=1+1"


# ---- tables, terminal, files -------------------------------------------------------


def test_csv_repeats_the_document_exactly(regression):
    rows = list(csv.DictReader(io.StringIO(tables.csv(regression))))
    nll = [row for row in rows if row["quantity"] == "nll"]
    done = [m for m in regression["methods"] if m["status"] == "done"]
    assert [float(row["value"]) for row in nll] == [
        method["scores"]["nll"]["value"] for method in done
    ]
    unfinished = [row for row in rows if row["status"] != "done"]
    assert len(unfinished) == 2
    assert all(row["reason"] and not row["value"] for row in unfinished)


def test_piped_text_has_one_line_a_method_and_no_codes(regression):
    console = Console(file=io.StringIO(), width=40)
    terminal.render(regression, console)
    text = console.file.getvalue()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("method")
    for line, method in zip(lines[1:], regression["methods"], strict=False):
        assert line.startswith(method["label"])
    for record in regression["verdict"]:
        assert [line for line in lines if record["sentence"] in line]


@pytest.mark.parametrize("suffix", [".html", ".md", ".csv", ".tex", ".json", ".HTML"])
def test_the_suffix_picks_the_view(regression, tmp_path, suffix):
    path = write(regression, tmp_path / f"report{suffix}")
    assert path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [f"report{suffix}"]


def test_json_view_is_the_document(regression, tmp_path):
    assert load(write(regression, tmp_path / "run.json")) == regression
    json.loads((tmp_path / "run.json").read_text())


def test_unknown_suffix_lists_the_known_ones(regression, tmp_path):
    with pytest.raises(ValueError, match=r"\.html, \.md, \.csv, \.tex, \.json"):
        write(regression, tmp_path / "report.pdf")


def test_directories_are_refused(regression, tmp_path):
    (tmp_path / "old.html").mkdir()
    with pytest.raises(IsADirectoryError):
        write(regression, tmp_path / "old.html")
    with pytest.raises(IsADirectoryError):
        write(regression, f"{tmp_path}/new.html/")


def test_a_failed_write_leaves_the_old_file(regression, tmp_path, monkeypatch):
    path = write(regression, tmp_path / "run.json")
    before = path.read_bytes()

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write(regression, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_invalid_documents_are_not_drawn(regression, tmp_path):
    with pytest.raises(ValueError, match="newer"):
        write({**regression, "schema": "ntkuq/run/2"}, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_numbers_are_rounded_from_their_errors(regression):
    text = markdown.page(regression).replace("\u00a0", " ")
    score = regression["methods"][1]["scores"]["nll"]
    assert f"{score['value']:.3f} ± {score['se']:.3f}" in text
    np.testing.assert_array_less(0.0099, score["se"])
