"""What a run document must hold, and what is refused."""

import copy
import json
import math

import pytest

from ntkuq.report import SCHEMA, DocumentError, dumps, load, validate


def test_fixtures_are_valid_and_survive_a_file(regression, classification, tmp_path):
    for document in (regression, classification):
        validate(document)
        path = tmp_path / "run.json"
        path.write_text(dumps(document), encoding="utf-8")
        assert load(path) == document


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("ntkuq/run/2", "newer than 'ntkuq/run/1'.*upgrade"),
        ("ntkuq/run/0", "unknown schema"),
        ("other/run/1", "unknown schema"),
        (["ntkuq/run/1"], "unknown schema"),
        ("ntkuq/run/" + "9" * 10_000, "newer"),
        (None, "no key 'schema'"),
    ],
)
def test_other_schemas_are_refused(regression, schema, message):
    with pytest.raises(DocumentError, match=message) as error:
        validate({**regression, "schema": schema})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("key", ["provenance", "problem", "methods", "verdict"])
def test_missing_keys_are_named(regression, key):
    short = {name: value for name, value in regression.items() if name != key}
    with pytest.raises(DocumentError, match=f"document: no key '{key}'"):
        validate(short)


BAD = [
    (("methods", 0, "label"), 3, r"methods\[0\]\.label: expected text, got int"),
    (("methods", 0, "status"), "fine", "'fine' is not done, failed, skipped"),
    (
        ("methods", 1, "scores", "nll", "value"),
        "1",
        "expected a finite number, got str",
    ),
    (("methods", 1, "scores", "nll", "value"), math.nan, "nan .write null"),
    (("methods", 1, "scores", "nll", "value"), 10**400, "expected a finite number"),
    (("methods", 1, "scores", "nll", "interval"), [1.0], "expected two numbers, got 1"),
    (("methods", 1, "scores", "coverage_90", "hits"), 10**6, "1000000 hits of n = 900"),
    (("methods", 1, "curves", "pit", "ecdf"), [0.1], "lists of lengths"),
    (("methods", 1, "curves", "pit", "ecdf", 3), 7.0, "expected numbers from 0 to 1"),
    (("methods", 1, "cost"), [], "cost: expected an object, got list"),
    (("problem", "task"), "ranking", "not regression, classification"),
    (("comparison", "differences"), {}, "expected a list, got dict"),
    (("problem", "data", "n_test"), True, "expected a whole number, got bool"),
]


@pytest.mark.parametrize(
    ("place", "value", "message"), BAD, ids=[str(i) for i in range(len(BAD))]
)
def test_wrong_values_are_named_with_their_place(regression, place, value, message):
    document = copy.deepcopy(regression)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(DocumentError, match=message):
        validate(document)


@pytest.mark.parametrize(
    "text", ["", "[]", "NaN", "{", "[" * 100_000, '{"schema": NaN}', "\xff\xfe"]
)
def test_files_that_are_no_documents(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DocumentError):
        load(path)


def test_a_file_of_predictions_is_refused_unread(tmp_path):
    path = tmp_path / "run.json"
    with path.open("wb") as file:
        file.truncate(2**28)
    with pytest.raises(DocumentError, match="predictions"):
        load(path)


def test_unknown_keys_are_allowed(regression):
    validate({**regression, "later": {"x": 1}})


def test_not_finite_is_not_written():
    with pytest.raises(ValueError, match="JSON"):
        dumps({"schema": SCHEMA, "x": math.inf})
    assert json.loads(dumps({"schema": SCHEMA})) == {"schema": SCHEMA}
