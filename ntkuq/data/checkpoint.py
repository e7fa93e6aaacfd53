"""A computation in progress in one file, to go on from after an interruption."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ntkuq.data.errors import DataError
from ntkuq.data.npz import pack, unpack
from ntkuq.data.store import StoreError, write_bytes


_IDENTITY = "identity"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Arrays of a computation in progress, of this computation only.

    The file is written whole or not at all, and read without pickle.

    Args:
        path: the file; its directory must exist.
        identity: what determines the computation (method, problem, data, key), such as
            a `digest` of it.

    >>> import tempfile
    >>> checkpoint = Checkpoint(Path(tempfile.mkdtemp()) / "a.npz", "4f1d")
    >>> checkpoint.read() is None
    True
    >>> checkpoint.write({"step": np.array(3)})
    >>> int(checkpoint.read()["step"])
    3
    """

    path: Path
    identity: str

    def read(self) -> dict[str, np.ndarray] | None:
        """The arrays written last; `None` where there is no file.

        Raises:
            StoreError: for the file of another computation, or a damaged one.
        """
        if not self.path.exists():
            return None
        try:
            arrays = unpack(self.path, str(self.path))
        except DataError as error:
            raise StoreError(f"{error}; or remove it to begin anew") from error
        identity = arrays.pop(_IDENTITY, None)
        if identity is None or str(identity) != self.identity:
            raise StoreError(
                f"{self.path}: expected the checkpoint of this computation, came that "
                "of another method, problem, data or key; choose another file, or "
                "remove this one to begin anew (nothing was written)"
            )
        return arrays

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace what the file holds.

        Raises:
            TypeError: for arrays that are not numbers or text.
        """
        write_bytes(self.path, pack({_IDENTITY: np.array(self.identity), **arrays}))
