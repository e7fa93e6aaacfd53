"""Files as users have them: read rightly, or refused in one clear sentence."""

import importlib
import zipfile

import numpy as np
import pytest

from ntkuq.data import (
    DataError,
    DataWarning,
    as_classes,
    has_split,
    read,
    read_predictions,
    read_split,
)


reader = importlib.import_module("ntkuq.data.reader")
HOUSES = "rooms,age,price\n3,12,250\n4,30,310.5\n2,8,190\n"


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="houses.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


@pytest.fixture
def save(tmp_path):
    def to_file(name="set.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return to_file


MESSY = {
    "plain": HOUSES,
    "no newline at the end": HOUSES.rstrip("\n"),
    "windows": "\ufeff" + HOUSES.replace("\n", "\r\n") + "\r\n\r\n",
    "old mac": HOUSES.replace("\n", "\r"),
    "semicolons": HOUSES.replace(",", ";"),
    "tabs": HOUSES.replace(",", "\t"),
    "spaces": HOUSES.replace(",", " , ").replace("\n", " \n"),
    "quoted": '"rooms","age","price"\n"3","12","250"\n"4", "30","310.5"\n2,8,190\n',
    "signs": "rooms,age,price\n+3,1.2e1,250.\n4.0,30,3105e-1\n2,8,190\n",
    "empty lines": HOUSES.replace("\n", "\n\n") + "\n  \n",
    "rows of a spreadsheet": HOUSES + ",,\n,,\n",
}


@pytest.mark.parametrize("case", MESSY)
def test_tables_as_users_have_them(case, write):
    data = read(write(MESSY[case]), target="price")
    assert data.features == ("rooms", "age")
    assert data.x.tolist() == [[3, 12], [4, 30], [2, 8]]
    assert data.y.tolist() == [250, 310.5, 190]
    assert (data.target, data.name, data.classes) == ("price", "houses", None)


def test_quoted_names_and_commas(write):
    text = (
        '"area, m2";"price (EUR, net)";"site"\r\n'
        '10.5;"1";"North; old"\r\n20;2;South\r\n30;3;"North; old"\r\n'
    )
    data = read(write(text), target="price (EUR, net)", group="site")
    assert data.features == ("area, m2",)
    assert data.x.ravel().tolist() == [10.5, 20, 30]
    assert data.group.tolist() == [0, 1, 0]


def test_features_are_taken_in_the_order_given(write):
    data = read(write(HOUSES), target="price", features=["age", "rooms"])
    assert data.x[0].tolist() == [12, 3]
    # Columns that are not used may hold anything.
    text = ",id,rooms,price\n0,a7,3,250\n1,b2,4,310\n"
    assert read(write(text), target="price", features=["rooms"]).x.tolist() == [
        [3],
        [4],
    ]


def test_labels_become_codes_and_numbers_stay(write):
    text = "x,kind\n1,dog\n2,cat\n3,dog\n"
    data = read(write(text), target="kind")
    assert (data.y.tolist(), data.classes) == ([1, 0, 1], ("cat", "dog"))
    assert data.y.dtype == np.int64
    data = read(write("x,kind\n1,7\n2,3\n3,7\n"), target="kind")
    assert data.y.dtype == np.float64
    assert as_classes(data).classes == ("3", "7")


REFUSED = {
    "empty": ("", {}, r"expected a table or arrays, came an empty file"),
    "blank": ("\n \n", {}, r"names of columns in the first line, came an empty file"),
    "header only": ("a,price\n", {}, r"at least two rows .* came only the line of"),
    "one row": ("a,price\n1,2\n", {}, r"at least two rows .* came one row"),
    "ragged": (
        HOUSES + "5,1\n",
        {},
        r"line 5: expected 3 cells, as in the first line, came 2",
    ),
    "too wide": (HOUSES + "1,234,5,6\n", {}, r"line 5: expected 3 cells.*came 4; put"),
    "word": (
        HOUSES.replace("30", "old"),
        {},
        r"column 'age', line 3: .*came 'old'; .*choose other columns",
    ),
    "decimal comma": (
        HOUSES.replace(",", ";").replace("30", "30,5"),
        {},
        r"column 'age', line 3: .*came '30,5'; write decimals with a point",
    ),
    "underscore": (HOUSES.replace("30", "3_0"), {}, r"came '3_0'"),
    "empty cell": (
        HOUSES.replace("30", ""),
        {},
        r"column 'age', line 3: .*came an empty cell; fill the gap",
    ),
    "nan": (HOUSES.replace("30", "NaN"), {}, r"'age', line 3: .*'NaN'; fill the gap"),
    "NA in the target": (
        HOUSES.replace("190", "NA"),
        {},
        r"column 'price', line 4: expected a finite number, came 'NA'; fill",
    ),
    "inf": (HOUSES.replace("30", "inf"), {}, r"came 'inf'; correct the value"),
    "inf in the target": (HOUSES.replace("190", "-inf"), {}, r"'price', line 4"),
    "gap row in the middle": (
        HOUSES.replace("4,30,310.5", ",,"),
        {},
        r"column 'rooms', line 3: .*an empty cell",
    ),
    "bad number in the target": (
        HOUSES.replace("190", "ca. 190"),
        {},
        r"column 'price', line 4: expected a finite number, came 'ca. 190'",
    ),
    "mixed labels": (
        "a,price\n1,low\n2,high\n3,4\n",
        {},
        r"line 4: expected a class label of text, as in 2 of 3 rows, came the number",
    ),
    "free text": (
        "a,price\n" + "".join(f"{i},name {i}\n" for i in range(12)),
        {},
        r"came 12 different texts in 12 rows, such as 'name 0'",
    ),
    "no such target": (
        HOUSES,
        {"target": "Prices"},
        r"target column 'Prices', came no such column \(nearest: 'price'\); the col",
    ),
    "target not given": (
        HOUSES,
        {"target": None},
        r"expected target=.* the columns are 'rooms', 'age', 'price'",
    ),
    "same names": ("a,a,price\n1,2,3\n", {}, r"came 'a' 2 times; rename"),
    "nameless column": (
        ",a,price\n0,1,2\n1,2,3\n",
        {},
        r"a name for every column, came none for column 1 \(a row index\?\)",
    ),
    "no names": ("1,2\n3,4\n", {}, r"came numbers: '1', '2'; add a line of names"),
    "one column": ("price\n1\n2\n", {}, r"at least two columns separated by commas"),
    "other separator": ("a|price\n1|2\n", {}, r"came one: 'a\|price'"),
    "constant target": ("a,price\n1,2\n2,2.0\n", {}, r"two different values, came the"),
    "one class": ("a,price\n1,x\n2,x\n", {}, r"at least two different classes"),
    "leak": (
        "a,price,copy\n1,2,2.0\n2,3,3\n",
        {},
        r"came 'copy', which equals 'price' in every row",
    ),
    "unknown feature": (
        HOUSES,
        {"features": ["room"]},
        r"feature column 'room', came no such column \(nearest: 'rooms'\)",
    ),
    "target as feature": (
        HOUSES,
        {"features": ["age", "price"]},
        r"features other than the target, came 'price'",
    ),
    "feature twice": (HOUSES, {"features": ["age", "age"]}, r"each feature once"),
    "no feature": (HOUSES, {"features": []}, r"at least one feature besides"),
    "unknown group": (HOUSES, {"group": "site"}, r"group column 'site', came no such"),
    "group is target": (HOUSES, {"group": "price"}, r"came 'price' for both"),
    "group with gaps": (
        "a,site,price\n1,N,2\n2,,3\n",
        {"group": "site"},
        r"column 'site', line 3: expected a group label, came an empty cell",
    ),
    "open quote": (HOUSES + '"5,1,2\n', {}, r"line \d: expected cells with closed"),
    "latin-1": (b"a,price\n1,2\n\xe9,3\n", {}, r"UTF-8, came byte 0xe9 near line \d"),
    "utf-16": ("a,price\n1,2\n".encode("utf-16"), {}, r"binary data or UTF-16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case, write):
    content, arguments, message = REFUSED[case]
    path = write(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path, **{"target": "price", **arguments})
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_text_is_not_a_list_of_features(write):
    with pytest.raises(DataError, match=r"write features=\['age'\]"):
        read(write(HOUSES), target="price", features="age")


def test_files_that_cannot_be_read(write, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="came nothing there; check the path"):
        read(tmp_path / "none.csv", target="price")
    with pytest.raises(DataError, match="came a directory"):
        read(tmp_path, target="price")
    with pytest.raises(DataError, match=r"a .csv or .npz file, came .xlsx; export"):
        read(write("PK", "a.xlsx"), target="price")
    monkeypatch.setattr(reader, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="expected at most 10 bytes, came 44; take"):
        read(write(HOUSES), target="price")


def test_line_numbers_count_the_lines_of_the_file(write):
    text = 'note,a,price\n"two\nlines",1,2\n\nplain,x,3\n'
    with pytest.raises(DataError, match="column 'a', line 5"):
        read(write(text), target="price", features=["a"])


def test_npz_with_everything(save):
    path = save(
        x=np.arange(6.0).reshape(3, 2),
        y=np.array([1.0, 2.0, 4.0]),
        noise_scale=np.ones(3),
        weight=np.ones(3),
        group=np.array(["a", "b", "a"]),
        features=np.array(["u", "v"]),
        target="strain",
        units="mm",
    )
    data = read(path)
    assert (data.features, data.target, data.units) == (("u", "v"), "strain", "mm")
    assert data.group.tolist() == [0, 1, 0]
    assert data.noise_scale.tolist() == [1, 1, 1]
    assert read(path, features=["v"]).x.ravel().tolist() == [1, 3, 5]
    assert not has_split(path)


def test_npz_with_its_own_test_rows(save):
    path = save(
        x=np.arange(4.0),
        y=np.array(["no", "yes", "no", "no"]),
        x_test=np.arange(2.0),
        y_test=np.array(["yes", "no"]),
    )
    assert has_split(path)
    split = read_split(path)
    assert split.calibrate is None
    assert split.train.classes == split.test.classes == ("no", "yes")
    assert split.test.y.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"holds x_test.*read_split"):
        read(path)


X, Y = np.arange(3.0), np.array([1.0, 2.0, 4.0])
REFUSED_ARRAYS = {
    "no y": ({"x": X}, {}, r"expected an array 'y', came no such array.*are 'x'"),
    "pickled": (
        {"x": np.array([1, "a", None], dtype=object), "y": Y},
        {},
        r"came pickled Python objects in 'x'; convert it, .*x.astype\(float\)",
    ),
    "nan": ({"x": X * np.nan, "y": Y}, {}, r"set.npz: x: expected finite numbers"),
    "constant": ({"x": X, "y": np.ones(3)}, {}, r"two different values"),
    "leak": ({"x": np.stack([X, Y], 1), "y": Y}, {}, r"came 'column 1', which equals"),
    "counts from 1": (
        {"x": X, "y": np.array([1, 2, 3])},
        {},
        r"class codes 0..K-1 in an integer y, came integers from 1 to 3; for reg",
    ),
    "label unknown": (
        {"x": X, "y": np.array(["a", "b", "c"]), "classes": np.array(["a", "b"])},
        {},
        r"labels among classes, 'a', 'b', came 'c'",
    ),
    "no names": ({"x": X, "y": Y}, {"features": ["u"]}, r"an array 'features' with a"),
    "no group": ({"x": X, "y": Y}, {"group": "site"}, r"expected an array 'site'"),
    "one row": ({"x": X[:1], "y": Y[:1]}, {}, r"at least two rows in x, came one"),
}


@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_arrays_refused_with_a_reason(case, save):
    arrays, arguments, message = REFUSED_ARRAYS[case]
    with pytest.raises(DataError, match=message):
        read(save(**arrays), **arguments)


def test_arrays_that_are_not_used_are_named(save):
    with pytest.warns(DataWarning, match=r"not used: 'noise_scales'"):
        read(save(x=X, y=Y, noise_scales=Y))


def test_split_needs_its_parts(save, write):
    with pytest.raises(DataError, match=r"x_test and y_test, came 'x', 'y'"):
        read_split(save(x=X, y=Y))
    with pytest.raises(DataError, match=r"expected an array 'y_test'"):
        read_split(save(x=X, y=Y, x_test=X))
    with pytest.raises(DataError, match=r"\(test\): x: expected finite"):
        read_split(save(x=X, y=Y, x_test=X * np.nan, y_test=Y))
    with pytest.raises(DataError, match=r"came a .csv file"):
        read_split(write(HOUSES))


def test_damaged_archives(save, write, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"expected an .npz file, came something else"):
        read(write(b"\x80\x04pickle", "set.npz"))
    path = save(x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 1
    with pytest.raises(DataError, match=r"expected a readable array 'x'"):
        read(write(bytes(content), "set.npz"))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("x.txt", "hello")
    with pytest.raises(DataError, match=r"expected only arrays, came other bytes"):
        read(tmp_path / "other.npz")
    monkeypatch.setattr(importlib.import_module("ntkuq.data.npz"), "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"at most 100 bytes of arrays, came"):
        read(save(x=X, y=Y))


PREDICTIONS = """truth,mu,sd,s_0,s_1,p_cat,p_dog,kind
1,2,3,4,5,0.3,0.7,dog
6,7,8,9,10,1,0,cat
"""


def test_predictions_in_three_forms(write):
    path = write(PREDICTIONS)
    normal = read_predictions(path, y="truth", mean="mu", std="sd")
    assert {k: v.tolist() for k, v in normal.items()} == {
        "y": [1, 6],
        "mean": [2, 7],
        "std": [3, 8],
    }
    drawn = read_predictions(path, y="truth", samples="s_")
    assert drawn["samples"].tolist() == [[4, 9], [5, 10]]
    for prob in ("p_", "p"):
        classes = read_predictions(path, y="kind", prob=prob)
        assert classes["classes"].tolist() == ["cat", "dog"]
        assert classes["y"].tolist() == [1, 0]
        assert classes["prob"].tolist() == [[0.3, 0.7], [1, 0]]
    listed = write("a,b,t\n.333,.667,1\n.5,.5,0\n.2,.801,1\n")
    found = read_predictions(listed, y="t", prob=["a", "b"])
    assert found["y"].tolist() == [1, 0, 1]
    np.testing.assert_allclose(found["prob"].sum(axis=1), 1, atol=1e-15)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (
            "y,m,s\n1,2,3\n1,2,0\n",
            {"mean": "m", "std": "s"},
            r"column 's', line 3: expected a standard deviation above 0, came 0",
        ),
        (
            "y,m,s\n1,2,3\n1,x,1\n",
            {"mean": "m", "std": "s"},
            r"column 'm', line 3: expected a finite number, came 'x'",
        ),
        ("y,m,s\n1,2,3\n", {"mean": "mu", "std": "s"}, r"mean column 'mu', came no"),
        ("y,p0,p1\n0,.5,.4\n1,.5,.5\n", {"prob": "p"}, r"line 2: .* a sum of 0.9"),
        ("y,p0,p1\n0,.5,.5\n1,2,-1\n", {"prob": "p"}, r"line 3: .*\[2.0, -1.0\]; give"),
        ("y,p0,p1\n0,.5,.5\n2,.5,.5\n", {"prob": "p"}, r"classes '0', '1', came '2'"),
        ("y,p1,p2\n1,.5,.5\n0,.5,.5\n", {"prob": "p"}, r"classes '1', '2', came '0'"),
        ("y,p0,q1\n0,.5,.5\n2,.5,.5\n", {"prob": "p"}, r"two or more prob columns"),
    ],
)
def test_predictions_refused(text, arguments, message, write):
    with pytest.raises(DataError, match=message):
        read_predictions(write(text), y="y", **arguments)


@pytest.mark.parametrize(
    "arguments", [{}, {"mean": "m"}, {"std": "s"}, {"mean": "m", "prob": "p"}]
)
def test_predictions_in_one_form_only(arguments, write):
    with pytest.raises(TypeError, match="expected one form of prediction"):
        read_predictions(write(PREDICTIONS), y="truth", **arguments)


def test_predictions_come_as_csv(save):
    with pytest.raises(DataError, match=r"a .csv file of predictions, came '.npz'"):
        read_predictions(save(x=X), y="y", samples="s")
