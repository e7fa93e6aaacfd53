"""`Batches`: the same numbers as the whole, and passes that differ are noticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import (
    Batches,
    BatchesChanged,
    DataError,
    Dataset,
    Split,
    as_data,
    as_dataset,
    chunks,
)
from ntkuq.models import Standardize


RNG = np.random.default_rng(0)


class Tensor:
    """What a tensor of another library offers: `__array__` and a length."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


class Loader:
    """A data loader: starts anew at each pass, and may change with it."""

    def __init__(self, pairs, change=lambda pairs, _: pairs):
        self.pairs, self.change, self.passes = pairs, change, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.change(self.pairs, self.passes))


class Buffer:
    """A loader that fills one buffer again for each batch, and counts what is out."""

    def __init__(self, x, y, size):
        self.x, self.y, self.size = x, y, size

    def __iter__(self):
        x, y = np.empty((self.size, 2)), np.empty(self.size)
        for start in range(0, len(self.x), self.size):
            rows = slice(start, start + self.size)
            x[:], y[:] = self.x[rows], self.y[rows]
            yield x, y


def pairs(sizes=(4, 3, 5), d=2, floats=True):
    """Random batches of these sizes."""
    return [
        (
            RNG.standard_normal((n, d)),
            RNG.standard_normal(n) if floats else RNG.integers(0, 3, n),
        )
        for n in sizes
    ]


def joined(parts):
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def make(form, rows):
    """The rows (x, y) as each kind of source."""
    x, y = rows
    cut = [(x[a : a + 5], y[a : a + 5]) for a in range(0, len(y), 5)]
    return {
        "list": lambda: cut,
        "lists of two": lambda: [list(pair) for pair in cut],
        "loader": lambda: Loader(cut),
        "tensors": lambda: [(Tensor(a), Tensor(b)) for a, b in cut],
        "device": lambda: [(jnp.asarray(a), jnp.asarray(b)) for a, b in cut],
        "buffer": lambda: Buffer(x, y, 4),
        "unequal": lambda: [(x[:1], y[:1]), (x[1:9], y[1:9]), (x[9:], y[9:])],
    }[form]()


FORMS = ["list", "lists of two", "loader", "tensors", "device", "buffer", "unequal"]


@pytest.mark.parametrize("form", FORMS)
def test_every_source_gives_the_rows_of_the_dataset(form):
    whole = Dataset(RNG.standard_normal((12, 2)), RNG.standard_normal(12))
    with jax.enable_x64(True):
        data = Batches(make(form, (whole.x, whole.y)))
    assert len(data) == 12
    for size in (1, 4, 5, 12, 100):
        parts = list(chunks(data, size))
        reference = list(chunks(whole, size))
        assert [len(y) for _, y in parts] == [len(y) for _, y in reference]
        assert max(len(y) for _, y in parts) <= size
        for part, expected in zip(parts, reference, strict=True):
            jax.tree.map(np.testing.assert_array_equal, part, expected)
    np.testing.assert_array_equal(data.take_first(7).x, whole.x[:7])
    np.testing.assert_array_equal(data.example(), whole.x[0])
    assert data.to_dataset().fingerprint() == whole.fingerprint()
    # batch boundaries are no part of the content
    assert data.fingerprint() == Batches.of(whole, size=7).fingerprint()


def test_inputs_may_be_pytrees_and_names_are_kept():
    x = {"image": RNG.random((6, 3, 2)), "age": RNG.integers(0, 9, 6)}
    whole = Dataset(x, [0, 1, 2, 0, 1, 0], classes="abc", target="t", name="toy")
    data = Batches.of(whole, size=4)
    assert (data.classes, data.target, data.name) == (("a", "b", "c"), "t", "toy")
    assert data.to_dataset().fingerprint() == whole.fingerprint()
    assert data.to_dataset().classes == whole.classes
    assert data.label_counts() == {0: 3, 1: 2, 2: 1}
    assert repr(data) == "Batches('toy', 6 rows in 2 batches)"
    assert data.example()["image"].shape == (3, 2)
    moments, _ = data.moments()
    np.testing.assert_allclose(moments["image"].mean, x["image"].mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments["age"].mean, x["age"].mean(), rtol=1e-14)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_moments_scale_as_the_arrays_do(size):
    x = {
        "table": 1e3 + RNG.standard_normal((501, 3)).astype(np.float32),
        "image": RNG.integers(0, 255, (501, 4, 4, 1)).astype(np.uint8),
        "flat": np.full((501, 1), 0.1),
        "narrow": RNG.integers(-128, 127, 501).astype(np.int8),
    }
    for y in (5 + RNG.standard_normal(501), RNG.standard_normal((501, 2))):
        data = Batches.of(Dataset(x, y), size=size)
        by_array = Standardize().fit(x, y, continuous=True)
        by_moments = Standardize().fit(*data.moments(), continuous=True)
        # float64 rounding of 501 terms, relative to the largest of them
        for a, b in zip(
            jax.tree.leaves(by_array), jax.tree.leaves(by_moments), strict=True
        ):
            assert b.dtype == np.float64
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(by_moments.inputs(x)["flat"], 0.0)
        size_ = data.moments()[0]["narrow"].size
        assert size_ == np.abs(x["narrow"].astype(int)).max()
    codes = Standardize().fit(*data.moments(), continuous=False)
    assert codes.scale() == 1.0
    flat = Batches([(np.ones((2, 1)), [0.1, 0.1]), (np.ones((1, 1)), [0.1])])
    with pytest.raises(ValueError, match=r"constant target \(0.1 in all 3 rows"):
        Standardize().fit(*flat.moments(), continuous=True)


