"""A Parquet table is read as the CSV file it could have been."""

import importlib.util

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from ntkuq.cli.commands.compare import Compare
from ntkuq.cli.errors import UsageError
from ntkuq.cli.loading import load_data
from ntkuq.data import DataError
from tests.cli.conftest import houses, write_csv


COLUMNS = ("area", "age", "noise", "kind", "price")


def flags(name):
    return Compare(data=name, target="price", features="area,age,noise", group="kind")


def test_it_is_the_table(here):
    columns = {name: houses()[name] for name in COLUMNS}
    write_csv(here / "table.csv", columns)
    # several row groups
    pq.write_table(pa.table(columns), here / "table.parquet", row_group_size=7)
    one, two = load_data(flags("table.csv")), load_data(flags("table.parquet"))
    for a, b in ((one.train, two.train), (one.test, two.test)):
        # every digit of a number is there
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, b.y)
        np.testing.assert_array_equal(a.group, b.group)
        assert a.features == b.features
        assert a.groups == b.groups


def test_whole_numbers_and_truth_values_are_numbers(here):
    y = np.arange(40.0) ** 1.5
    table = {"rooms": np.arange(40), "new": np.arange(40) % 3 == 0, "price": y}
    pq.write_table(pa.table(table), here / "table.parquet")
    split = load_data(Compare(data="table.parquet", target="price"))
    order = np.argsort(np.concatenate([split.train.y, split.test.y]))
    x = np.concatenate([split.train.x, split.test.x])[order]
    np.testing.assert_array_equal(x, np.stack([table["rooms"], table["new"]], axis=1))


def test_a_gap_is_named_by_file_column_and_line(here):
    table = pa.table({"area": [1.0, None, 3.0], "price": [1.0, 2.0, 3.0]})
    pq.write_table(table, here / "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet.*area") as caught:
        load_data(Compare(data="table.parquet", target="price"))
    assert "3" in str(caught.value)  # the second row is line 3


def test_what_is_no_parquet_is_said(here, monkeypatch):
    (here / "table.parquet").write_text("area,price\n1,2\n")
    with pytest.raises(UsageError, match="expected a Parquet file"):
        load_data(flags("table.parquet"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "pyarrow" else find(n)
    )
    with pytest.raises(UsageError, match=r"pip install 'ntkuq\[table\]'"):
        load_data(flags("table.parquet"))
