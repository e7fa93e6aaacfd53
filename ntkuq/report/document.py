"""The run document: its schema name, how it is read, and what it must hold."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any


SCHEMA = "ntkuq/run/1"
LARGEST_FILE = 64 * 2**20  # bytes; a document holds summaries, never the predictions
LARGEST_COUNT = 1e15  # so that a count is a whole number in 64 bits
LARGEST_NUMBER = 1e150  # so that squares and differences are finite

type Document = Mapping[str, Any]


class DocumentError(ValueError):
    """A run document that cannot be used; the message lists what is wrong."""


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """Read and validate a run document.

    Args:
        path: a `run.json`. The file is untrusted: its size is checked before it is
            read, and `NaN` and `Infinity`, which are not JSON, are refused.

    Returns:
        The document.

    Raises:
        DocumentError: not JSON, too large, of another schema, or incomplete.
        FileNotFoundError: no such file.
    """
    file = Path(path)
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise DocumentError(
            f"{file}: {size} bytes, but a run document has at most {LARGEST_FILE}: "
            "is this a file of predictions?"
        )
    try:
        document = json.loads(
            file.read_text(encoding="utf-8"), parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise DocumentError(
            f"{file}: expected a JSON run document ({SCHEMA}): {error}"
        ) from error
    validate(document)
    return document


def dumps(document: Document) -> str:
    r"""The document as JSON text, one value a line, ending with a newline.

    Raises:
        ValueError: the document holds NaN or an infinity (write null instead).

    >>> dumps({"schema": "ntkuq/run/1"})
    '{\n "schema": "ntkuq/run/1"\n}\n'
    """
    return json.dumps(document, allow_nan=False, indent=1) + "\n"


def validate(document: object) -> None:
    """Check the schema name and the structure of a run document.

    Keys beyond the schema are allowed, so that a document can carry more than this
    version draws.

    Args:
        document: what `json.load` returned, or what `compare` built.

    Raises:
        DocumentError: with the first problems, each with its place in the document.

    >>> validate({"schema": "ntkuq/run/7"})
    Traceback (most recent call last):
        ...
    ntkuq.report.document.DocumentError: schema 'ntkuq/run/7' is newer than \
