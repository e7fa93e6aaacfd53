"""Methods written as in Python, read without `eval`."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.cli.errors import UsageError


#: Names that may be called in the text of a method, from the top level of `ntkuq`.
STRATEGIES = (
    "MAP",
    "Laplace",
    "NTKGP",
    "NNGP",
    "GP",
    "DeepEnsemble",
    "Mixture",
    "NUTS",
    "SWAG",
    "MCDropout",
    "Variational",
    "SGMCMC",
    "LabelRegression",
    "WideEnsemble",
    "SampledLaplace",
    "Full",
    "KFAC",
    "EKFAC",
    "Diagonal",
    "LowRank",
    "All",
    "LastLayer",
    "Analytic",
    "Empirical",
    "RBF",
    "MarginalLikelihood",
    "LeaveOneOut",
    "LatentLaplace",
    "EllipticalSlice",
    "Fixed",
    "Train",
    "EarlyStopping",
    "Plain",
    "Bootstrap",
    "RandomizedPrior",
    "Anchored",
    "Snapshot",
    "NTKGPParam",
    "NTKGPFn",
    "NTKGPLin",
    "SGLD",
    "SGHMC",
    "HalfNormalNoise",
    "LogNormalNoise",
    "PriorKernel",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Categorical",
    "Bernoulli",
    "Poisson",
    "NormalPrior",
    "FanInPrior",
)


#: Further names in a command of a room, from the room.
CONTINUAL = (
    "AGEM",
    "DarkReplay",
    "EWC",
    "FROMP",
    "FineTuning",
    "Joint",
    "KernelRecursion",
    "LwF",
    "OGD",
    "OnlineEWC",
    "OnlineLaplace",
    "RandomPoints",
    "Replay",
    "SFSVI",
    "SynapticIntelligence",
    "UncertainPoints",
    "UntilFitted",
    "VCL",
    "WithReplay",
)


def known_in(room: str, names: Sequence[str]) -> dict[str, str]:
    """Name -> module of the strategies that a command of a room takes.

    >>> known_in("continual", CONTINUAL)["EWC"]
    'ntkuq.continual'
    """
    return {**_TOP, **dict.fromkeys(names, f"ntkuq.{room}")}


_TOP: dict[str, str] = dict.fromkeys(STRATEGIES, "ntkuq")


def parse(text: str, known: Mapping[str, str] = _TOP) -> Any:
    """A strategy object from its text, such as `Laplace(subset=LastLayer())`.

    Only calls of known strategies with literal or strategy arguments are accepted.

    Args:
        text: as in Python.
        known: name -> module of the strategies that may be called.

    Raises:
        UsageError: for anything else, with what is known.

    >>> parse("DeepEnsemble(size=3)").size
    3
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"cannot read {text!r}: expected a method as in Python, such as "
            "'Laplace(structure=KFAC())'"
        ) from error
    if isinstance(tree, ast.Tuple):
        raise UsageError(
            f"cannot use {text!r}: expected one method; repeat the flag for more"
        )
    if isinstance(tree, ast.Name):  # Laplace is as good as Laplace()
        tree = ast.Call(func=tree, args=[], keywords=[])
    return _value(tree, text, known)


def _value(node: ast.AST, text: str, known: Mapping[str, str]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node.func.id, node, text, known)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        piece = ast.unparse(node)
        raise UsageError(
            f"cannot use {piece!r} in {text!r}: expected a number, text, None, or a "
            f"known strategy ({', '.join(known)})"
        ) from error


def _call(name: str, node: ast.Call, text: str, known: Mapping[str, str]) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"{name!r} is not a known strategy{hint} (known: {', '.join(known)})"
        )
    make = getattr(importlib.import_module(known[name]), name)
    fields = list(inspect.signature(make).parameters)
    given = {}
    for number, argument in enumerate(node.args):
        if number >= len(fields):
            raise UsageError(
                f"{name} takes at most {len(fields)} arguments "
                f"({', '.join(fields) or 'none'}), got {len(node.args)} in {text!r}"
            )
        given[fields[number]] = _value(argument, text, known)
    for keyword in node.keywords:
        if keyword.arg is None:
            raise UsageError(
                f"cannot use '**' in {text!r}: write the fields out, as in "
                f"{name}(field=value)"
            )
        if keyword.arg in given:
            raise UsageError(f"{name}: {keyword.arg} is given twice in {text!r}")
        if keyword.arg not in fields:
            near = difflib.get_close_matches(str(keyword.arg), fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{name} has no field {keyword.arg!r}{hint} (fields: "
                f"{', '.join(fields) or 'none'})"
            )
        given[keyword.arg] = _value(keyword.value, text, known)
    needed = [
        field
        for field, parameter in inspect.signature(make).parameters.items()
        if parameter.default is inspect.Parameter.empty and field not in given
    ]
    if needed:
        raise UsageError(
            f"{name} needs {', '.join(needed)}, got {text!r} without; write "
            f"{name}({needed[0]}=...)"
        )
    _check(make, given, text)
    return make(**given)


def _check(make: Any, given: dict[str, Any], text: str) -> None:
    """Values of the types that the fields declare, so that mistakes show at once."""
    types = typing.get_type_hints(make)
    for name, value in given.items():
        kind = types.get(name)
        if not _fits(value, kind):
            default = inspect.signature(make).parameters[name].default
            made = type(default).__module__.startswith("ntkuq.")
            such = f" such as {default!r}" if made else ""
            raise UsageError(
                f"{make.__name__}: expected {name}= {_words(kind)}{such}, got "
                f"{value!r} in {text!r}"
            )


def _fits(value: Any, kind: Any) -> bool:
    """Is the value of this type? A whole number is a number, True is none."""
    options = typing.get_args(kind) or (kind,)
    if isinstance(value, bool):
        return bool in options and complex not in options
    if isinstance(value, int | float) and complex in options:  # what makes an array
        return True
    if isinstance(value, int) and float in options:
        return True
    try:
        return isinstance(value, kind)
    except TypeError:  # a type that Python cannot check, such as a tree of numbers
        return not isinstance(value, str)


def _words(kind: Any) -> str:
    """A type in words."""
    known = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        type(None): "None",
    }
    options = [o for o in typing.get_args(kind) or (kind,) if o is not None]
    if complex in options or not all(isinstance(o, type) for o in options):
        return "a number"
    if all(option in known for option in options):
        return " or ".join(known[option] for option in options)
    if float in options:
        return "a number, the learning rate"
    return "a strategy"