def test_a_few_rows_stand_for_all():
    y = np.array([2.0, -1.0, 7.0, 3.25, 4.0])
    data = Batches([(np.full(1, n), y[n : n + 1]) for n in range(5)], units="m")
    few = data.outline()
    assert few.y.tolist() == [-1.0, 7.0, 3.25]
    assert few.x.tolist() == [0, 0, 0]
    assert few.units == "m"
    two = Batches([(np.ones((5, 3)), np.stack([y, -y], 1))]).outline()
    assert two.x.shape == (3, 3)
    assert two.y[:, 1].tolist() == [-7.0, 1.0, -3.25]
    codes = Batches([(np.ones(2), [5, 1]), (np.ones(1), [5])], classes="abcdef")
    assert codes.outline().y.tolist() == [1, 5]
    images = Batches([(np.ones(2), np.array([[[5, 1]], [[1, 0]]]))])
    assert images.outline().y.tolist() == [[[0, 0]], [[1, 1]], [[5, 5]]]
    assert images.label_counts() == {0: 1, 1: 2, 5: 1}
    with pytest.raises(DataError, match="label_counts: expected class codes, came fl"):
        data.label_counts()


def test_passes_follow_each_other_without_end():
    data = Batches([(np.arange(3.0), np.arange(3.0)), (np.full(1, 3.0), [3.0])])
    cycle = data.cycle(3)
    seen = [next(cycle)[1].tolist() for _ in range(4)]
    assert seen == [[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]]
    cycle = data.cycle()
    assert [len(next(cycle)[1]) for _ in range(3)] == [3, 1, 3]
    # a chunk may be longer than a pass
    assert len(next(data.cycle(9))[1]) == 9


def test_one_batch_at_a_time():
    source = Loader(pairs([2] * 10))
    held = []

    def watched(batches, _):
        for batch in batches:
            held.append(source.passes)
            yield batch

    source.change = watched
    data = Batches(source)
    held.clear()
    for count, _ in enumerate(data, start=1):
        assert len(held) == count  # the next batch is not asked for ahead of time
    held.clear()
    for count, _ in enumerate(data.rechunk(4), start=1):
        assert len(held) == 2 * count


def one_shot(batches, passes):
    return batches if passes == 1 else []