'ntkuq/run/1', the one this version reads: upgrade ntkuq
    """
    if not isinstance(document, Mapping):
        raise DocumentError(
            f"expected an object with schema {SCHEMA!r}, got {_kind(document)}"
        )
    _check_schema(document.get("schema"))
    problems = list(_problems(document, _DOCUMENT, "document"))
    if not problems:
        problems = list(_inconsistencies(document))
    if problems:
        shown = problems[:8]
        more = len(problems) - len(shown)
        tail = f"\n  and {more} more" if more else ""
        raise DocumentError(
            "not a usable run document:\n  " + "\n  ".join(shown) + tail
        )


def _check_schema(schema: object) -> None:
    if schema == SCHEMA:
        return
    if schema is None:
        raise DocumentError(
            f"no key 'schema': expected {SCHEMA!r}; is this a run.json of ntkuq?"
        )
    family, _, version = SCHEMA.rpartition("/")
    name, _, other = str(schema).rpartition("/")
    shown = repr(str(schema)[:60])
    if name == family and other.isdecimal() and int(other[:9]) > int(version):
        raise DocumentError(
            f"schema {shown} is newer than {SCHEMA!r}, the one this version reads: "
            "upgrade ntkuq"
        )
    raise DocumentError(f"unknown schema {shown}: this version reads {SCHEMA!r}")


# ---- the structure, as data ------------------------------------------------------


@dataclass(frozen=True)
class _Each:
    """A list, or an object with free keys, whose items all have one shape."""

    container: type
    item: Any


@dataclass(frozen=True)
class _Maybe:
    """The shape, or null."""

    shape: Any


class _Number:
    """A finite number."""


class _Scalar:
    """Text, a number, a truth value or null."""


# In an object shape a key that ends in "?" may be absent.
_NUMBERS = _Each(list, _Maybe(_Number))
_INTERVAL = _Maybe(_Each(list, _Maybe(_Number)))
_SCORE = {
    "value": _Maybe(_Number),
    "se?": _Maybe(_Number),
    "n?": _Maybe(int),
    "interval?": _INTERVAL,
    "hits?": _Maybe(int),
    "level?": _Maybe(_Number),
    "p?": _Maybe(_Number),
}
_CURVES = {
    "coverage?": _Maybe(
        dict.fromkeys(("level", "observed", "lower", "upper"), _NUMBERS)
    ),
    "pit?": _Maybe(dict.fromkeys(("grid", "ecdf", "lower", "upper"), _NUMBERS)),
    "reliability?": _Maybe(
        dict.fromkeys(("confidence", "accuracy", "count", "lower", "upper"), _NUMBERS)
    ),
    "pav?": _Maybe(
        dict.fromkeys(("confidence", "accuracy", "lower", "upper"), _NUMBERS)
    ),
    "selective?": _Maybe(
        dict.fromkeys(("coverage", "risk", "lower", "upper"), _NUMBERS)
    ),
    "spread?": _Maybe(
        dict.fromkeys(("std", "ratio", "count", "lower", "upper"), _NUMBERS)
    ),
    "widths?": _Maybe(dict.fromkeys(("level", "width"), _NUMBERS)),
}
#: Columns of curves that are counts or have units; all others are shares.
_UNBOUNDED = {
    ("reliability", "count"),
    ("selective", "risk"),
    ("selective", "lower"),
    ("selective", "upper"),
    *(("spread", name) for name in ("std", "ratio", "count", "lower", "upper")),
    ("widths", "width"),
}
_SCORES = _Each(dict, _SCORE)
#: What the analyses add to a method, see `ntkuq.report.analysis` and `.extras`.
_ANALYSES = {
    "after?": _Maybe(
        _Each(
            list,
            {
                "name": str,
                "text": str,
                "kind": str,
                "scores?": _Maybe(_SCORES),
                "reason?": _Maybe(str),
            },
        )
    ),
    "groups?": _Maybe(
        _Each(
            list,
            {
                "by": str,
                "level?": _Maybe(_Number),
                "smallest_gap?": _Maybe(_Number),
                "rows": _Each(
                    list,
                    {
                        "name": str,
                        "range?": _Maybe(str),
                        "n": int,
                        "small?": _Maybe(bool),
                        "scores": _SCORES,
                        "simultaneous?": _INTERVAL,
                    },
                ),
            },
        )
    ),
    "slab?": _Maybe({**_SCORE, "share?": _Maybe(_Number)}),
    "errors?": _Maybe(
        _Each(
            list,
            {
                "row": int,
                "observed": _Scalar,
                "predicted": _Scalar,
                "certainty": _Maybe(_Number),
            },
        )
    ),
    "classes?": _Maybe(_Each(list, {"name": str, "n": int, "scores": _SCORES})),
    "detection?": _Maybe(
        _Each(list, {"name": str, "uncertainty": str, "scores": _SCORES})
    ),
    "severity?": _Maybe(
        _Each(list, {"shift": str, "severity": int, "scores": _SCORES})
    ),
    "distance?": _Maybe({"scores": _SCORES, "floor": _SCORES, "n?": _Maybe(int)}),
    "omitted?": _Maybe(_Each(dict, str)),
}
#: Further numbers of a step, see `ntkuq.optimization.probe`.
_DECREASES = (
    "predicted",
    "realized",
    "seconds",
    "predicted_per_second",
    "realized_per_second",
    "per_second",
)
_DIFFERENCE = {
    "label": str,
    "value": _Maybe(_Number),
    "se?": _Maybe(_Number),
    "interval?": _INTERVAL,
    "p?": _Maybe(_Number),
    "n?": _Maybe(int),
    "distinguishable?": _Maybe(bool),
    "caution?": _Maybe(str),
}
#: What an extra adds to the run.
_RUN_EXTRAS = {
    "omitted?": _Maybe(_Each(dict, str)),
    "regime?": _Maybe(
        {
            "over": str,
            "verdict": str,
            "scores": _SCORES,
            "claims": _Each(
                list,
                {
                    "number?": int,
                    "statement": str,
                    "word": str,
                    "statistic?": _Maybe(_SCORE),
                    "worst?": _Maybe(_Number),
                    # numbers in documents of earlier versions
                    "confirm": _Scalar,
                    "refute": _Scalar,
                    "note?": str,
                    "reason?": _Maybe(str),
                    "values?": _Maybe(_Each(dict, _Maybe(_Number))),
                },
            ),
            "consequences?": _Maybe(_Each(list, str)),
            "setting?": _Maybe(_Each(dict, str)),
        }
    ),
    "probe?": _Maybe(
        {
            "answer": str,
            "verdict": str,
            "rows": _Each(
                list,
                {
                    "name": str,
                    "how?": _Maybe(str),
                    "damping?": _Maybe(_Number),
                    "scores": {
                        "elsewhere": _SCORE,
                        **{f"{name}?": _SCORE for name in _DECREASES},
                    },
                    "remarks?": _Maybe(_Each(list, str)),
                },
            ),
            "against": _Each(
                list,
                {
                    "name": str,
                    "word": str,
                    "per_second": _SCORE,
                    "times?": _Maybe(_SCORE),
                    "times_per_second?": _Maybe(_SCORE),
                },
            ),
            "setting?": _Maybe(_Each(dict, str)),
        }
    ),
    "seeds?": _Maybe(
        {
            "count": int,
            "score": str,
            "calibration?": _Maybe(str),
            "trained": bool,
            "best": _Maybe(str),
            "rows": _Each(
                list,
                {
                    "label": str,
                    "best": int,
                    "spread": _Number,
                    "scores": _SCORES,
                    "difference?": _Maybe(_DIFFERENCE),
                },
            ),
            "missing": _Each(
                list,
                {"label": str, "seed": int, "status": str, "reason?": _Maybe(str)},
            ),
        }
    ),
    "reference?": _Maybe(
        {
            "text": str,
            "reason?": _Maybe(str),
            "seconds?": _Maybe(_Number),
            "diagnostics?": _Maybe(_Each(dict, _Scalar)),
        }
    ),
}
_METHOD = {
    "label": str,
    "text": str,
    "seed?": _Scalar,
    "status": str,
    "reason?": _Maybe(str),
    "hyperparameters?": _Maybe(
        _Each(
            list,
            {
                "name": str,
                "value": _Maybe(_Number),
                "se?": _Maybe(_Number),
                "at_bound?": _Maybe(bool),
                "unit?": _Maybe(str),
            },
        )
    ),
    "log_marginal_likelihood?": _Maybe(_Number),
    "cost?": _Maybe(_Each(dict, _Maybe(_Number))),
    "diagnostics?": _Maybe(_Each(dict, _Scalar)),
    "scores?": _Maybe(_Each(dict, _SCORE)),
    "curves?": _Maybe(_CURVES),
    "predictions?": _Maybe(str),
    **_ANALYSES,
}
_RECORD = {
    "code": str,
    "label?": _Maybe(str),
    "answer": str,
    "sentence": str,
    "rule": str,
    "section": str,
}
_TEXTS = _Maybe(_Each(list, str))
_DOCUMENT = {
    "schema": str,
    "provenance": {
        "ntkuq?": _Scalar,
        "versions?": _Maybe(_Each(dict, _Scalar)),
        "platform?": _Scalar,
        "device?": _Scalar,
        "created?": _Scalar,
        "command?": _Scalar,
        "seed?": _Scalar,
        "dtype?": _Scalar,
    },
    "problem": {
        "task": str,
        "fingerprint?": _Scalar,
        "data": {
            "name": _Scalar,
            "sha256?": _Scalar,
            "n_train?": _Maybe(int),
            "n_calibrate?": _Maybe(int),
            "n_test?": _Maybe(int),
            "features?": _TEXTS,
            "target?": _Scalar,
            "units?": _Scalar,
            "classes?": _TEXTS,
            "warnings?": _TEXTS,
        },
        "network?": _Maybe(
            {"text?": _Scalar, "parameters?": _Maybe(int), "weights?": _Scalar}
        ),
        "likelihood?": _Scalar,
        "prior?": _Scalar,
        "scaling?": _Scalar,
    },
    "methods": _Each(list, _METHOD),
    "comparison": _Maybe(
        {
            "score": str,
            "best": _Maybe(str),
            "differences": _Each(list, _DIFFERENCE),
        }
    ),
    "verdict": _Each(list, _RECORD),
    **_RUN_EXTRAS,
}


def _problems(value: object, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, _Maybe):
        if value is not None:
            yield from _problems(value, shape.shape, where)
    elif isinstance(shape, _Each):
        yield from _each_problems(value, shape, where)
    elif isinstance(shape, dict):
        yield from _object_problems(value, shape, where)
    elif not _fits(value, shape):
        yield f"{where}: expected {_NAMES[shape]}, got {_kind(value)}"


def _each_problems(value: object, shape: _Each, where: str) -> Iterator[str]:
    if shape.container is list and isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _problems(item, shape.item, f"{where}[{index}]")
    elif shape.container is dict and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _problems(item, shape.item, f"{where}[{str(key)[:60]!r}]")
    else:
        yield f"{where}: expected {_NAMES[shape.container]}, got {_kind(value)}"


def _object_problems(
    value: object, shape: Mapping[str, Any], where: str
) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where}: expected an object, got {_kind(value)}"
        return
    for name, inner in shape.items():
        key = name.removesuffix("?")
        if key in value:
            yield from _problems(value[key], inner, f"{where}.{key}")
        elif key == name:
            yield f"{where}: no key {key!r}"


def _fits(value: object, shape: type) -> bool:
    if shape is _Scalar:
        return value is None or isinstance(value, str | bool) or _is_number(value)
    if shape is _Number:
        return _is_number(value)
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, shape)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < LARGEST_NUMBER  # an integer may be too large for a float
        and math.isfinite(value)
    )


def _inconsistencies(document: Document) -> Iterator[str]:
    task = document["problem"]["task"]
    if task not in ("regression", "classification"):
        yield f"document.problem.task: {task[:60]!r} is not regression, classification"
    for index, method in enumerate(document["methods"]):
        where = f"document.methods[{index}]"
        if method["status"] not in ("done", "failed", "skipped"):
            shown = method["status"][:60]
            yield f"{where}.status: {shown!r} is not done, failed, skipped"
        for name, score in (method.get("scores") or {}).items():
            yield from _score_inconsistencies(score, f"{where}.scores[{name[:60]!r}]")
        for name, curve in (method.get("curves") or {}).items():
            if name + "?" in _CURVES and curve is not None:
                yield from _curve_inconsistencies(name, curve, f"{where}.curves.{name}")
    for index, row in enumerate((document.get("seeds") or {}).get("rows", ())):
        where = f"document.seeds.rows[{index}]"
        for name, score in row["scores"].items():
            yield from _score_inconsistencies(score, f"{where}.scores[{name[:60]!r}]")
        if row.get("difference") is not None:
            yield from _score_inconsistencies(row["difference"], f"{where}.difference")
    comparison = document["comparison"]
    for index, difference in enumerate((comparison or {}).get("differences", ())):
        where = f"document.comparison.differences[{index}]"
        yield from _score_inconsistencies(difference, where)


def _curve_inconsistencies(name: str, curve: Document, where: str) -> Iterator[str]:
    columns = _CURVES[name + "?"].shape
    lengths = {len(curve[column]) for column in columns}
    if len(lengths) > 1:
        yield f"{where}: lists of lengths {sorted(lengths)}"
    for column in columns:
        top = LARGEST_COUNT if (name, column) in _UNBOUNDED else 1.0
        if any(x is not None and not 0 <= x <= top for x in curve[column]):
            yield f"{where}.{column}: expected numbers from 0 to {top:g}"


def _score_inconsistencies(score: Document, where: str) -> Iterator[str]:
    interval = score.get("interval")
    if interval is not None and len(interval) != 2:
        yield f"{where}.interval: expected two numbers, got {len(interval)}"
    n, hits = score.get("n"), score.get("hits")
    if (p := score.get("p")) is not None and not 0 <= p <= 1:
        yield f"{where}.p: {p} is not between 0 and 1"
    if n is not None and n < 0:
        yield f"{where}.n: {n} is negative"
    if hits is not None and (n is None or not 0 <= hits <= n):
        yield f"{where}: {hits} hits of n = {n}"
    if (se := score.get("se")) is not None and se < 0:
        yield f"{where}.se: {se} is negative"
    if (level := score.get("level")) is not None and not 0 < level < 1:
        yield f"{where}.level: {level} is not between 0 and 1"


_NAMES = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    _Number: "a finite number",
    _Scalar: "text, a number or null",
}


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} (write null)"
    return type(value).__name__


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON (write null)")
