"""Flags from a TOML file; what stands on the command line wins."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError


#: How tyro reads flags, here and in `main`.
STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)


def is_config(command: object) -> bool:
    """Whether a file of flags stands in the place of MODEL."""
    if not isinstance(command, AbstractProblem) or command.model is None:
        return False
    return Path(command.model).suffix.lower() == ".toml"


def with_config(command: AbstractProblem, arguments: Sequence[str]) -> AbstractProblem:
    """The command with the flags of its file, where they were not given.

    A flag of a truth value that the file sets cannot be unset on the command line.

    Args:
        command: parsed from `arguments`; its model names the file.
        arguments: what followed `ntkuq`.

    Raises:
        UsageError: for a file that is missing, no TOML, or sets what is no flag.
    """
    kind = type(command)
    held = read_config(Path(command.model or ""), kind)
    # Parsed again with the file's values as defaults. Truth values and repeated flags
    # are merged afterwards: as defaults they would be negated or appended to.
    plain = {k: v for k, v in held.items() if not isinstance(v, bool | tuple)}
    base = dataclasses.replace(kind(), **plain)
    again = tyro.cli(kind, args=list(arguments[1:]), default=base, config=STYLE)
    merged = {k: getattr(again, k) or v for k, v in held.items() if k not in plain}
    return dataclasses.replace(again, **merged, model=held.get("model"))


def read_config(path: Path, kind: type[AbstractProblem]) -> dict[str, Any]:
    """The flags that a file sets, as values of the command's fields."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f'{path}: expected TOML, such as the line data = "houses.csv": {error}'
        ) from error
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        name = f"{name}_" if f"{name}_" in fields else name
        if name not in fields:
            raise UsageError(f"{path}: {_unknown(key, value, fields, kind)}")
        if name in found:
            raise UsageError(f"{path}: {name} is set twice")
        found[name] = _value(f"{path}: {key}", value, fields[name])
    if Path(str(found.get("model", ""))).suffix.lower() == ".toml":
        raise UsageError(f"{path}: model: expected module:function, got another file")
    return found


def _unknown(key: str, value: object, fields: Mapping[str, Any], kind: type) -> str:
    name = key.replace("-", "_")
    if isinstance(value, dict) and set(value) & set(fields):
        return f"expected flags outside of tables, got [{key}]; remove that line"
    near = difflib.get_close_matches(name, fields, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    command = kind.__name__.lower()
    return (
        f"{key!r} is no flag of ntkuq {command}{hint} (flags: "
        f"{', '.join(field.rstrip('_').replace('_', '-') for field in fields)})"
    )


def _value(where: str, value: Any, hint: Any) -> Any:
    """The value in the type of the field, or an error that names the key."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    kind = next(k for k in kinds if k is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        options = typing.get_args(kind)
        if value in options:
            return value
        raise _expected(where, f"one of {', '.join(options)}", value)
    if typing.get_origin(kind) is tuple:
        values = value if isinstance(value, list) else [value]
        return tuple(_value(where, one, typing.get_args(kind)[0]) for one in values)
    if kind is str:
        return _text(where, value)
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    if isinstance(value, bool) != (kind is bool):
        raise _expected(where, words[kind], value)
    if kind is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, kind):
        raise _expected(where, words[kind], value)
    return value


def _text(where: str, value: Any) -> str:
    """Text, a number as text, or a list as one line separated by commas."""
    values = value if isinstance(value, list) else [value]
    simple = all(
        isinstance(one, str | int | float) and not isinstance(one, bool)
        for one in values
    )
    if not simple or not values:
        raise _expected(where, "text in quotes", value)
    if not isinstance(value, list):
        return str(value)
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _expected(where: str, what: str, value: object) -> UsageError:
    return UsageError(f"{where}: expected {what}, got {str(value)[:60]!r}")
