"""Images with classes by name, each file verified before it is read."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from pathlib import Path

import numpy as np

from ntkuq.data.dataset import Dataset, Split
from ntkuq.data.errors import DataError, nearest


_VARIABLE = "NTKUQ_DATA"
#: SHA-256 of each file.
FILES = {
    "mnist/train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "mnist/train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "mnist/t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "mnist/t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
    "fashion_mnist/train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "fashion_mnist/train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "fashion_mnist/t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    "fashion_mnist/t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
    "cifar10/train.npz": (
        "5add53ee694aebaff6c5ccce3dcf15e1d23fda53cccda84cd4cc8836ef36e50d"
    ),
    "cifar10/test.npz": (
        "cf5ece07f136fc382b495269c1a56429420c22d9adcc50cfa241d9896a56c55e"
    ),
}
#: What each set is called, and where it was published.
IMAGES = {
    "mnist": "LeCun, Cortes and Burges 1998, http://yann.lecun.com/exdb/mnist",
    "fashion_mnist": "Xiao, Rasul and Vollgraf 2017 (arXiv 1708.07747)",
    "cifar10": "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
}
_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
        "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
        "ship", "truck",
    ),
}  # fmt: skip


def load_images(name: str) -> Split:
    """Images of ten classes, from the directory that `NTKUQ_DATA` names.

    `mnist` and `fashion_mnist` are whole, (28, 28) grey levels; of `cifar10` the files
    expected there hold 8 336 of the training images and the first 1 017 test images,
    (32, 32, 3).

    Args:
        name: `mnist`, `fashion_mnist` or `cifar10`.

    Returns:
        A `Split` with values in [0, 1] in float32, whose `calibrate` is `None`.

    Raises:
        DataError: for another name, and for a file that is absent or differs from the
            published one.

    >>> load_images("mist")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ntkuq.data.errors.DataError: expected mnist, fashion_mnist, cifar10, came 'mist'...
    """
    if name not in IMAGES:
        raise DataError(
            f"expected {', '.join(IMAGES)}, came {name!r}{nearest(name, IMAGES)}"
        )
    if name == "cifar10":
        parts = [_npz(f"{name}/{part}.npz") for part in ("train", "test")]
    else:
        parts = [
            (
                _idx(f"{name}/{part}-images-idx3-ubyte.gz"),
                _idx(f"{name}/{part}-labels-idx1-ubyte.gz"),
            )
            for part in ("train", "t10k")
        ]
    train, test = (
        Dataset(
            x.astype(np.float32) / np.float32(255),
            y.astype(np.int64),
            classes=_CLASSES[name],
            name=name,
        )
        for x, y in parts
    )
    return Split(train, None, test)


def _content(file: str) -> bytes:
    """A file, its SHA-256 checked."""
    root = os.environ.get(_VARIABLE)
    origin = IMAGES[file.partition("/")[0]]
    path = Path(root or ".").expanduser() / file
    if not root or not path.is_file():
        raise DataError(
            f"expected the environment variable {_VARIABLE} to name a directory that "
            f"holds {file}, came {root!r}. Original source: {origin}"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != FILES[file]:
        raise DataError(
            f"{path}: expected SHA-256 {FILES[file]}, came another: the file is "
            f"damaged or another version; fetch it again from its source: {origin}"
        )
    return content


def _idx(file: str) -> np.ndarray:
    """An array in the idx format: type and rank, its axes, its bytes."""
    plain = gzip.decompress(_content(file))
    shape = np.frombuffer(plain, ">i4", count=plain[3], offset=4)
    return np.frombuffer(plain, np.uint8, offset=4 + 4 * plain[3]).reshape(shape)


def _npz(file: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(io.BytesIO(_content(file)), allow_pickle=False) as arrays:
        return arrays["x"], arrays["y"]
