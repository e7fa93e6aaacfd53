"""A posterior as plain JSON and a list of arrays, and back.

Classes of this package are written by name with all their fields. Whatever else it
holds (the classes of the user's network, functions) is the user's own, and never
written: a place for it is kept, with its outline, and filled on reading from the
problem and method that are given, whose outline must be the same.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ntkuq.models import BNN, Network
from ntkuq.models.network import as_network


#: Rooms whose classes are written by name.
_ROOMS = ("continual", "data", "kernels", "linearize", "models", "posteriors")


class LoadError(ValueError):
    """A file that does not hold this posterior: damaged, or of something else."""


class Candidate(NamedTuple):
    """Something the user gives: where it was found, its structure, and the thing."""

    place: str
    outline: str
    tree: Any


class Given(NamedTuple):
    """What the user gives: the network, and candidates for what is not written."""

    network: Network
    candidates: tuple[Candidate, ...]

    def like(self, outline: str) -> list[Candidate]:
        """The candidates of this structure."""
        return [found for found in self.candidates if found.outline == outline]


def given(like: Any, method: Any) -> Given:
    """All that can be found in a problem (or a network) and a method."""
    network = like.network if isinstance(like, BNN) else as_network(like)
    model = network.trained
    if model is None:
        model = eqx.filter_eval_shape(network.init, jax.random.key(0))
    found = [(".network", tree) for tree in (*_forms(model), *_functions(model))]
    # the user's layers inside a network of this package
    for place, part in _foreign(model, ".network"):
        found += [(place, tree) for tree in _forms(part)]
    found += _foreign(method, ".method")
    if isinstance(like, BNN):
        found += _foreign(like, ".bnn")
    candidates = [Candidate(place, _outline(tree), tree) for place, tree in found]
    return Given(network, tuple(candidates))


def _forms(model: PyTree) -> list[PyTree]:
    """A network, as it is used, and its parameters alone."""
    used = eqx.nn.inference_mode(model)
    return [model, used, *(eqx.filter(tree, _is_parameter) for tree in (model, used))]


def _functions(thing: Any) -> list[Any]:
    """The functions inside a network, such as its activations."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        children = list(_fields(thing).values())
    elif isinstance(thing, dict):
        children = list(thing.values())
    elif isinstance(thing, list | tuple):
        children = list(thing)
    else:
        return [thing] if callable(thing) else []
    return [found for child in children for found in _functions(child)]


def _foreign(thing: Any, path: str) -> list[tuple[str, Any]]:
    """The parts that are not written, with their places."""
    if isinstance(thing, Network) or _plain(thing):
        return []
    children = _children(thing)
    if children is None:
        return [(path, thing)]
    return [
        part
        for name, child in children.items()
        for part in _foreign(child, f"{path}.{name}")
    ]


def _plain(thing: Any) -> bool:
    kinds = np.dtype | np.ndarray | np.generic | jax.Array | enum.Enum
    return thing is None or isinstance(thing, bool | int | float | str | kinds)


def _children(thing: Any) -> dict[Any, Any] | None:
    """What a container or an object of this package holds; `None` for others."""
    if type(thing) in (list, tuple):
        return dict(enumerate(thing))
    if type(thing) is dict:
        return thing
    if _ours(type(thing)) and not isinstance(thing, enum.Enum):
        return _fields(thing)
    return None


def _ours(kind: type) -> bool:
    package, _, rest = kind.__module__.partition(".")
    ours = package == "ntkuq" and rest.partition(".")[0] in _ROOMS
    record = dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
    record = record or issubclass(kind, enum.Enum)
    return ours and record and kind.__qualname__ == kind.__name__


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__name__}"


def _names(kind: Any) -> list[str]:
    if not dataclasses.is_dataclass(kind):
        return list(kind._fields)
    # what a class computes itself is not stored, though a base has a field for it
    names = [field.name for field in dataclasses.fields(kind)]
    return [name for name in names if not isinstance(_static(kind, name), property)]


def _static(kind: Any, name: str) -> Any:
    return inspect.getattr_static(kind, name, None)


def _default(kind: type, name: Any) -> Any:
    """The value of a field that was not given; `None` where it has none."""
    field = getattr(kind, "__dataclass_fields__", {}).get(name)
    default = getattr(field, "default", None)
    return None if default is dataclasses.MISSING else default


def _fields(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name, None) for name in _names(type(thing))}


#: In place of a function that a class of this package has by default.
_AS_DEFINED = {"$default": None}


def _is_default(thing: Any, name: Any, value: Any) -> bool:
    return callable(value) and value is _default(type(thing), name)


def _is_number(leaf: Any) -> bool:
    kinds = bool | int | float | np.ndarray | np.generic | jax.ShapeDtypeStruct
    return isinstance(leaf, kinds) or eqx.is_array(leaf)


def _is_parameter(leaf: Any) -> bool:
    shaped = eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    return shaped and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _outline(thing: Any) -> str:
    """The structure of a thing without its numbers; functions by name."""
    marked = jax.tree.map(lambda leaf: _NUMBER if _is_number(leaf) else leaf, thing)
    return _text(marked)


