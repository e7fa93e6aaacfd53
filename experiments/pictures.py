"""Images with classes: MNIST, Fashion-MNIST and part of CIFAR-10, from `$NTKUQ_DATA`.

MNIST: LeCun, Cortes and Burges 1998. Fashion-MNIST: Xiao, Rasul and Vollgraf 2017
(arXiv 1708.07747). CIFAR-10: Krizhevsky 2009; the data folder has 8 336 of its training
images and the first 1 017 test images.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Pictures(NamedTuple):
    """Grey levels or colors in [0, 1], channels last, and classes 0 to 9."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


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
NAMES = ("mnist", "fashion_mnist", "cifar10")


def load(name: str) -> Pictures:
    """The images of this name.

    Raises:
        FileNotFoundError: where they are not below the folder that `NTKUQ_DATA` names.
        ValueError: for another name, or a file that is not the published one.
    """
    if name not in NAMES:
        raise ValueError(f"expected one of {', '.join(NAMES)}, got {name!r}")
    if name == "cifar10":
        train, test = (_npz(f"{name}/{part}.npz") for part in ("train", "test"))
        return Pictures(_unit(train["x"]), train["y"], _unit(test["x"]), test["y"])
    found = [
        (
            _idx(f"{name}/{part}-images-idx3-ubyte.gz"),
            _idx(f"{name}/{part}-labels-idx1-ubyte.gz"),
        )
        for part in ("train", "t10k")
    ]
    (x, y), (x_test, y_test) = found
    return Pictures(_unit(x), y, _unit(x_test), y_test)


def _unit(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / np.float32(255)


def _content(name: str) -> bytes:
    """A file, its SHA-256 checked."""
    root = os.environ.get("NTKUQ_DATA")
    path = Path(root or ".").expanduser() / name
    if not root or not path.is_file():
        raise FileNotFoundError(
            "expected the environment variable NTKUQ_DATA to name a folder with "
            f"{name} in it, got {root!r}"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != FILES[name]:
        raise ValueError(f"{path} is not the published file; fetch it again")
    return content


def _idx(name: str) -> np.ndarray:
    """An array in the idx format."""
    plain = gzip.decompress(_content(name))
    shape = np.frombuffer(plain, ">i4", count=plain[3], offset=4)
    return np.frombuffer(plain, np.uint8, offset=4 + 4 * plain[3]).reshape(shape)


def _npz(name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(_content(name)), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in ("x", "y")}