CHANGES = {
    "exhausted": (one_shot, "expected .* 12 rows, came 0; give batches that repeat"),
    "ends early": (lambda b, n: b[: 4 - n], "12 rows, came 7;"),
    "longer": (lambda b, n: b * n, "12 rows, came 16 or more"),
    "reversed": (
        lambda b, n: b[:: 1 if n == 1 else -1],
        "same content, came other values, or another order, of x, y; .*shuffle=False",
    ),
    "other values": (
        lambda b, n: [(x, y + (n > 1) * 1e-15) for x, y in b],
        "another order, of y; give",
    ),
    "other shape": (
        lambda b, n: [(x[:, :n], y) for x, y in b],
        r"examples like x: float64 \(1,\), y: float64 \(\), came x: float64 \(2,\)",
    ),
    "other type": (
        lambda b, n: [(x if n == 1 else x.astype("f4"), y) for x, y in b],
        r"came x: float32 \(2,\)",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize(
    "read",
    [list, lambda d: list(d.rechunk(2)), lambda d: d.to_dataset()],
    ids=["pass", "chunks", "whole"],
)
def test_a_pass_that_differs_is_noticed(case, read):
    change, message = CHANGES[case]
    data = Batches(Loader(pairs(), change))
    with pytest.raises(BatchesChanged, match=message):
        read(data)


def test_other_batch_sizes_are_no_change():
    rows = joined(pairs())
    once = Batches.of(Dataset(*rows), size=12)
    source = Loader(None, lambda _, n: Batches.of(Dataset(*rows), size=n + 1))
    data = Batches(source)
    assert [len(y) for _, y in data] == [3, 3, 3, 3]
    assert data.fingerprint() == once.fingerprint()


NAN = np.array([[1.0, 0.0], [np.nan, 0.0]])
REFUSED = {
    "generator": (
        lambda: Batches(pair for pair in pairs()),
        "read again, came the one-shot iterator generator.*give a list, a Dataset",
    ),
    "zip": (lambda: Batches(zip([1], [2])), "one-shot iterator zip"),
    "number": (lambda: Batches(3), r"re-iterable of pairs \(x, y\), came int"),
    "text": (lambda: Batches("abc"), r"re-iterable of pairs \(x, y\), came str"),
    "dataset": (lambda: Batches(Dataset([1.0], [1.0])), r"use Batches.of\(dataset, s"),
    "nothing": (lambda: Batches([]), "at least one batch .* came none"),
    "array": (lambda: Batches(np.ones((4, 3))), r"batch 0: expected a pair .* ndarray"),
    "triples": (lambda: Batches([(1, 2, 3)]), r"pair \(x, y\), came tuple of 3"),
    "two arrays": (
        lambda: as_data((np.ones((4, 3)), np.ones(4))),
        r"one pair of arrays; give Dataset\(x, y\)",
    ),
    "split": (
        lambda: as_data(Split(d := Dataset([1.0, 2.0], [1.0, 2.0]), None, d)),
        "choose a part, such as split.train",
    ),
    "nan": (
        lambda: Batches([*pairs((2,)), (NAN, [1.0, 2.0])], features=("a", "b")),
        r"batch 1 \(counted from 0\): x: .* came nan in row 1, column 'a'",
    ),
    "rows differ": (
        lambda: Batches([(np.ones((2, 1)), np.ones(3))]),
        "batch 0 .*expected 3 rows, as y has, came 2",
    ),
    "shapes differ": (
        lambda: Batches([*pairs(), *pairs(d=3)]),
        r"batch 3 .*like those of batch 0, x: float64 \(2,\).* came x: float64 \(3,\)",
    ),
    "types differ": (
        lambda: Batches([*pairs(), *pairs(floats=False)]),
        r"y: float64 \(\), came .*y: int64 \(\); give every batch the same",
    ),
    "code beyond the names": (
        lambda: Batches([(np.ones(1), [0]), (np.ones(1), [2])], classes="ab"),
        "batch 1 .*class codes below 2",
    ),
    "one-hot": (
        lambda: Batches([(np.ones(1), [[0, 1]]), (np.ones(1), [[1, 0]])] * 10),
        r"came int64 of shape \(20, 2\) with a single 1 in each row; .*y.argmax",
    ),
    "known noise": (
        lambda: Batches.of(Dataset([1.0], [1.0], noise_scale=[1.0]), size=1),
        "without noise_scale, .* cannot carry",
    ),
    "size": (lambda: list(Batches(pairs()).rechunk(0)), "size of 1 row or more, came"),
    "first rows": (lambda: Batches(pairs()).take_first(13), "from 1 to 12, came 13"),
    "too large": (
        lambda: Batches(pairs()).to_dataset(most=287),
        r"at most 287 bytes, came 12 rows that take 288; allow .*most=288",
    ),
    "too large at the entrance": (lambda: as_dataset(Batches([])), "came none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case):
    make_, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        make_()
    assert not isinstance(caught.value, BatchesChanged)


def test_a_batch_of_several_labels_is_no_code():
    y = np.array([[0, 1, 0]] * 30 + [[1, 1, 0]])
    batches = Batches([(np.ones(30), y[:30]), (np.ones(1), y[30:])])
    assert len(batches) == len(batches.to_dataset()) == 31
    assert [len(y) for _, y in batches.rechunk(20)] == [16, 15]
    assert len(batches.take_first(30)) == 30


def test_at_the_entrance_of_a_method():
    data = Dataset([1.0], [1.0])
    assert as_data(data) is data
    assert as_dataset(data) is data
    batches = as_data(pairs())
    assert as_data(batches) is batches
    assert len(as_dataset(batches)) == 12
    with pytest.raises(AttributeError):
        batches.source = []  # pyright: ignore
