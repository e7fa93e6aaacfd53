"""`Dataset` and `Split`: what they keep, what they refuse, and in which words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Batches, DataError, Dataset, Split, as_classes, constant_features


def small(n=12, d=3, **kwargs):
    rng = np.random.default_rng(0)
    return Dataset(rng.normal(size=(n, d)), rng.normal(size=n), **kwargs)


def with_bad(value, row=2, column=1):
    x = np.ones((4, 3))
    x[row, column] = value
    return x


REFUSED = {
    "nan in a named column": (
        lambda: Dataset(with_bad(np.nan), np.arange(4.0), features=("a", "age", "c")),
        r"x: expected finite numbers, came nan in row 2, column 'age'.*; remove or",
    ),
    "inf in a nameless column": (
        lambda: Dataset(with_bad(-np.inf), np.arange(4.0)),
        r"came -inf in row 2, column 1 \(counted from 0\)",
    ),
    "several bad entries": (
        lambda: Dataset(np.full((4, 2), np.nan), np.arange(4.0)),
        r"row 0, column 0 \(counted from 0; 7 more such entries\)",
    ),
    "nan in an image": (
        lambda: Dataset(np.full((4, 2, 2), np.nan), np.arange(4.0)),
        r"row 0, position \(0, 0\)",
    ),
    "nan in a pytree": (
        lambda: Dataset({"a": np.ones(4), "b": np.full(4, np.nan)}, np.arange(4.0)),
        r"x\['b'\]: expected finite numbers",
    ),
    "nan in y": (
        lambda: Dataset(np.ones(3), [1.0, np.nan, 2.0], target="price"),
        r"y: expected finite numbers, came nan in row 1, column 'price'",
    ),
    "rows differ": (
        lambda: Dataset(np.ones((3, 2)), np.ones(4)),
        r"x: expected 4 rows, as y has, came 3; give one row",
    ),
    "no rows": (
        lambda: Dataset(np.ones((0, 2)), np.ones(0)),
        r"at least one row, came shape \(0,\)",
    ),
    "no columns": (
        lambda: Dataset(np.ones((3, 0)), np.ones(3)),
        r"x: expected at least one column, came shape \(3, 0\)",
    ),
    "ragged rows": (
        lambda: Dataset([[1.0], [1.0, 2.0]], [0.0, 1.0]),
        r"x: expected an array, came rows of unequal length",
    ),
    "text features": (
        lambda: Dataset(np.array(["a", "b"]), [0.0, 1.0]),
        r"x: expected numbers .* came <U1 .*encode text",
    ),
    "text labels": (
        lambda: Dataset(np.ones(2), ["cat", "dog"]),
        r"y: expected numbers, came text \(\['cat'\]\); give integer class codes",
    ),
    "complex y": (
        lambda: Dataset(np.ones(2), [1j, 2j]),
        r"came complex128 of shape \(2,\)",
    ),
    "scalar y": (lambda: Dataset(np.ones(2), 1.0), r"came float64 of shape \(\)"),
    "negative code": (
        lambda: Dataset(np.ones(2), [0, -1]),
        r"class codes from 0, came -1 in row 1; renumber",
    ),
    "code beyond the names": (
        lambda: Dataset(np.ones(2), [0, 2], classes=("a", "b")),
        r"class codes below 2, .* came 2 in row 1",
    ),
    "names for floats": (
        lambda: Dataset(np.ones(2), [0.0, 1.0], classes=("a", "b")),
        r"expected integer class codes, since classes are named",
    ),
    "one-hot": (
        lambda: Dataset(np.ones(20), np.eye(2, dtype=int)[np.arange(20) % 2]),
        r"for one-hot rows give y.argmax",
    ),
    "feature names short": (
        lambda: Dataset(np.ones((2, 2)), np.ones(2), features=("a",)),
        r"expected 2 names, one for each column of x, came 1: 'a'",
    ),
    "feature names twice": (
        lambda: Dataset(np.ones((2, 2)), np.ones(2), features=("a", "a")),
        r"expected different names",
    ),
    "feature names of images": (
        lambda: Dataset(np.ones((2, 2, 2)), np.ones(2), features=("a", "b")),
        r"only with x of shape \(N, D\)",
    ),
    "zero noise": (
        lambda: small(noise_scale=np.arange(12.0)),
        r"standard deviations above 0, came 0.0 in row 0",
    ),
    "common noise": (
        lambda: small(noise_scale=0.1),
        r"noise_scale: .* came float64 of shape \(\); .*Gaussian\(scale=\)",
    ),
    "noise of classes": (
        lambda: Dataset(np.ones(2), [0, 1], noise_scale=[1.0, 1.0]),
        r"noise_scale: expected only with float targets",
    ),
    "negative weight": (
        lambda: small(weight=np.linspace(-1, 1, 12)),
        r"weights of 0 or more, came -1.0 in row 0",
    ),
    "zero weights": (lambda: small(weight=np.zeros(12)), r"came only zeros"),
    "short group": (lambda: small(group=[1, 2]), r"group: .* shape \(12,\)"),
    "float group": (lambda: small(group=np.ones(12)), r"group: .* came float64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case):
    make, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        make()


def test_few_rows_of_several_labels_are_no_codes():
    y = np.array([[0, 1, 0], [1, 1, 0]] * 20)
    data = Dataset(np.arange(40.0), y)
    part = data.take(np.arange(0, 40, 2))  # all of them look one-hot
    assert part.y.sum() == len(part) == 20
    assert len(part.with_inputs(np.ones(20))) == len(part.take([0])) * 20
    assert len(Batches.of(part, size=4)) == len(Batches.of(data, size=1).outline()) * 10
    assert len(Dataset(np.ones(3), y[::2][:3])) == 3


def test_arrays_stay_on_the_host_with_their_dtype():
    data = Dataset(
        {"a": jnp.ones((2, 3)), "tokens": np.zeros((2, 5), np.int32)}, [True, False]
    )
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(data))
    assert data.x["a"].dtype == np.float32
    assert data.x["tokens"].dtype == np.int32
    assert data.y.dtype == np.int64
    assert data.y.tolist() == [1, 0]


def test_immutable_and_a_pytree():
    data = small(features=("a", "b", "c"), group=["x"] * 6 + ["y"] * 6)
    with pytest.raises(AttributeError):
        data.y = np.zeros(12)  # pyright: ignore
    assert float(eqx.filter_jit(lambda d: d.y.sum())(data)) == pytest.approx(
        data.y.sum(), rel=1e-5
    )
    assert data.group.tolist() == [0] * 6 + [1] * 6


def test_take_keeps_everything_in_order():
    data = small(
        noise_scale=np.arange(1.0, 13.0),
        group=np.arange(12),
        weight=np.arange(12.0),
        features=("a", "b", "c"),
        target="t",
        units="m",
        name="toy",
    )
    part = data.take([5, 1])
    assert part.group.tolist() == [5, 1]
    assert part.noise_scale.tolist() == [6.0, 2.0]
    assert part.weight.tolist() == [5.0, 1.0]
    assert (part.features, part.target, part.units, part.name) == (
        ("a", "b", "c"),
        "t",
        "m",
        "toy",
    )
    np.testing.assert_array_equal(part.x, data.x[[5, 1]])
    assert data.take(data.group > 9).group.tolist() == [10, 11]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "at least one row number"),
        ([0.5], "came float64"),
        ([12], "below 12, came 12 to 12"),
        (np.zeros(12, bool), "a mask of shape .12,. that keeps a row"),
        (np.ones(3, bool), "came bool of shape"),
    ],
)
def test_take_refuses(indices, message):
    with pytest.raises(DataError, match=message):
        small().take(indices)


@pytest.mark.parametrize(
    ("n", "sizes", "expected"),
    [
        (10, {"train": 0.7, "test": 0.3}, (7, 0, 3)),
        (10, {"train": 0.6, "calibrate": 0.2, "test": 0.2}, (6, 2, 2)),
        (101, {"train": 1 / 3, "calibrate": 1 / 3, "test": 1 / 3}, (33, 34, 34)),
        (10, {"train": 7, "test": 3}, (7, 0, 3)),
        (10, {"train": 5, "calibrate": 4, "test": 1}, (5, 4, 1)),
    ],
)
def test_split_holds_every_row_once(n, sizes, expected, getkey):
    data = Dataset(np.arange(float(n)), np.arange(float(n)), group=np.arange(n))
    parts = data.split(**sizes, key=getkey())
    held = [p for p in (parts.train, parts.calibrate, parts.test) if p is not None]
    assert (len(parts.train), len(parts.calibrate or ()), len(parts.test)) == expected
    rows = np.concatenate([part.group for part in held])
    assert sorted(rows) == list(range(n))
    assert all((part.x == part.group).all() for part in held)
    assert (parts.calibrate is None) == (expected[1] == 0)


def test_split_follows_the_key():
    data = small(40)
    a, b, c = (
        data.split(train=0.5, test=0.5, key=jax.random.key(k)) for k in (0, 0, 1)
    )
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 0.7, "test": 0.2}, r"fractions that sum to 1.*sum 0.9"),
        ({"train": 7, "test": 2}, r"numbers of rows that sum to 12.*sum 9"),
        ({"train": 1.0, "test": 0.0}, r"expected a row for train, for test"),
        ({"train": 0.5, "calibrate": 0.01, "test": 0.49}, r"calibrate where asked"),
        ({"train": -0.5, "test": 1.5}, r"sizes of 0 or more"),
        ({"train": float("nan"), "test": 0.5}, r"sizes of 0 or more"),
    ],
)
def test_split_refuses(sizes, message, getkey):
    with pytest.raises(DataError, match=message):
        small().split(**sizes, key=getkey())


def test_parts_must_agree():
    with pytest.raises(DataError, match=r"test: expected the input shapes of train"):
        Split(small(), None, small(d=2))
    with pytest.raises(DataError, match=r"calibrate: expected the feature names"):
        Split(small(), small(features=("a", "b", "c")), small())
    with pytest.raises(DataError, match=r"test: expected the kind of target"):
        Split(small(), None, Dataset(np.ones((2, 3)), [0, 1]))


def test_fingerprint_sees_one_bit_and_not_the_layout():
    data = small()
    flipped = data.x.copy()
    flipped.view(np.uint64)[3, 1] ^= 1
    assert Dataset(flipped, data.y).fingerprint() != data.fingerprint()
    swapped = data.x.astype(">f8", order="F")
    assert Dataset(swapped, data.y, name="b").fingerprint() == data.fingerprint()


def test_fingerprint_sees_shape_dtype_and_role():
    x, y = np.zeros((4, 2)), np.ones(4)
    prints = {
        Dataset(x, y).fingerprint(),
        Dataset(x.reshape(4, 1, 2), y).fingerprint(),
        Dataset(x.astype(np.float32), y).fingerprint(),
        Dataset(x, y, weight=y).fingerprint(),
        Dataset(x, y, noise_scale=y).fingerprint(),
        Dataset({"a": x}, y).fingerprint(),
    }
    assert len(prints) == 6


def test_constant_features():
    wobble = 0.1 + np.array([0.0, 1.0, 2.0]) * np.spacing(0.1)
    x = np.stack([wobble, [1.0, 1.0, 1.0 + 1e-9], np.zeros(3), [5.0, 6.0, 7.0]], 1)
    assert constant_features(Dataset(x, np.arange(3.0))) == ("column 0", "column 2")
    named = Dataset(x, np.arange(3.0), features=tuple("abcd"))
    assert constant_features(named) == ("a", "c")
    tree = Dataset({"u": np.ones((3, 1), int), "v": x[:, 3]}, np.arange(3.0))
    assert constant_features(tree) == ("x['u'] column 0",)
    assert constant_features(Dataset(np.ones((3, 2, 2)), np.arange(3.0))) == ()


def test_as_classes():
    coded = as_classes(Dataset([1, 2, 3], [9.0, -2.0, 9.0]))
    assert (coded.y.tolist(), coded.classes) == ([1, 0, 1], ("-2", "9"))
    assert coded.y.dtype == np.int64
    assert as_classes(coded) is coded


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, 1.5], r"whole numbers as class labels, came 1.5 in row 1"),
        ([2.0, 2.0], r"at least two classes, came only 2"),
        ([[0.0], [1.0]], r"one column of class labels"),
    ],
)
def test_as_classes_refuses(y, message):
    with pytest.raises(DataError, match=message):
        as_classes(Dataset(np.ones(2), y))