class _Number:
    """Stands for a number or an array."""


_NUMBER = _Number()


def _text(thing: Any) -> str:
    if thing is _NUMBER:
        return "#"
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        inner = ", ".join(f"{k}={_text(v)}" for k, v in _fields(thing).items())
        return f"{type(thing).__name__}({inner})"
    if isinstance(thing, list | tuple):
        return f"{type(thing).__name__}({', '.join(map(_text, thing))})"
    if isinstance(thing, dict):
        inner = ", ".join(f"{k!r}: {_text(v)}" for k, v in thing.items())
        return f"{{{inner}}}"
    if isinstance(thing, functools.partial):
        return f"partial({_text(thing.func)}, {_text([thing.args, thing.keywords])})"
    if isinstance(thing, np.ndarray | jax.Array):
        return f"{thing.dtype}{thing.shape}"
    if callable(thing):
        return getattr(thing, "__name__", type(thing).__name__)
    plain = type(thing).__repr__ is object.__repr__  # it shows an address
    return type(thing).__name__ if plain else repr(thing)


def array_type(name: str) -> np.dtype:
    """The dtype of this name; those of numbers only."""
    try:
        dtype = jnp.dtype(name)
    except TypeError as error:
        raise LoadError(f"expected the name of a dtype, came {name!r}") from error
    if dtype.kind not in "biufcV" or dtype.hasobject or dtype.fields:
        raise LoadError(f"expected a dtype of numbers, came {name!r}")
    return dtype


