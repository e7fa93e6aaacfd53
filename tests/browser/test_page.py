"""Reports in a browser: silent, closed, readable, reachable; light, dark and print."""

import itertools
import re

import pytest

from tests.browser import looks
from tests.browser.conftest import REPORTS


WIDTHS = (400, 1600)
SCHEMES = ("light", "dark")
THREE = ("regression", "classification", "broken")
PAPER = 688  # CSS pixels of A4 between the margins of 14 mm
HOSTILE = """<!DOCTYPE html><html lang="en"><title>x</title><body>
<script>console.log("here"); undefined_name();</script>
<p style="width: 900px; font-size: 6px; color: #bbb">small, pale and wide</p>
<img src="http://127.0.0.1:8099/a.png"><div tabindex="5">x</div></body></html>"""

every_report = pytest.mark.parametrize("name", REPORTS)


def watched(page, address):
    """What a page says and asks for while it is opened, scrolled and unfolded."""
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    for summary in page.locator("summary").all():
        summary.click()
    page.keyboard.press("End")
    page.wait_for_timeout(100)
    return said, asked


def violations(axe, page):
    """Rules of axe-core that the page breaks, and names of the rules that it passes."""
    found = axe.run(page, options={"rules": {"target-size": {"enabled": True}}})
    broken = [
        (rule["id"], [node["html"][:150] for node in rule["nodes"][:3]])
        for rule in found.response["violations"]
    ]
    return broken, {rule["id"] for rule in found.response["passes"]}


def test_the_questions_find_a_bad_page(chromium, axe, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(HOSTILE, encoding="utf-8")
    page = chromium.new_page(viewport={"width": 400, "height": 900})
    said, asked = watched(page, bad.as_uri())
    assert "here" in said
    assert any("undefined_name" in text for text in said)
    assert asked == [bad.as_uri(), "http://127.0.0.1:8099/a.png"]
    assert len(page.evaluate(looks.CUT_OFF)) >= 2
    assert page.evaluate(looks.SMALL, 12)[1]
    broken = {name for name, _ in violations(axe, page)[0]}
    assert {"color-contrast", "image-alt", "tabindex"} <= broken
    page.close()


@every_report
def test_nothing_runs_and_nothing_is_asked_for(chromium, reports, name):
    page = chromium.new_page()
    address = reports[name].as_uri()
    said, asked = watched(page, address)
    assert said == []
    assert asked == [address]
    assert page.evaluate("document.scripts.length") == 0
    handlers = """[...document.querySelectorAll('*')].flatMap(e =>
        [...e.attributes].map(a => a.name).filter(n => n.startsWith('on')))"""
    assert page.evaluate(handlers) == []
    assert page.title() != "taken over"
    assert page.url == address
    page.close()


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        *itertools.product(THREE, WIDTHS, SCHEMES),
        ("empty", 400, "light"),
        ("compared", 1600, "dark"),
        ("classes", 400, "dark"),
    ],
)
def test_no_accessibility_violation(open_page, axe, name, width, scheme):
    """Of axe-core's rules, with all that can be unfolded unfolded."""
    page = open_page(name, width=width, scheme=scheme, unfolded=True)
    broken, passed = violations(axe, page)
    assert broken == []
    assert {"color-contrast", "document-title", "html-has-lang"} <= passed


@pytest.mark.parametrize("width", [320, *WIDTHS])
@every_report
def test_nothing_is_cut_off(open_page, name, width):
    page = open_page(name, width=width)
    assert page.evaluate(looks.CUT_OFF) == []
    page.evaluate(looks.UNFOLD)
    assert page.evaluate(looks.CUT_OFF) == []
    assert page.evaluate(looks.UNREACHABLE) == []


@pytest.mark.parametrize("width", WIDTHS)
@every_report
def test_text_is_large_enough_and_apart(open_page, name, width):
    page = open_page(name, width=width, unfolded=True)
    seen, small = page.evaluate(looks.SMALL, 12)
    assert seen > 100
    assert small == []
    assert page.evaluate(looks.CLASHES) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", THREE)
def test_drawings_stand_out_from_the_page(open_page, name, scheme):
    """4.5 for text and 3 for what must be seen (WCAG 2.2, 1.4.3 and 1.4.11)."""
    words, marks = open_page(name, scheme=scheme).evaluate(looks.CONTRASTS)
    assert min(words.values()) >= 4.5
    assert len(marks) >= 4
    assert {color: ratio for color, ratio in marks.items() if ratio < 3} == {}


@every_report
def test_drawings_are_images_with_names(open_page, name):
    page = open_page(name)
    count = page.locator("svg").count()
    assert page.get_by_role("img", name=re.compile(r"\w.{10}")).count() == count
    assert (count > 0) == (name != "empty")


@pytest.mark.parametrize("scheme", SCHEMES)
@every_report
def test_print(open_page, name, scheme):
    page = open_page(name, width=PAPER, scheme=scheme, media="print")
    assert page.evaluate(looks.CUT_OFF) == []
    assert page.evaluate(looks.CLASHES) == []
    ink = """(e => [e.backgroundColor, e.color, e.colorScheme])(
        getComputedStyle(document.body))"""
    assert page.evaluate(ink) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)", "light"]
    assert not page.locator("nav").is_visible()
    assert not page.locator(".skip").is_visible()
    folded = page.locator("details:not([open]) table, details:not([open]) dl")
    assert folded.count() == page.locator("details table, details dl").count()
    for inside in folded.all():
        assert inside.is_visible()
        assert inside.bounding_box()["height"] > 20
    words, _ = page.evaluate(looks.CONTRASTS)
    assert all(ratio > 15 for ratio in words.values())


def test_paper(open_page):
    paper = open_page("regression", scheme="dark").pdf(format="A4")
    assert paper.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 20


def test_keyboard(open_page):
    page = open_page("regression", width=400)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box["x"] >= 0
    assert box["y"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#verdict') !== null")
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.reload()
    inside = """() => {
      const e = document.activeElement;
      const moved = !window.last || window.last.compareDocumentPosition(e) & 4;
      window.last = e;
      const ring = getComputedStyle(e);
      return [e.tagName, !!moved, ring.outlineStyle !== 'none'];
    }"""
    order = []
    while len(order) < 200:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        order.append(page.evaluate(inside))
    assert all(moved and ring for _, moved, ring in order), order
    tags = [tag for tag, *_ in order]
    assert tags.count("SUMMARY") == page.locator("summary").count()
    assert tags.count("A") == page.locator("a").count()
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None
