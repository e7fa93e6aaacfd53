"""A headless Chromium, and reports of several runs as files for it to open."""

import importlib
import os
import shutil
from pathlib import Path

import pytest

from ntkuq.report import html
from tests.browser import documents, looks


#: Where systems put it; NTKUQ_CHROMIUM names another one.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REPORTS = {
    "regression": documents.regression_document,
    "classification": documents.classification_document,
    "broken": documents.broken_document,
    "empty": documents.empty_document,
    "compared": documents.compared_document,
    "classes": documents.classes_document,
}


def absent(reason: str) -> None:
    """Skip, or fail where the browser must be there (NTKUQ_REQUIRE_BROWSER=1)."""
    if os.environ.get("NTKUQ_REQUIRE_BROWSER") == "1":
        pytest.fail(
            f"NTKUQ_REQUIRE_BROWSER=1 forbids skipping: {reason}", pytrace=False
        )
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium():
    """The running browser."""
    try:
        driver = importlib.import_module("playwright.sync_api")
    except ModuleNotFoundError:
        absent("playwright is not installed: run `nox -s browser`")
        raise
    named = os.environ.get("NTKUQ_CHROMIUM")
    path = named or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        absent(f"no Chromium: install one of {', '.join(NAMES)} or set NTKUQ_CHROMIUM")
    # Chromium refuses its sandbox to root, which a container usually is.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe():
    """The accessibility checker axe-core, its script read from an installed package."""
    try:
        return importlib.import_module("axe_playwright_python.sync_playwright").Axe()
    except ModuleNotFoundError:
        absent("axe-playwright-python is not installed: run `nox -s browser`")
        raise


@pytest.fixture(scope="session")
def reports(tmp_path_factory) -> dict[str, Path]:
    """The reports as files, by name."""
    folder = tmp_path_factory.mktemp("reports")
    files = {}
    for name, document in REPORTS.items():
        files[name] = folder / f"{name}.html"
        files[name].write_text(html.page(document()), encoding="utf-8")
    return files


@pytest.fixture
def open_page(chromium, reports):
    """Open a report: `open_page("broken", width=400, scheme="dark", media="print")`."""
    pages = []

    def opened(name, *, width=1600, scheme="light", media="screen", unfolded=False):
        page = chromium.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        pages.append(page)
        page.emulate_media(media=media, color_scheme=scheme)
        page.goto(reports[name].as_uri())
        if unfolded:
            page.evaluate(looks.UNFOLD)
        return page

    yield opened
    for page in pages:
        page.close()
