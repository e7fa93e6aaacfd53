"""Data sets by name, each file verified against its SHA-256 before it is read."""

import dataclasses
import hashlib
import os
import warnings
from importlib import resources
from pathlib import Path

import numpy as np

from ntkuq.data.dataset import Dataset, Split
from ntkuq.data.errors import DataError, DataWarning, nearest
from ntkuq.data.npz import unpack


_VARIABLE = "NTKUQ_DATA"
_TEST_FRACTION = 0.3


@dataclasses.dataclass(frozen=True)
class SetInfo:
    """What is known about a named data set without opening its file.

    Args:
        name: the name that `load` takes.
        file: file in the package (`shipped`) or below the directory of `NTKUQ_DATA`.
        sha256, size: digest and number of bytes of the file.
        rows, columns: shape of its inputs, before rows with gaps are dropped.
        title, origin: what it is and where it was published.
        splits: number of train/test splits.
        features, target, units: names, where the source gives them.
        classes: names of the classes, or `None` for regression.
        scale: inputs are divided by this.
        shipped: whether the file is part of the package.
        terms: license of a shipped file.
    """

    name: str
    file: str
    sha256: str
    size: int
    rows: int
    columns: int
    title: str
    origin: str
    splits: int = 20
    features: tuple[str, ...] | None = None
    target: str | None = None
    units: str | None = None
    classes: tuple[str, ...] | None = None
    scale: float = 1.0
    shipped: bool = False
    terms: str | None = None


def _uci(dataset: str) -> str:
    return f"UCI Machine Learning Repository, https://archive.ics.uci.edu ({dataset})"


