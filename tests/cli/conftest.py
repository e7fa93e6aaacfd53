"""A small problem on disk, and the command line run inside the test's process."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest


NETS = """
import equinox as eqx
import jax


def build(key):
    return eqx.nn.MLP(3, 1, 8, 1, jax.nn.relu, key=key)


def wide(key):
    return eqx.nn.MLP(3, 2, 8, 1, jax.nn.relu, key=key)


def classes(key):
    return eqx.nn.MLP(3, 3, 8, 1, jax.nn.relu, key=key)


def number(key):
    return 3


def no_arguments():
    return 3


def broken(key):
    raise RuntimeError("boom")


def missing(key):
    return {}["key"]


constant = 3
"""

#: Methods that are quick to fit.
QUICK = "MAP(train=Train(0.03, steps=300), rounds=2)"


def write_csv(path, columns):
    """A table from a dict of columns."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def houses(rows=60, seed=0):
    """A smooth target of three features with a little noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    price = 250 + 40 * x[:, 0] - 20 * np.tanh(x[:, 1]) + rng.normal(0, 3, rows)
    kind = np.array(["flat", "house", "villa"])[
        np.digitize(x[:, 0] + 0.1 * x[:, 2], [-0.5, 0.5])
    ]
    return {
        "area": x[:, 0],
        "age": x[:, 1],
        "noise": x[:, 2],
        "price": price,
        "kind": kind,
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with nets.py and houses.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "typo.py").write_text("def build(key) return 3")
    (tmp_path / "quits.py").write_text("raise SystemExit(7)")
    table = houses()
    write_csv(tmp_path / "houses.csv", {k: table[k] for k in list(table)[:4]})
    write_csv(
        tmp_path / "kinds.csv", {k: table[k] for k in ("area", "age", "noise", "kind")}
    )
    yield tmp_path
    sys.modules.pop("nets", None)
