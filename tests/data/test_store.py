"""The store of a run: whole units or none, and only in its own directory."""

import importlib
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Store, StoreError, digest, jsonable, write_bytes, write_json


store = importlib.import_module("ntkuq.data.store")


@pytest.fixture
def run(tmp_path):
    return Store.open(tmp_path / "runs" / "a", "f00d", {"data": {"n_train": 927}})


def files(directory):
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file()
    )


def test_units_come_back(run):
    assert run.read("a-0") is None
    assert run.arrays("a-0") is None
    run.write("a-0", {"nll": float("nan"), "n": np.int64(3)}, {"m": np.arange(3.0)})
    run.write("b.1", {"status": "failed"})
    again = Store.open(run.directory, "f00d", {"data": {"n_train": 927}})
    assert again.keys() == ("a-0", "b.1")
    assert again.read("a-0") == {"nll": None, "n": 3}
    assert again.arrays("a-0")["m"].tolist() == [0, 1, 2]
    assert again.arrays("b.1") == {}
    assert again.note("a-0") is None


def test_files_are_whole_and_named(run):
    run.write("a", {"x": 1}, {"m": np.zeros(2)})
    assert files(run.directory) == ["problem.json", "units/a.json", "units/a.npz"]
    run.write("a", {"x": 2})
    assert files(run.directory) == ["problem.json", "units/a.json"]
    assert run.read("a") == {"x": 2}


def test_the_same_unit_gives_the_same_bytes(run):
    for key in ("a", "b"):
        run.write(key, {"x": 1}, {"m": np.zeros(2), "name": np.array(["u"])})
    one, two = (run.directory / "units" / f"{key}.npz" for key in "ab")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("key", ["", "../a", "a/b", ".hidden", "a b", "ü", "a" * 201])
def test_keys_are_file_names(run, key):
    with pytest.raises(ValueError, match="expected a key of 1 to 200 letters"):
        run.write(key, {})
    with pytest.raises(ValueError, match="expected a key"):
        run.read(key)


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupted_write_leaves_nothing(run, monkeypatch):
    monkeypatch.setattr(store.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.write("a", {"x": 1}, {"m": np.zeros(2)})
    assert files(run.directory) == ["problem.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a", b"new")
    assert files(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_unit_without_its_json_is_not_finished(run, monkeypatch):
    monkeypatch.setattr(store, "write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.write("a", {"x": 1}, {"m": np.zeros(2)})
    assert run.read("a") is None
    assert run.keys() == ()


def test_arrays_of_another_writing_do_not_pass(run, monkeypatch):
    run.write("a", {"x": 1}, {"m": np.zeros(2)})
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.write("a", {"x": 2}, {"m": np.ones(2)})
    assert run.read("a") is None
    assert run.note("a") == "unit a: its arrays are damaged; it is computed again"


@pytest.mark.parametrize(
    ("file", "content", "note"),
    [
        ("a.json", b'{"schema": "ntkuq/unit/1", "rec', "its record is not readable"),
        ("a.json", b"\xff\xfe", "its record is not readable"),
        ("a.json", b"[]", "its record is not readable"),
        ("a.json", b'{"record": NaN}', "its record is not readable"),
        ("a.json", b'{"record": {}}', "not of the form ntkuq/unit/1"),
        ("a.npz", b"PK", "its arrays are damaged"),
        ("a.npz", None, "its arrays are missing"),
    ],
)
def test_damaged_units_count_as_missing(run, file, content, note):
    run.write("a", {"x": 1}, {"m": np.zeros(2)})
    path = run.directory / "units" / file
    path.unlink() if content is None else path.write_bytes(content)
    assert run.read("a") is None
    assert run.arrays("a") is None
    assert run.keys() == ()
    assert note in run.note("a")


@pytest.mark.parametrize(
    ("record", "arrays", "message"),
    [
        ({"a": [1, object()]}, None, r"\['a'\]\[1\]: expected numbers.*came object"),
        ({"a": {1: 2}}, None, r"\['a'\]: expected keys of text, came 1"),
        ({}, {"m": np.array([None])}, r"m: expected an array of numbers.*object"),
        ({}, {"m": np.asarray(jnp.ones(2, jnp.bfloat16))}, r"m: .*bfloat16; convert"),
    ],
)
def test_what_cannot_be_stored_is_not_begun(run, record, arrays, message):
    with pytest.raises(TypeError, match=message):
        run.write("a", record, arrays)
    assert files(run.directory) == ["problem.json"]


def test_another_problem_is_refused_with_the_difference(run):
    with pytest.raises(StoreError) as caught:
        Store.open(run.directory, "beef", {"data": {"n_train": 455}, "prior": "P(1)"})
    assert "data.n_train was 927, now 455" in str(caught.value)
    assert 'prior was absent, now "P(1)"' in str(caught.value)
    with pytest.raises(StoreError, match="fingerprint was f00d…, now beef…"):
        Store.open(run.directory, "beef", {"data": {"n_train": 927}})


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"1 entries such as 'thesis.tex' and no prob"):
        Store.open(tmp_path, "f00d", {})
    assert files(tmp_path) == ["thesis.tex"]
    with pytest.raises(StoreError, match="came a file; choose another place"):
        Store.open(tmp_path / "thesis.tex", "f00d", {})


def test_a_damaged_problem_is_refused(run):
    (run.directory / "problem.json").write_text("{")
    with pytest.raises(StoreError, match=r"readable problem.json, came damaged"):
        Store.open(run.directory, "f00d", {})
    write_json(run.directory / "problem.json", {"schema": "ntkuq/store/9"})
    with pytest.raises(StoreError, match=r"ntkuq/store/1, came 'ntkuq/store/9'"):
        Store.open(run.directory, "f00d", {})


def test_an_empty_or_interrupted_directory_is_taken(tmp_path, monkeypatch):
    root = tmp_path / "a"
    root.mkdir()
    (root / ".problem.json.0123456789abcdef.tmp").write_bytes(b"{")
    Store.open(root, "f00d", {}).write("a", {})
    assert Store.open(root, "f00d", {}).keys() == ("a",)


def test_json_is_strict_and_stable(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [np.inf, 1, np.float32(0.5)], "a": (True, None, "ü")})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [True, None, "ü"], "b": [None, 1, 0.5]}
    assert text.index('"a"') < text.index('"b"')
    write_json(path, {"a": (True, None, "ü"), "b": [np.inf, 1, np.float32(0.5)]})
    assert path.read_text(encoding="utf-8") == text


def test_jsonable():
    obj = {
        "jax": jnp.array([1.0, jnp.nan]),
        "bool": np.bool_(True),
        "nested": np.eye(2, dtype=int),
        "scalar": np.array(2.5),
        "bfloat16": jnp.ones(1, jnp.bfloat16),
        "path": Path("a"),
    }
    assert jsonable(obj) == {
        "jax": [1.0, None],
        "bool": True,
        "nested": [[1, 0], [0, 1]],
        "scalar": 2.5,
        "bfloat16": [1.0],
        "path": "a",
    }


def test_digest_tells_apart_what_differs():
    nan, inf = float("nan"), float("inf")
    objects = [None, nan, inf, -inf, 0, 0.0, "0", False, [], {}, [0], {"a": 0}]
    assert len({digest(obj) for obj in objects}) == len(objects)
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) == (
        "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    )