_SETS = (
    SetInfo(
        "concrete",
        "concrete.npz",
        "236f8e48c63ae54ea1fdc23b21396670677c5f6a4eae19cc75861cee7c49b591",
        63259,
        1030,
        8,
        "compressive strength of concrete from its recipe and age",
        _uci("Concrete Compressive Strength"),
        features=(
            "cement",
            "slag",
            "fly ash",
            "water",
            "superplasticizer",
            "coarse aggregate",
            "fine aggregate",
            "age",
        ),
        target="strength",
        units="MPa",
        shipped=True,
        terms="CC BY 4.0",
    ),
    SetInfo(
        "digits",
        "digits.npz",
        "f10b077e7e3037d11006b85b6b71a63e15b2bf746d91c4e4122e42d304e5e54b",
        45375,
        1797,
        64,
        "handwritten digits, 8 x 8 grey levels in 0..1",
        _uci("Optical Recognition of Handwritten Digits"),
        features=tuple(f"pixel {i // 8},{i % 8}" for i in range(64)),
        target="digit",
        classes=tuple("0123456789"),
        scale=16.0,
        shipped=True,
        terms="CC BY 4.0",
    ),
    SetInfo(
        "boston",
        "uci/boston.npz",
        "d9e35d98c9fe57201918a6a528acf3ae4ae02c91d270b8b17b413e1d311504c3",
        45142,
        506,
        13,
        "median house values in Boston; one feature is ethically contested",
        "Harrison and Rubinfeld 1978, StatLib, http://lib.stat.cmu.edu/datasets/boston",
        features=(
            *("crim", "zn", "indus", "chas", "nox", "rm", "age"),
            *("dis", "rad", "tax", "ptratio", "b", "lstat"),
        ),
        target="medv",
        units="1000 USD",
    ),
    SetInfo(
        "energy",
        "uci/energy.npz",
        "2c825e7b341fda0ff1edb496302da1e1c4bab4047f1d244e18f7da9106f6b339",
        44247,
        768,
        8,
        "heating load of simulated buildings",
        _uci("Energy Efficiency"),
        features=(
            "relative compactness",
            "surface area",
            "wall area",
            "roof area",
            "overall height",
            "orientation",
            "glazing area",
            "glazing area distribution",
        ),
        target="heating load",
        units="kWh/m^2",
    ),
    SetInfo(
        "power",
        "uci/power.npz",
        "acb19cfeeca89d788235dd8ec60beb23cfe53b31f3f6ec4e72281b78de35d5ac",
        606875,
        9568,
        4,
        "hourly output of a combined cycle power plant",
        _uci("Combined Cycle Power Plant"),
        features=("temperature", "exhaust vacuum", "pressure", "humidity"),
        target="output",
        units="MW",
    ),
    SetInfo(
        "protein",
        "uci/protein.npz",
        "7148a086ba41724f8f72988e4f9d89757a984924141b935850e495e2997e71e1",
        2669041,
        45730,
        9,
        "deviation of predicted protein structures",
        _uci("Physicochemical Properties of Protein Tertiary Structure"),
        splits=5,
        features=tuple(f"F{i}" for i in range(1, 10)),
        target="RMSD",
        units="angstrom",
    ),
    SetInfo(
        "wine",
        "uci/wine.npz",
        "33efaa7be9e00d3b395611669b300f4d98b6c26e37a038ee16fcbfcf161cd7f5",
        110421,
        1599,
        11,
        "tasters' quality of red wine",
        _uci("Wine Quality"),
        features=(
            "fixed acidity",
            "volatile acidity",
            "citric acid",
            "residual sugar",
            "chlorides",
            "free sulfur dioxide",
            "total sulfur dioxide",
            "density",
            "pH",
            "sulphates",
            "alcohol",
        ),
        target="quality",
    ),
    SetInfo(
        "yacht",
        "uci/yacht.npz",
        "2e99195e285a69b31c1d59f1c99616ea327707277d88df7f852c47cc0bc78e29",
        23210,
        308,
        6,
        "hydrodynamic resistance of sailing yachts",
        _uci("Yacht Hydrodynamics"),
        features=(
            "position of center of buoyancy",
            "prismatic coefficient",
            "length-displacement ratio",
            "beam-draught ratio",
            "length-beam ratio",
            "Froude number",
        ),
        target="residuary resistance",
    ),
    SetInfo(
        "banknote",
        "uci_classification/banknote.npz",
        "77cbd33823a0446dce925d4072e1bfa56421dff7443fa10427703ffb3a801ab2",
        26439,
        1372,
        4,
        "genuine and forged banknotes",
        _uci("Banknote Authentication"),
        classes=("0", "1"),
    ),
    SetInfo(
        "breast_cancer",
        "uci_classification/breast_cancer.npz",
        "5e5451381e154b4b451e90e7b9c9135c6390e1ef0ab755fc53faf904964bdec4",
        4286,
        699,
        9,
        "benign (2) and malignant (4) tumors, Wisconsin original",
        _uci("Breast Cancer Wisconsin (Original)"),
        classes=("2", "4"),
    ),
    SetInfo(
        "glass",
        "uci_classification/glass.npz",
        "ed6e5fcb434c0beeb3aae8c79ffd8e96312f95e161958be3406e8321e137836a",
        5692,
        214,
        9,
        "types of glass from their composition",
        _uci("Glass Identification"),
        classes=("1", "2", "3", "5", "6", "7"),
    ),
    SetInfo(
        "ionosphere",
        "uci_classification/ionosphere.npz",
        "a7ec6deb276375b85e4c0f9be5731bbda555845271bdb2d0a44d78aad25dc71a",
        41862,
        351,
        34,
        "bad and good radar returns",
        _uci("Ionosphere"),
        classes=("b", "g"),
    ),
    SetInfo(
        "iris",
        "uci_classification/iris.npz",
        "cfad2852bbcac105fbab526ea1335b6f5549436261182de6a97efcac61960127",
        1580,
        150,
        4,
        "species of iris",
        _uci("Iris"),
        features=("sepal length", "sepal width", "petal length", "petal width"),
        target="species",
        classes=("Iris-setosa", "Iris-versicolor", "Iris-virginica"),
    ),
    SetInfo(
        "mammography",
        "uci_classification/mammography.npz",
        "8a118a1b2eb151b8b4e1ed11ef95b7f8d74f17aa53d4bf6aa34e80d03e3178b3",
        202436,
        11183,
        6,
        "microcalcifications, 2 % positive",
        "Woods et al. 1993, OpenML data set 310, https://www.openml.org/d/310",
        classes=("-1", "1"),
    ),
    SetInfo(
        "phoneme",
        "uci_classification/phoneme.npz",
        "aa29a44b7bbaa84e23f3593bb3b0a4ea7de8c1229611a1305acbfb9eb61cc01c",
        66298,
        5404,
        5,
        "nasal and oral vowels",
        "ELENA project, OpenML data set 1489, https://www.openml.org/d/1489",
        classes=("0", "1"),
    ),
    SetInfo(
        "pima",
        "uci_classification/pima.npz",
        "f2bb1ee7fc4acea49127a9586762cd552f44d1c2b56061dc9e1753dc58d8f3ef",
        12715,
        768,
        8,
        "onset of diabetes; zeros stand for missing values",
        "National Institute of Diabetes and Digestive and Kidney Diseases, OpenML "
        "data set 37, https://www.openml.org/d/37",
        classes=("0", "1"),
    ),
    SetInfo(
        "seeds",
        "uci_classification/seeds.npz",
        "63731758a501e16ba17669bb22d8ff417a854ff2d4eecf5599cec2909be44db4",
        5923,
        210,
        7,
        "varieties of wheat from the shape of their kernels",
        _uci("Seeds"),
        classes=("1", "2", "3"),
    ),
    SetInfo(
        "sonar",
        "uci_classification/sonar.npz",
        "3d8ffba42fd7302765d7551dc01dbfac6d3e3e2424b988c0af9a82705954069f",
        36515,
        208,
        60,
        "sonar echoes of mines and rocks",
        _uci("Connectionist Bench: Sonar, Mines vs. Rocks"),
        classes=("M", "R"),
    ),
    SetInfo(
        "wine_cultivars",
        "uci_classification/wine.npz",
        "e603b8a6e0b31704ecf7d5e2b9076d17dda22dcd95dab7c9a72d101252c88a6c",
        6136,
        178,
        13,
        "cultivars from the chemistry of the wine",
        _uci("Wine"),
        classes=("1", "2", "3"),
    ),
)
_BY_NAME = {entry.name: entry for entry in _SETS}