def stored_type(dtype: np.dtype) -> np.dtype:
    """How NumPy's format stores it: types that it does not know as integers."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


class Writer:
    """Turns a posterior into JSON, and collects its arrays."""

    def __init__(self, given: Given):
        self.given = given
        self.arrays: list[np.ndarray] = []
        self._known: dict[int, tuple[int, Any]] = {}

    def encode(self, thing: Any, path: str) -> Any:
        """JSON of the thing at this place of the posterior."""
        if thing is None or type(thing) in (bool, int, str):
            return thing
        if isinstance(thing, float) and not isinstance(thing, np.generic):
            return thing if math.isfinite(thing) else {"$float": str(thing)}
        if isinstance(thing, np.dtype):
            return {"$dtype": thing.name}
        if isinstance(thing, np.ndarray | np.generic | jax.Array):
            return self._array(thing, path)
        if isinstance(thing, enum.Enum) and _ours(type(thing)):
            return {"$enum": _name(type(thing)), "member": thing.name}
        if isinstance(thing, Network):
            return {"$network": self.encode(thing.trained, f"{path}.trained")}
        children = _children(thing)
        if children is None:
            return self._place(thing, path)
        items = {
            k: _AS_DEFINED
            if _is_default(thing, k, v)
            else self.encode(v, f"{path}.{k}")
            for k, v in children.items()
        }
        if type(thing) is dict:
            if not all(isinstance(key, str) for key in items):
                raise TypeError(f"save: expected keys of text at {path}, got others")
            return {"$dict": items}
        if type(thing) in (list, tuple):
            return {f"${type(thing).__name__}": list(items.values())}
        return {"$class": _name(type(thing)), "fields": items}

    def _array(self, thing: Any, path: str) -> dict[str, Any]:
        form = "jax" if isinstance(thing, jax.Array) else "numpy"
        form = "scalar" if isinstance(thing, np.generic) else form
        if isinstance(thing, jax.Array) and jnp.issubdtype(
            thing.dtype, jax.dtypes.prng_key
        ):
            data = self._array(jax.random.key_data(thing), path)
            return {"$key": str(jax.random.key_impl(thing)), "data": data}
        if id(thing) not in self._known:
            array = np.asarray(thing)
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            self._known[id(thing)] = (len(self.arrays), thing)
            self.arrays.append(np.ascontiguousarray(little).reshape(array.shape))
        return {"$array": self._known[id(thing)][0], "form": form}

    def _place(self, thing: Any, path: str) -> dict[str, Any]:
        outline = _outline(thing)
        if not self.given.like(outline):
            raise TypeError(
                f"save: expected at {path} numbers, classes of ntkuq, or a part of "
                f"posterior.bnn or posterior.method, got {_short(outline)}, which "
                "could not be found again when the file is read"
            )
        numbers = [leaf for leaf in jax.tree.leaves(thing) if _is_number(leaf)]
        return {
            "$given": outline,
            "numbers": [self.encode(leaf, path) for leaf in numbers],
        }


class Reader:
    """Turns JSON and arrays into a posterior."""

    def __init__(self, arrays: list[np.ndarray], given: Given):
        self.arrays, self.given = arrays, given
        self._made: dict[tuple[int, str], Any] = {}

    def decode(self, item: Any, path: str) -> Any:
        """The thing at this place of the posterior."""
        if item is None or isinstance(item, bool | int | float | str):
            return item
        try:
            return self._compound(item, path)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise LoadError(
                f"expected a posterior of this version of ntkuq, came at {path} what "
                f"it cannot read ({type(error).__name__}: {error})"
            ) from error

    def _compound(self, item: dict[str, Any], path: str) -> Any:
        kind = next(iter(item))
        if kind == "$float":
            return float(item[kind])
        if kind == "$dtype":
            return array_type(item[kind])
        if kind == "$array":
            return self._array(item[kind], item["form"])
        if kind == "$key":
            data = self.decode(item["data"], path)
            return jax.random.wrap_key_data(data, impl=item[kind])
        if kind in ("$list", "$tuple"):
            parts = [self.decode(v, f"{path}.{n}") for n, v in enumerate(item[kind])]
            return tuple(parts) if kind == "$tuple" else parts
        if kind == "$dict":
            return {k: self.decode(v, f"{path}.{k}") for k, v in item[kind].items()}
        if kind == "$enum":
            return _class(item[kind])[item["member"]]
        if kind == "$network":
            trained = self.decode(item[kind], f"{path}.trained")
            return Network(self.given.network.build, trained)
        if kind == "$class":
            return self._object(item, path)
        if kind == "$given":
            return self._filled(item, path)
        raise LoadError(f"expected a known kind of entry at {path}, came {kind!r}")

    def _array(self, number: int, form: str) -> Any:
        if (number, form) not in self._made:
            array = self.arrays[number]
            if form == "jax":
                # keeps float64 where the default is float32
                with jax.enable_x64(True):
                    array = jnp.asarray(array)
            self._made[number, form] = array[()] if form == "scalar" else array
        return self._made[number, form]

    def _object(self, item: dict[str, Any], path: str) -> Any:
        kind = _class(item["$class"])
        names, fields = _names(kind), item["fields"]
        if set(names) != set(fields):
            raise LoadError(
                f"expected {kind.__name__} with the fields {', '.join(names)}, came "
                f"{', '.join(fields)}: read the file with the version of ntkuq that "
                "wrote it"
            )
        values = {
            name: _default(kind, name)
            if fields[name] == _AS_DEFINED
            else self.decode(fields[name], f"{path}.{name}")
            for name in names
        }
        if not dataclasses.is_dataclass(kind):
            return kind(**values)
        # as Equinox unflattens: the values were checked when they were made
        made: Any = object.__new__(kind)  # pyright: ignore[reportArgumentType]
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made

    def _filled(self, item: dict[str, Any], path: str) -> Any:
        outline = item["$given"]
        found = self.given.like(outline)
        if not found:
            raise LoadError(_missing(outline, path, self.given))
        # of several with one outline, the one at the same place
        best = max(found, key=lambda candidate: _shared(candidate.place, path))
        leaves, structure = jax.tree.flatten(best.tree)
        numbers = iter([self.decode(number, path) for number in item["numbers"]])
        filled = []
        for leaf in leaves:
            value = next(numbers) if _is_number(leaf) else leaf
            # networks may be stacked along a leading axis
            fits = np.shape(value) in ((), np.shape(leaf))
            fits = fits or np.shape(value)[1:] == np.shape(leaf)
            if _is_number(leaf) and not fits:
                raise LoadError(
                    f"expected the network that was saved, with an array of shape "
                    f"{np.shape(value)} where the one given has {np.shape(leaf)}: "
                    "build it with the same sizes"
                )
            filled.append(value)
        return jax.tree.unflatten(structure, filled)


def _class(name: str) -> Any:
    """A class of this package that holds data; nothing else is looked up."""
    module, _, attribute = name.partition(":")
    package, _, rest = module.partition(".")
    if package == "ntkuq" and rest.partition(".")[0] in _ROOMS:
        try:
            kind = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            kind = None
        if isinstance(kind, type) and _ours(kind) and kind.__module__ == module:
            return kind
    raise LoadError(
        f"expected a class of this version of ntkuq, came {name!r}: read the file with "
        "the version that wrote it"
    )


def _shared(one: str, two: str) -> int:
    """How many of the last parts of two places agree."""
    pairs = zip(reversed(one.split(".")), reversed(two.split(".")), strict=False)
    count = 0
    for a, b in pairs:
        if a != b:
            break
        count += 1
    return count


def _missing(outline: str, path: str, given: Given) -> str:
    if path.startswith(".method"):
        return (
            f"expected the method, which has {_short(outline)} of yours inside, at "
            f"{path}: give it as load(…, method=)"
        )
    outlines = [candidate.outline for candidate in given.candidates]
    nearest = max(outlines, key=lambda text: _common(text, outline))
    at = max(0, _common(nearest, outline) - 30)
    return (
        f"expected at {path} a network (or part of the BNN) of the structure that was "
        f"saved, '…{_short(outline[at:])}', came '…{_short(nearest[at:])}': build it "
        "as it was when it was saved"
    )


def _common(one: str, two: str) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b),
        min(len(one), len(two)),
    )


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
