"""Inputs that do not belong to a data set: other images, and synthetic ones."""

import gzip
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from jaxtyping import PRNGKeyArray

from ntkuq.data.errors import DataError, nearest
from ntkuq.data.loaders import SetInfo, _verified
from ntkuq.data.npz import unpack
from ntkuq.data.shifts.base import generator


def _images(
    name: str, file: str, sha256: str, size: int, rows: int, origin: str
) -> SetInfo:
    columns = 784 if file.endswith(".gz") else 3072
    return SetInfo(name, file, sha256, size, rows, columns, "test images", origin)


#: Test images of each set; of the last two the first ones only.
_SETS: Mapping[str, SetInfo] = {
    entry.name: entry
    for entry in (
        _images(
            "mnist",
            "mnist/t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            1648877,
            10000,
            "LeCun, Cortes and Burges 1998, http://yann.lecun.com/exdb/mnist",
        ),
        _images(
            "fashion_mnist",
            "fashion_mnist/t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            4422102,
            10000,
            "Xiao, Rasul and Vollgraf 2017, "
            "https://github.com/zalandoresearch/fashion-mnist",
        ),
        _images(
            "notmnist",
            "notmnist/t10k-images-idx3-ubyte.gz",
            "70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7",
            3172375,
            10000,
            "Bulatov 2011, http://yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html",
        ),
        _images(
            "svhn",
            "svhn/ood.npz",
            "635e9d8f2061fb7dc7f55b383da5718dd068205eadf2eee7324eed25841f07a0",
            2806925,
            1083,
            "Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers",
        ),
        _images(
            "cifar100",
            "cifar100/test.npz",
            "8e62e19a4861e942bed2e49e6bb7013e3dd2c206c1320268acb5392a243a2904",
            2587269,
            916,
            "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
    )
}

_OUTSIDE: Mapping[str, tuple[str, ...]] = {
    "fashion_mnist": ("mnist", "notmnist"),
    "mnist": ("fashion_mnist", "notmnist"),
    "cifar10": ("svhn", "cifar100"),
}


def outside(name: str) -> dict[str, np.ndarray]:
    """The images on which a classifier of this set should not be sure.

    For `fashion_mnist`: `mnist`, `notmnist`; for `mnist`: `fashion_mnist`, `notmnist`;
    for `cifar10`: `svhn`, `cifar100`. They are looked for below the directory that the
    environment variable `NTKUQ_DATA` names. Test images, without their labels, which
    mean nothing to the classifier. Of SVHN 1083 and of CIFAR-100 916 images are on
    record; neighbors in SVHN are crops of one house number and not independent.

    Args:
        name: the data set of the classifier.

    Returns:
        Images by name of their set, float32 in [0, 1], (N, 28, 28) or (N, 32, 32, 3).

    Raises:
        DataError: for an unknown name, and for a file that is absent or differs from
            the one on record.
    """
    if name not in _OUTSIDE:
        raise DataError(
            f"outside: expected one of {', '.join(_OUTSIDE)}, came {name!r}"
            f"{nearest(name, _OUTSIDE)}; for other data use uniform_noise or "
            "permuted_features"
        )
    return {other: _read(_SETS[other]) for other in _OUTSIDE[name]}


def uniform_noise(x: npt.ArrayLike, *, key: PRNGKeyArray) -> np.ndarray:
    """Inputs of the same shape and dtype with nothing in them.

    Every entry is drawn evenly from the range of its column in `x`, (N, D), or, for
    more axes, from the range of all of `x`. Whole numbers stay whole, both ends
    included.

    Args:
        x: inputs that belong to the data set, (N, …).
        key: random key.

    Raises:
        DataError: when `x` is empty or not made of numbers.

    >>> import jax
    >>> x = np.array([[0.0, 5.0], [1.0, 5.0]])
    >>> noise = uniform_noise(x, key=jax.random.key(0))
    >>> bool((noise[:, 0] != x[:, 0]).all()), noise[:, 1].tolist()
    (True, [5.0, 5.0])
    """
    given = _rows(x, "uniform_noise")
    axis = 0 if given.ndim < 3 else None
    low, high = given.min(axis=axis), given.max(axis=axis)
    rng = generator(key)
    if given.dtype.kind in "iu":
        return rng.integers(low, high, given.shape, given.dtype, endpoint=True)
    low, high = low.astype(np.float64), high.astype(np.float64)
    drawn = low + (high - low) * rng.random(given.shape)
    return drawn.astype(given.dtype)


def permuted_features(x: npt.ArrayLike, *, key: PRNGKeyArray) -> np.ndarray:
    """Inputs whose features go together no more.

    Every feature (pixel) is shuffled over the rows by itself: each keeps its values,
    their combinations are lost.

    Args:
        x: inputs that belong to the data set, (N, …).
        key: random key.

    Raises:
        DataError: when `x` is empty or not made of numbers.

    >>> import jax
    >>> x = np.arange(20.0).reshape(10, 2)
    >>> new = permuted_features(x, key=jax.random.key(0))
    >>> bool((np.sort(new, axis=0) == x).all()), bool((new == x).all())
    (True, False)
    """
    given = _rows(x, "permuted_features")
    return generator(key).permuted(given, axis=0)


def _rows(x: npt.ArrayLike, who: str) -> np.ndarray:
    given = np.asarray(x)
    if given.ndim == 0 or given.size == 0 or given.dtype.kind not in "iuf":
        raise DataError(
            f"{who}: expected numbers of shape (N, …) with a row or more, came "
            f"{given.dtype} of shape {given.shape}"
        )
    return given


def _read(entry: SetInfo) -> np.ndarray:
    """Images with intensities in [0, 1], after the check of their digest."""
    content = _verified(entry)
    if entry.file.endswith(".npz"):
        levels = unpack(content, entry.name)["x"]
    else:
        plain = gzip.decompress(content)
        # idx: magic number, whose last byte is the number of axes, sizes, pixels
        axes = plain[3]
        shape = np.frombuffer(plain, ">i4", count=axes, offset=4)
        levels = np.frombuffer(plain, np.uint8, offset=4 + 4 * axes).reshape(shape)
    return levels.astype(np.float32) / np.float32(255)