def names() -> tuple[str, ...]:
    """The names that `load` knows; those shipped in the package come first.

    >>> names()[:3]
    ('concrete', 'digits', 'boston')
    """
    return tuple(_BY_NAME)


def info(name: str) -> SetInfo:
    """Size, origin, digest and names of a data set; no file is opened.

    Raises:
        DataError: for an unknown name, with the nearest known one.

    >>> info("concrete").rows, info("concrete").units
    (1030, 'MPa')
    """
    if name not in _BY_NAME:
        raise DataError(
            f"expected the name of a data set, came {name!r}{nearest(name, _BY_NAME)}; "
            f"known are {', '.join(_BY_NAME)}; files of your own open with "
            "ntkuq.data.read(path, target=...), images with ntkuq.data.load_images"
        )
    return _BY_NAME[name]


def load(name: str, *, split: int = 0) -> Split:
    """A data set by name, split into train and test.

    `concrete` and `digits` are part of the package. The others are looked for below
    the directory named by the environment variable `NTKUQ_DATA`, as
    `uci/<name>.npz` and `uci_classification/<name>.npz`. Regression sets come with
    the standard splits of Hernández-Lobato and Adams (2015): 90 % train, 10 % test.
    Classification sets are split 70 % to 30 % within every class, by a fixed rule
    that the number of the split enters. Values are as published, nothing is scaled
    (only the grey levels of `digits` are divided by 16).

    Args:
        name: one of `names()`.
        split: number of the split, from 0; see `info(name).splits`.

    Returns:
        a `Split` whose `calibrate` is `None`.

    Raises:
        DataError: for an unknown name or split, and for a file that is absent or
            differs from the published one.

    Warns:
        DataWarning: when rows with missing values were dropped.

    >>> data = load("concrete", split=3)
    >>> len(data.train), len(data.test), data.train.target
    (927, 103, 'strength')

    References: J. M. Hernández-Lobato and R. P. Adams, Probabilistic backpropagation
    for scalable learning of Bayesian neural networks, ICML 2015.
    """
    entry = info(name)
    if not 0 <= split < entry.splits:
        raise DataError(
            f"{name}: expected a split from 0 to {entry.splits - 1}, came {split}"
        )
    arrays = unpack(_verified(entry), name)
    x, y = arrays["x"], arrays["y"]
    if x.shape != (entry.rows, entry.columns) or y.shape != (entry.rows,):
        raise DataError(
            f"{name}: expected x of shape ({entry.rows}, {entry.columns}) with as many "
            f"targets, came {x.shape} and {y.shape}; fetch the file again"
        )
    x = x.astype(np.float64) / entry.scale
    if entry.classes is None:
        train, test = arrays[f"split_{split}_train"], arrays[f"split_{split}_test"]
    else:
        y = y.astype(np.int64)
        whole = np.isfinite(x).all(axis=1)
        if not whole.all():
            warnings.warn(
                f"{name}: {int((~whole).sum())} of {entry.rows} rows hold missing "
                "values and were dropped",
                DataWarning,
                stacklevel=2,
            )
        x, y = x[whole], y[whole]
        train, test = _stratified(y, split)
    data = Dataset(
        x,
        y,
        features=entry.features,
        target=entry.target,
        classes=entry.classes,
        units=entry.units,
        name=name,
    )
    return Split(data.take(train), None, data.take(test))


