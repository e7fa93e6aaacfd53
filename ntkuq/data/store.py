"""Atomic files, and the store of finished units of work that lets a run resume."""

import dataclasses
import glob
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntkuq.data.npz import pack, unpack


_PROBLEM = "problem.json"
_STORE_SCHEMA = "ntkuq/store/1"
_UNIT_SCHEMA = "ntkuq/unit/1"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp")


class StoreError(ValueError):
    """A directory that cannot hold this run: another problem's, or not a run at all."""


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all.

    The bytes go to a temporary file in the same directory, which then takes the
    place of `path`. An interruption leaves the old file, or none.

    Args:
        path: the file; its directory must exist.
        data: its content.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, obj: Any) -> None:
    """Write strict JSON atomically: sorted keys, UTF-8, NaN and infinities as null.

    Args:
        path: the file; its directory must exist.
        obj: anything that `jsonable` takes.
    """
    text = json.dumps(
        jsonable(obj), allow_nan=False, ensure_ascii=False, indent=1, sort_keys=True
    )
    write_bytes(path, f"{text}\n".encode())


def jsonable(obj: Any) -> Any:
    """Plain dictionaries, lists, numbers, text and null from nested Python objects.

    Tuples and arrays become lists, NumPy scalars numbers, paths text; NaN and
    infinities become null.

    Args:
        obj: nested dictionaries with text keys, lists, tuples, arrays and scalars.

    Returns:
        What `json.dumps(..., allow_nan=False)` accepts.

    Raises:
        TypeError: for anything else, with the place where it was found.

    >>> jsonable({"scores": np.array([1.0, np.nan]), "n": np.int64(3)})
    {'scores': [1.0, None], 'n': 3}
    """
    return _plain(obj, "", lambda _: None)


def digest(obj: Any) -> str:
    """SHA-256 of the canonical JSON of an object, as hex digits.

    Equal content gives equal digits, whatever the order of keys. NaN, the infinities
    and `None` are told apart.

    Args:
        obj: anything that `jsonable` takes.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    plain = _plain(obj, "", lambda value: {"float": str(value)})
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(obj: Any, place: str, strange: Callable[[float], Any]) -> Any:
    """`jsonable`, with `strange` for the floats that JSON does not know."""
    if obj is None or isinstance(obj, bool | str):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else strange(float(obj))
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, Mapping):
        wrong = [key for key in obj if not isinstance(key, str)]
        if wrong:
            raise TypeError(
                f"{place or 'object'}: expected keys of text, came {wrong[0]!r}; "
                "convert it with str"
            )
        return {k: _plain(v, f"{place}[{k!r}]", strange) for k, v in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(v, f"{place}[{i}]", strange) for i, v in enumerate(obj)]
    if isinstance(obj, np.generic | np.ndarray) or hasattr(obj, "__array__"):
        value = np.asarray(obj)
        if jax_float := value.dtype.kind == "V":
            value = value.astype(np.float64)
        if jax_float or value.dtype.kind in "biufU":
            return _plain(value.tolist(), place, strange)
    raise TypeError(
        f"{place or 'object'}: expected numbers, text, lists, dictionaries or arrays, "
        f"came {type(obj).__name__}; convert it before it is stored"
    )


@dataclasses.dataclass(frozen=True)
class Store:
    """Finished units of work of one problem in one directory.

    `problem.json` says whose directory it is; `units/<key>.json` and
    `units/<key>.npz` hold one finished unit each. A unit counts as finished when its
    JSON is readable and its arrays are the ones that were written with it: arrays are
    written first, the JSON with their SHA-256 last, each under a temporary name that
    is then replaced. So an interruption loses the unit in flight and nothing else. A
    unit that was damaged later counts as missing, is to be computed again, and
    `note` says what was wrong with it.

    Args:
        directory: where the run lives; use `Store.open`, which checks it.

    >>> import tempfile
    >>> run = Store.open(Path(tempfile.mkdtemp()) / "a", "4f1d", {"n_train": 927})
    >>> run.write("laplace-0", {"nll": 2.9}, {"mean": np.zeros(3)})
    >>> run.read("laplace-0"), run.arrays("laplace-0")["mean"].shape, run.read("x")
    ({'nll': 2.9}, (3,), None)
    """

    directory: Path

    @classmethod
    def open(
        cls, directory: str | Path, fingerprint: str, description: Mapping[str, Any]
    ) -> "Store":
        """The store in a directory, made if there is none, of this problem only.

        Args:
            directory: a new or empty directory, or one of an earlier run.
            fingerprint: digest of everything that defines the problem.
            description: the same in words and numbers, used to name what differs.

        Returns:
            The store, with the finished units of earlier runs of the same problem.

        Raises:
            StoreError: when the directory belongs to another problem, or holds files
                that are not a run. Nothing is written then.
        """
        root = Path(directory)
        problem = root / _PROBLEM
        if root.exists() and not root.is_dir():
            raise StoreError(
                f"{root}: expected a directory for the run, came a file; choose "
                "another place"
            )
        plain = jsonable(description)
        if problem.is_file():
            _check_same(root, fingerprint, plain)
        else:
            _check_empty(root)
            root.mkdir(parents=True, exist_ok=True)
            write_json(
                problem,
                {
                    "schema": _STORE_SCHEMA,
                    "fingerprint": fingerprint,
                    "description": plain,
                },
            )
        (root / "units").mkdir(exist_ok=True)
        return cls(root)

    def keys(self) -> tuple[str, ...]:
        """The keys of all finished units, sorted."""
        found = sorted(path.stem for path in (self.directory / "units").glob("*.json"))
        return tuple(
            key for key in found if _KEY.fullmatch(key) and self.read(key) is not None
        )

    def read(self, key: str) -> dict[str, Any] | None:
        """The record of a finished unit; `None` when it is missing or damaged.

        Args:
            key: letters, digits, `.`, `_`, `-`; it names the files.
        """
        loaded = self._load(key)
        return None if isinstance(loaded, str) else loaded[0]

    def arrays(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of a finished unit; `None` when it is missing or damaged.

        Args:
            key: as in `read`.

        Returns:
            Arrays by name; empty when the unit was written without arrays.
        """
        loaded = self._load(key)
        if isinstance(loaded, str):
            return None
        content = loaded[1]
        return {} if content is None else unpack(content, f"unit {key}")

    def note(self, key: str) -> str | None:
        """What is wrong with a unit that exists but cannot be used, else `None`.

        Args:
            key: as in `read`.

        Returns:
            One sentence for the log, such as `"unit a: its arrays are damaged; it is
            computed again"`.
        """
        loaded = self._load(key)
        return loaded or None if isinstance(loaded, str) else None

    def write(
        self,
        key: str,
        record: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Store a finished unit, replacing an earlier one of the same key.

        Args:
            key: as in `read`.
            record: what `jsonable` takes; NaN and infinities are stored as null.
            arrays: arrays of numbers or text by name.

        Raises:
            TypeError: for content that JSON or `.npz` without pickle cannot hold.
                Nothing is written then.
        """
        head, body = self._files(key)
        plain = jsonable(record)
        content = None if arrays is None else pack(arrays)
        if content is not None:
            write_bytes(body, content)
        write_json(
            head,
            {
                "schema": _UNIT_SCHEMA,
                "key": key,
                "arrays": None if content is None else _sha256(content),
                "record": plain,
            },
        )
        if content is None:
            body.unlink(missing_ok=True)
        # one file, or one for each of several networks
        for path in (self.directory / "partial").glob(f"{glob.escape(key)}*.npz"):
            path.unlink(missing_ok=True)

    def partial(self, key: str) -> Path:
        """Where the state of a unit in progress may be kept; `write` removes it.

        Args:
            key: as in `read`.
        """
        self._files(key)
        folder = self.directory / "partial"
        folder.mkdir(exist_ok=True)
        return folder / f"{key}.npz"

    def _files(self, key: str) -> tuple[Path, Path]:
        if not _KEY.fullmatch(key):
            raise ValueError(
                "expected a key of 1 to 200 letters, digits, '.', '_' or '-' that "
                f"begins with a letter or digit, came {key!r}"
            )
        units = self.directory / "units"
        return units / f"{key}.json", units / f"{key}.npz"

    def _load(self, key: str) -> tuple[dict[str, Any], bytes | None] | str:
        """The record and the bytes of the arrays, or why not ("" when missing)."""
        head, body = self._files(key)
        if not head.is_file():
            return ""
        again = "it is computed again"
        try:
            unit = _parse(head.read_bytes())
        except ValueError:
            return f"unit {key}: its record is not readable JSON; {again}"
        if unit.get("schema") != _UNIT_SCHEMA or not isinstance(
            unit.get("record"), dict
        ):
            return f"unit {key}: its record is not of the form {_UNIT_SCHEMA}; {again}"
        expected = unit.get("arrays")
        if expected is None:
            return unit["record"], None
        if not body.is_file():
            return f"unit {key}: its arrays are missing; {again}"
        content = body.read_bytes()
        if _sha256(content) != expected:
            return f"unit {key}: its arrays are damaged; {again}"
        return unit["record"], content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parse(content: bytes) -> dict[str, Any]:
    """A JSON object; `ValueError` for anything else, NaN included."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not JSON")

    obj = json.loads(content.decode(), parse_constant=refuse)
    if not isinstance(obj, dict):
        raise ValueError("not a JSON object")
    return obj


