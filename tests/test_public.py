"""The public names: they import, say what they are, and stand in the documentation."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ntkuq


ROOT = Path(__file__).parents[1]
HEAVY = {"jax", "numpyro", "matplotlib", "arviz_base", "arviz_stats", "neural_tangents"}


def stub() -> dict[str, str]:
    """The names of the stub with the room each comes from."""
    tree = ast.parse((ROOT / "ntkuq" / "__init__.pyi").read_text())
    return {
        alias.name: node.module or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


NAMES = sorted((n, room) for n, room in stub().items() if n != room)
ROOMS = sorted(n for n, room in stub().items() if n == room)


def exported(room: str) -> set[str]:
    """What a room offers: its own public names, modules and imported helpers aside."""
    module = importlib.import_module(f"ntkuq.{room}")
    # a room whose names load on first use has them in __all__
    names = {*vars(module), *getattr(module, "__all__", ())}
    things = {name: getattr(module, name) for name in names}
    return {
        name
        for name, thing in things.items()
        if not name.startswith("_")
        and not inspect.ismodule(thing)
        and getattr(thing, "__module__", "ntkuq").startswith("ntkuq")
    }


@pytest.mark.parametrize(("name", "room"), NAMES)
def test_name_imports_and_has_a_docstring(name, room):
    thing = getattr(ntkuq, name)
    assert thing is getattr(importlib.import_module(f"ntkuq.{room}"), name)
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert doc, f"ntkuq.{name} has no docstring"
    # Equinox and dataclasses write a signature where a docstring is missing.
    assert not doc.startswith(f"{name}("), f"ntkuq.{name} has no docstring of its own"


@pytest.mark.parametrize("room", ROOMS)
def test_room_says_what_it_is_and_exports_what_it_documents(room):
    module = importlib.import_module(f"ntkuq.{room}")
    assert module.__doc__
    page = (ROOT / "docs" / "api" / f"{room}.md").read_text()
    on_page = set(re.findall(rf"^::: ntkuq\.{room}\.(\w+)\s*$", page, re.MULTILINE))
    assert on_page == exported(room)
    assert {n for n, home in NAMES if home == room} <= on_page


def documented(doc: str) -> set[str]:
    """The names under Args: "a: ..." or "a, b: ..."."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)*)", inspect.cleandoc(doc), re.M)
    entries = re.findall(
        r"^ {4}(\w[\w, *]*?)(?: \(.*\))?:", section[1] if section else "", re.M
    )
    return {name.strip(" *") for entry in entries for name in entry.split(",")}


@pytest.mark.parametrize("room", ROOMS)
def test_documented_arguments_exist(room):
    module = importlib.import_module(f"ntkuq.{room}")
    wrong = {}
    for name in sorted(exported(room)):
        thing = getattr(module, name)
        error = inspect.isclass(thing) and issubclass(thing, BaseException)
        if callable(thing) and thing.__doc__ and not error:
            unknown = documented(thing.__doc__) - set(
                inspect.signature(thing).parameters
            )
            if unknown:
                wrong[name] = unknown
    assert not wrong


def test_stub_and_run_time_agree():
    assert set(ntkuq.__all__) == set(stub())
    assert set(stub()) <= set(dir(ntkuq))
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", ntkuq.__version__)


def loaded(code: str) -> tuple[set[str], str]:
    """The top-level packages that a fresh interpreter holds after running `code`."""
    script = f"{code}\nimport sys\nprint('|'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.split("|")}, done.stdout


def test_import_is_light():
    modules, _ = loaded("import ntkuq; ntkuq.__version__; dir(ntkuq)")
    assert not modules & (HEAVY | {"numpy", "scipy", "pandas"})


def test_help_is_light():
    start = time.perf_counter()
    modules, out = loaded(
        "import sys\n"
        "sys.argv = ['ntkuq', '--help']\n"
        "from ntkuq.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code"
    )
    print(f"ntkuq --help took {time.perf_counter() - start:.2f} s")
    assert "compare" in out
    assert not modules & HEAVY


def test_a_view_of_a_stored_run_needs_no_jax(tmp_path):
    from tests.report.conftest import regression_document

    (tmp_path / "run.json").write_text(json.dumps(regression_document()))
    modules, out = loaded(
        "from ntkuq.cli.main import main\n"
        f"assert main(['report', {str(tmp_path)!r}]) == 0"
    )
    assert "report.html" in out
    assert "matplotlib" in modules
    assert not modules & {"jax", "numpyro", "equinox", "arviz_base"}


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "ntkuq", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout


def test_readme_and_ci_give_the_same_test_command():
    def command(text: str) -> str:
        (found,) = re.findall(r"python3 -m venv \.tools .*?nox -s tests", text)
        return found

    readme = (ROOT / "README.md").read_text()
    assert command(readme) == command((ROOT / ".ci" / "run").read_text())


def test_pins_name_no_address():
    text = (ROOT / "requirements.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^(tensorflow|keras|tf2jax)\b", text, re.MULTILINE)