def _verified(entry: SetInfo) -> bytes:
    """The bytes of the file, once their size and SHA-256 are those on record."""
    if entry.shipped:
        path = resources.files(__package__).joinpath("sets", entry.file)
        repair = "reinstall ntkuq"
    else:
        path = _outside(entry)
        repair = f"fetch it again from its source: {entry.origin}"
        if path.stat().st_size != entry.size:
            raise DataError(
                f"{path}: expected {entry.size} bytes, came {path.stat().st_size}; "
                f"{repair}"
            )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256:
        raise DataError(
            f"{path}: expected SHA-256 {entry.sha256}, came {digest}: the file is "
            f"damaged or another version; {repair}"
        )
    return content


def _outside(entry: SetInfo) -> Path:
    shipped = ", ".join(known.name for known in _SETS if known.shipped)
    advice = (
        f"{entry.name} is not part of the package (shipped are {shipped}); set the "
        f"environment variable {_VARIABLE} to a directory that holds {entry.file}. "
        f"Original source: {entry.origin}"
    )
    root = os.environ.get(_VARIABLE)
    if not root:
        raise DataError(
            f"expected {entry.file} below the directory in {_VARIABLE}, came no such "
            f"variable; {advice}"
        )
    path = Path(root).expanduser() / entry.file
    if not path.is_file():
        raise DataError(f"expected the file {path}, came nothing there; {advice}")
    return path


def _stratified(y: np.ndarray, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a 70/30 split within every class, in the order of the file.

    Rows are ranked by the raw bits of PCG64, a stream that NumPy promises to keep.
    """
    rank = np.random.PCG64(split).random_raw(len(y))
    test = []
    for code in np.unique(y):
        rows = np.flatnonzero(y == code)
        order = rows[np.argsort(rank[rows], kind="stable")]
        test.append(order[: round(_TEST_FRACTION * len(rows))])
    chosen = np.zeros(len(y), dtype=bool)
    chosen[np.concatenate(test)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
