"""Reading and writing `.npz` without pickle, with bounded sizes."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ntkuq.data.errors import DataError


MAX_BYTES = 2 * 1024**3
"""Largest file, and largest content of one file, that is read: 2 GiB."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNREADABLE = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


def unpack(source: Path | bytes, what: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`, pickled ones refused.

    Args:
        source: a path, or the bytes of the file.
        what: how messages name the file.

    Returns:
        arrays by name.

    Raises:
        DataError: when the file is no `.npz`, is damaged, holds pickled objects, or
            unpacks to more than `MAX_BYTES`.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{what}: expected an .npz file, came something else ({error}); write it "
            "with numpy.savez(path, x=x, y=y)"
        ) from error
    if size > MAX_BYTES:
        raise DataError(
            f"{what}: expected at most {MAX_BYTES:,} bytes of arrays, came {size:,}; "
            "take fewer rows, or store float32"
        )
    arrays = {}
    with np.load(file, allow_pickle=False) as loaded:
        for name in loaded.files:
            try:
                arrays[name] = loaded[name]
            except _UNREADABLE as error:
                if "allow_pickle" in str(error):
                    raise DataError(
                        f"{what}: expected arrays of numbers or text, came pickled "
                        f"Python objects in {name!r}; convert it, for instance with "
                        f"{name}.astype(float), and save again"
                    ) from error
                raise DataError(
                    f"{what}: expected a readable array {name!r}, came damaged bytes "
                    f"({error}); write or fetch the file again"
                ) from error
            if not isinstance(arrays[name], np.ndarray):
                raise DataError(
                    f"{what}: expected only arrays, came other bytes under {name!r}; "
                    "write the file with numpy.savez"
                )
    return arrays


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of a compressed `.npz`, the same for the same arrays.

    Raises:
        TypeError: for arrays that would need pickle or lose their dtype.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in arrays.items():
            array = np.asanyarray(value)
            if array.dtype.kind not in "biufcSU":
                raise TypeError(
                    f"{name}: expected an array of numbers or text, came "
                    f"{array.dtype}; convert it, for instance to float32"
                )
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return stream.getvalue()