def _check_empty(root: Path) -> None:
    if not root.exists():
        return
    foreign = sorted(
        path.name for path in root.iterdir() if not _TEMPORARY.fullmatch(path.name)
    )
    if foreign:
        raise StoreError(
            f"{root}: expected a new or empty directory, or one of an earlier run, "
            f"came {len(foreign)} entries such as {foreign[0]!r} and no {_PROBLEM}; "
            "choose another directory (nothing was written)"
        )


def _check_same(root: Path, fingerprint: str, description: Any) -> None:
    try:
        stored = _parse((root / _PROBLEM).read_bytes())
    except ValueError as error:
        raise StoreError(
            f"{root}: expected a readable {_PROBLEM}, came damaged content ({error}); "
            "choose another directory, or remove this one"
        ) from error
    if stored.get("schema") != _STORE_SCHEMA:
        raise StoreError(
            f"{root}: expected a run of the form {_STORE_SCHEMA}, came "
            f"{stored.get('schema')!r}; choose another directory"
        )
    if stored.get("fingerprint") == fingerprint:
        return
    was, now = _flat(stored.get("description")), _flat(description)
    changes = [
        f"{name or 'description'} was {_shown(was, name)}, now {_shown(now, name)}"
        for name in sorted(was.keys() | now.keys())
        if _shown(was, name) != _shown(now, name)
    ]
    if not changes:
        before = str(stored.get("fingerprint"))
        changes = [f"fingerprint was {before[:12]}…, now {fingerprint[:12]}…"]
    raise StoreError(
        f"{root}: expected the run of this problem, came that of another: "
        f"{'; '.join(changes)}; choose another directory, or undo the change "
        "(nothing was written)"
    )


def _flat(obj: Any, name: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    if not isinstance(obj, dict):
        return {name: obj}
    flat = {}
    for key, value in obj.items():
        flat |= _flat(value, f"{name}.{key}" if name else key)
    return flat


def _shown(entries: dict[str, Any], name: str) -> str:
    if name not in entries:
        return "absent"
    text = json.dumps(entries[name], ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"
