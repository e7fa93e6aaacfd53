"""Data by shares of one file, or by a file for each part."""

import numpy as np
import pytest

from ntkuq.cli.commands.compare import Compare
from ntkuq.cli.commands.fit import Fit
from ntkuq.cli.errors import UsageError
from ntkuq.cli.loading import load_data, load_parts, read_shares
from ntkuq.data import DataError
from tests.cli.conftest import houses, write_csv


def parts(here, *sizes, kind="price", seed=0):
    """Files of the rows of one table, `part0.csv` and so on."""
    rows = houses(sum(sizes), seed)
    columns = {k: rows[k] for k in ("area", "age", "noise", kind)}
    start = 0
    for number, size in enumerate(sizes):
        part = {k: v[start : start + size] for k, v in columns.items()}
        write_csv(here / f"part{number}.csv", part)
        start += size
    return columns


def test_shares():
    assert read_shares("0") == (0.8, 0.0, 0.2)
    assert read_shares("0.7,0.3") == (0.7, 0.0, 0.3)
    assert read_shares("0.7, 0.1, 0.2") == (0.7, 0.1, 0.2)
    assert read_shares("1") == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.8", "sum to 1"),
        ("0.5,0.6", "sum to 1.1"),
        ("1,0", "above 0"),
        ("0.5,-0.5,1", "above 0"),
        ("nan,0.5", "above 0"),
        ("0.25,0.25,0.25,0.25", "expected shares"),
        ("a,b", "expected shares"),
        ("", "expected shares"),
    ],
)
def test_shares_that_are_none(text, words):
    with pytest.raises(UsageError, match=words):
        read_shares(text)


def test_three_shares_divide_a_file(here):
    flags = Compare(data="houses.csv", target="price", split="0.5,0.2,0.3")
    split = load_data(flags)
    assert [len(p) for p in (split.train, split.calibrate, split.test)] == [30, 12, 18]
    rows = np.concatenate([split.train.y, split.calibrate.y, split.test.y])
    assert sorted(rows) == sorted(houses()["price"])


def test_a_small_file_cannot_have_three_parts(here):
    parts(here, 3)
    flags = Compare(data="part0.csv", target="price", split="0.5,0.2,0.3")
    with pytest.raises(UsageError, match="got 3 rows of which 50 % for training and"):
        load_data(flags)


def test_files_of_parts(here):
    columns = parts(here, 30, 10, 20)
    # other files may hold their columns in another order
    shuffled = {k: columns[k][40:] for k in ("price", "noise", "age", "area")}
    write_csv(here / "part2.csv", shuffled)
    flags = Compare(
        train="part0.csv", calibrate="part1.csv", test="part2.csv", target="price"
    )
    split = load_data(flags)
    np.testing.assert_array_equal(split.train.y, columns["price"][:30])
    np.testing.assert_array_equal(split.calibrate.y, columns["price"][30:40])
    np.testing.assert_array_equal(split.test.x[:, 0], columns["area"][40:])
    assert split.train.features == ("area", "age", "noise")


def test_classes_have_one_code_in_every_file(here):
    columns = parts(here, 40, 20, kind="kind")
    keep = columns["kind"][40:] != "flat"
    write_csv(here / "part1.csv", {k: v[40:][keep] for k, v in columns.items()})
    flags = Compare(train="part0.csv", test="part1.csv", target="kind")
    split = load_data(flags)
    assert split.test.classes == ("flat", "house", "villa")
    names = np.asarray(split.test.classes)[split.test.y]
    np.testing.assert_array_equal(names, columns["kind"][40:][keep])
    # the other way round a class is missing where it must be learned
    flags = Compare(train="part1.csv", test="part0.csv", target="kind")
    with pytest.raises(DataError, match=r"part1\.csv: .* none of 'flat'"):
        load_data(flags)


def test_numbers_as_classes_have_one_code_too(here):
    rows = houses(40)
    x = {k: rows[k] for k in ("area", "age")}
    y = np.resize([1, 2, 10], 40)
    write_csv(here / "a.csv", x | {"y": y})
    write_csv(here / "b.csv", {k: v[:8] for k, v in x.items()} | {"y": [10, 2] * 4})
    flags = Compare(train="a.csv", test="b.csv", target="y", likelihood="Categorical()")
    split = load_data(flags)
    assert split.train.classes == ("1", "2", "10")
    assert split.test.y.tolist() == [2, 1] * 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"test": "part0.csv"}, "--test: expected --train"),
        ({"calibrate": "part0.csv"}, "--calibrate: expected --train"),
        ({"train": "part0.csv"}, "expected --test"),
        ({"train": "part0.csv", "test": "part1.csv", "data": "concrete"}, "got both"),
        ({"train": "part0.csv", "test": "part1.csv", "split": "0.5,0.5"}, "--split"),
        ({"train": "concrete", "test": "part1.csv"}, r"a file of \.csv"),
        ({"data": "part0.csv", "split": "1"}, "share for the test rows"),
    ],
)
def test_flags_that_do_not_go_together(flags, words, here):
    parts(here, 20, 10)
    with pytest.raises(UsageError, match=words):
        load_data(Compare(target="price", **flags))


def test_a_column_that_one_file_lacks(here):
    parts(here, 20, 10)
    write_csv(here / "part1.csv", {"area": [1.0, 2.0], "price": [1.0, 2.0]})
    flags = Compare(train="part0.csv", test="part1.csv", target="price")
    with pytest.raises(DataError, match=r"part1\.csv: .* 'age'"):
        load_data(flags)


def test_a_fit_needs_no_test_rows(here):
    parts(here, 20)
    whole = load_parts(Fit(data="part0.csv", target="price", split="1"))
    assert len(whole.train) == 20
    assert whole.test is None
    assert len(load_parts(Fit(train="part0.csv", target="price")).train) == 20


def test_a_split_file_is_not_split_again(here):
    x, y = np.ones((4, 2)) * np.arange(4.0)[:, None], np.arange(4.0) ** 2
    np.savez(here / "s.npz", x=x, y=y, x_test=x, y_test=y)
    with pytest.raises(UsageError, match="brings its own test rows"):
        load_data(Compare(data="s.npz", split="0.5,0.5"))
