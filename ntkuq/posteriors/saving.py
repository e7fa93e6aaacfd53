"""Posteriors in files: a line of JSON and Equinox's leaves, nothing that can run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import tokenize
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import equinox as eqx
import numpy as np

from ntkuq.data import Batches, Dataset, digest
from ntkuq.models import constructor
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior
from ntkuq.posteriors.record import (
    LoadError,
    Reader,
    Writer,
    array_type,
    given,
    stored_type,
)


_FORMAT = "ntkuq/posterior/2"
#: Longest header that is read: 256 MiB.
_LONGEST = 2**28


def save(
    path: str | Path,
    posterior: AbstractPosterior,
    *,
    data: Dataset | Batches | None = None,
) -> None:
    """Write a posterior to a file, whole or not at all.

    The file holds every number, exactly, and the names of the classes of this package
    they belong to. What is the user's own (the network's classes, functions) is not in
    it: `load` asks for it.

    Args:
        path: the file; its directory must exist.
        posterior: what a method's `fit` returned.
        data: what it was fitted on; their fingerprint is stored, for `load` to check.

    Raises:
        TypeError: for a posterior that holds something that can neither be written nor
            be found in its `bnn` or `method`.

    >>> import jax, tempfile
    >>> from ntkuq.models import BNN, Fixed, Gaussian, mlp
    >>> from ntkuq.posteriors import MAP
    >>> data = Dataset(np.ones((4, 2)), np.arange(4.0))
    >>> bnn = BNN(mlp(2, 1)(jax.random.key(0)), Gaussian())
    >>> posterior = MAP(None, tune=Fixed()).fit(bnn, data, key=jax.random.key(1))
    >>> path = Path(tempfile.mkdtemp()) / "map.ntkuq"
    >>> save(path, posterior, data=data)
    >>> again = load(path, bnn, data=data)
    >>> bool((again.predict(data.x).mean == posterior.predict(data.x).mean).all())
    True
    """
    if not isinstance(posterior, AbstractPosterior):
        raise TypeError(
            f"save: expected a posterior, got {type(posterior).__name__}: "
            "method.fit(bnn, data, key=key) returns one"
        )
    method = getattr(posterior, "method", None)
    writer = Writer(given(posterior.bnn, method))
    tree = writer.encode(posterior, "")
    header = {
        "format": _FORMAT,
        "ntkuq": metadata.version("ntkuq"),
        "posterior": type(posterior).__name__,
        "method": None if method is None else constructor(method),
        "data": None if data is None else data.fingerprint(),
        "arrays": [
            {
                "shape": list(array.shape),
                "dtype": array.dtype.name,
                "crc32": zlib.crc32(_bytes(array)),
            }
            for array in writer.arrays
        ],
        "tree": tree,
    }
    line = json.dumps({**header, "sha256": digest(header)}, allow_nan=False)
    with _replacing(Path(path)) as file:
        file.write(f"{line}\n".encode())
        stored = [array.view(stored_type(array.dtype)) for array in writer.arrays]
        eqx.tree_serialise_leaves(file, stored)


def load(
    path: str | Path,
    like: Any,
    *,
    method: AbstractMethod | None = None,
    data: Dataset | Batches | None = None,
) -> AbstractPosterior:
    """Read a posterior that `save` wrote; it predicts bit for bit as it did.

    Numbers keep their type, float64 also where JAX's default is float32.

    Args:
        path: the file.
        like: the `BNN` that it was fitted on, or only its network (trained or not, a
            module or a builder) where likelihood, prior and scaling are this
            package's. Only its structure is used, not its numbers.
        method: the method, where it has functions of yours inside, such as
            `Select(where)`.
        data: where given, checked to be those that were given to `save`.

    Returns:
        A posterior of the class that was saved.

    Raises:
        LoadError: for a file that is damaged, of another version or no posterior, for
            another network, method, or data.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = _header(file)
            arrays = _arrays(file, header, path)
        _check_data(header, data)
        posterior = Reader(arrays, given(like, method)).decode(header["tree"], "")
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from error
    if not isinstance(posterior, AbstractPosterior):
        raise LoadError(f"{path}: expected a posterior, came {type(posterior)}")
    return posterior


def _header(file: IO[bytes]) -> dict[str, Any]:
    line = file.readline(_LONGEST)
    try:
        header = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise LoadError(
            "expected a file that ntkuq.posteriors.save wrote, whose first line is "
            f"JSON, came something else or a damaged file ({error})"
        ) from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        came = header.get("format") if isinstance(header, dict) else type(header)
        raise LoadError(
            f"expected a file of the form {_FORMAT}, came {came!r}: read it with the "
            "version of ntkuq that wrote it"
        )
    if header.pop("sha256", None) != digest(header):
        raise LoadError("expected the header that was written, came a damaged one")
    return header


def _arrays(file: IO[bytes], header: dict[str, Any], path: Path) -> list[np.ndarray]:
    """The arrays, whose sizes are compared with the file's before any is made."""
    kinds = [
        (tuple(entry["shape"]), array_type(entry["dtype"]))
        for entry in header["arrays"]
    ]
    if any(size < 0 for shape, _ in kinds for size in shape):
        raise LoadError("expected shapes of 0 or more, came a negative one")
    expected = sum(math.prod(shape) * dtype.itemsize for shape, dtype in kinds)
    came = path.stat().st_size - file.tell()
    if came < expected:
        raise LoadError(
            f"expected {expected:,} bytes of arrays, came {came:,}: the file was cut "
            "short; copy or save it again"
        )
    found = []
    for number, (shape, dtype) in enumerate(kinds):
        array = _array(file, shape, dtype)
        if (
            array is None
            or zlib.crc32(_bytes(array)) != header["arrays"][number]["crc32"]
        ):
            raise LoadError(
                f"expected array {number} of {len(kinds)} ({dtype} {shape}) as it was "
                "written, came damaged bytes; copy or save the file again"
            )
        found.append(array)
    if file.read(1):
        raise LoadError("expected the end of the file after the last array, came more")
    return found


def _array(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype):
    """The next array, or `None` where it is not the one expected."""
    form = np.lib.format
    try:
        version = form.read_magic(file)
        read = form.read_array_header_1_0 if version == (1, 0) else None
        if read is None or read(file) != (shape, False, stored_type(dtype)):
            return None
    # what NumPy's reader raises on bytes that are not its own
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError):
        return None
    array = np.empty(shape, dtype)
    size = file.readinto(_bytes(array))  # pyright: ignore[reportAttributeAccessIssue]
    return array if size == array.nbytes else None


def _check_data(header: dict[str, Any], data: Dataset | Batches | None) -> None:
    if data is None:
        return
    if header["data"] is None:
        raise LoadError(
            "expected a posterior that was saved with its data, save(…, data=data), "
            "came one without: leave data= out"
        )
    if header["data"] != data.fingerprint():
        raise LoadError(
            "expected the data that the posterior was saved with, of fingerprint "
            f"{header['data'][:12]}…, came {data.fingerprint()[:12]}…: give those, in "
            "the same form (Dataset or Batches)"
        )


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` once it is written whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
