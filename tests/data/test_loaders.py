"""Data sets by name: verified, complete, with the published splits."""

import hashlib
import importlib
import time
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from ntkuq.data import DataError, DataWarning, info, load, names


loaders = importlib.import_module("ntkuq.data.loaders")
SHIPPED = [name for name in names() if info(name).shipped]
OUTSIDE = [name for name in names() if not info(name).shipped]


def test_two_sets_are_shipped_and_small():
    assert SHIPPED == ["concrete", "digits"]
    for name in SHIPPED:
        file = resources.files("ntkuq.data").joinpath("sets", info(name).file)
        content = file.read_bytes()
        assert len(content) == info(name).size < 100_000
        assert hashlib.sha256(content).hexdigest() == info(name).sha256


def test_sources_name_every_shipped_file():
    text = resources.files("ntkuq.data").joinpath("sets", "SOURCES.md").read_text()
    for name in SHIPPED:
        assert info(name).file in text
        assert info(name).sha256 in text
    assert text.count("CC BY 4.0") == 2


@pytest.mark.parametrize("split", [0, 19])
def test_concrete_has_the_standard_splits(split):
    data = load("concrete", split=split)
    assert (len(data.train), data.calibrate, len(data.test)) == (927, None, 103)
    assert data.train.features[0] == "cement"
    assert (data.test.target, data.test.units) == ("strength", "MPa")
    rows = np.concatenate([data.train.x, data.test.x])
    assert rows.shape == (1030, 8)
    assert rows[:, 7].max() == 365
    y = np.concatenate([data.train.y, data.test.y])
    assert (y.min(), y.max()) == (2.33, 82.6)


def test_splits_differ():
    assert load("concrete").fingerprint() != load("concrete", split=1).fingerprint()
    assert load("digits").fingerprint() != load("digits", split=1).fingerprint()


def test_digits_are_split_within_classes():
    data = load("digits")
    assert (len(data.train), data.calibrate, len(data.test)) == (1258, None, 539)
    assert data.train.classes == tuple("0123456789")
    assert (data.train.x.min(), data.train.x.max()) == (0.0, 1.0)
    share = np.bincount(data.test.y) / (
        np.bincount(data.test.y) + np.bincount(data.train.y)
    )
    assert abs(share - 0.3).max() < 0.005


def test_the_split_of_digits_never_changes():
    """Numbers in reports refer to this split: the first test rows by name."""
    rank = np.random.PCG64(0).random_raw(3)
    assert rank.tolist() == [
        11749869230777074271,
        4976686463289251617,
        755828109848996024,
    ]
    test = load("digits").test
    assert (
        test.fingerprint()
        == "6ac022613631d9332e6d0d78f11b7afd66484aa21adb970bc42a322af3e40467"
    )


def test_digits_equal_those_of_scikit_learn(need):
    original = need("sklearn.datasets").load_digits()
    data = load("digits")

    def ordered(x, y):
        return np.array(sorted(map(tuple, np.column_stack([x, y]))))

    x = np.concatenate([data.train.x, data.test.x]) * 16
    y = np.concatenate([data.train.y, data.test.y])
    np.testing.assert_array_equal(
        ordered(x, y), ordered(original.data, original.target)
    )


def test_loading_takes_less_than_a_second():
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        load("concrete"), load("digits")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


def test_unknown_names_and_splits():
    with pytest.raises(DataError, match=r"came 'concret' \(nearest: 'concrete'\)"):
        load("concret")
    with pytest.raises(DataError, match=r"files of your own open with ntkuq.data.read"):
        load("houses.csv")
    with pytest.raises(DataError, match=r"concrete: expected a split from 0 to 19"):
        load("concrete", split=20)
    with pytest.raises(DataError, match=r"protein: .* 0 to 4, came -1"):
        load("protein", split=-1)


def test_absent_sets_say_where_they_come_from(monkeypatch, tmp_path):
    monkeypatch.delenv("NTKUQ_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        load("yacht")
    for part in ("yacht", "concrete, digits", "NTKUQ_DATA", "Yacht Hydrodynamics"):
        assert part in str(caught.value)
    monkeypatch.setenv("NTKUQ_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"uci/yacht.npz, came nothing there"):
        load("yacht")


def test_damaged_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("NTKUQ_DATA", str(tmp_path))
    (tmp_path / "uci").mkdir()
    file = tmp_path / "uci" / "yacht.npz"
    file.write_bytes(b"short")
    with pytest.raises(DataError, match=r"expected 23210 bytes, came 5; fetch it"):
        load("yacht")
    file.write_bytes(bytes(23210))
    with pytest.raises(DataError, match=r"expected SHA-256 2e99.*damaged"):
        load("yacht")


def test_a_damaged_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "sets").mkdir()
    content = bytearray(
        resources.files("ntkuq.data").joinpath("sets", "digits.npz").read_bytes()
    )
    content[1000] ^= 1
    (tmp_path / "sets" / "digits.npz").write_bytes(content)
    monkeypatch.setattr(loaders.resources, "files", lambda _: Path(tmp_path))
    with pytest.raises(DataError, match=r"expected SHA-256 .*reinstall ntkuq"):
        load("digits")


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_sets(name, data_dir, monkeypatch):
    monkeypatch.setenv("NTKUQ_DATA", str(data_dir))
    entry = info(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(name, split=1)
    assert len(data.train) + len(data.test) == entry.rows - 16 * bool(caught)
    assert data.train.x.shape[1] == entry.columns
    assert data.train.classes == entry.classes
    messages = [str(w.message) for w in caught if w.category is DataWarning]
    assert bool(messages) == (name == "breast_cancer")
    if messages:
        assert "16 of 699 rows hold missing values and were dropped" in messages[0]
