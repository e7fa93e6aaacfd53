"""Methods written as in Python, read without `eval`."""

from __future__ import annotations

import ast
import difflib
import inspect
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
    "Full",
    "KFAC",
    "Diagonal",
    "All",
    "LastLayer",
    "Analytic",
    "Empirical",
    "RBF",
    "MarginalLikelihood",
    "Fixed",
    "Train",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Categorical",
    "Bernoulli",
    "Poisson",
    "NormalPrior",
)


def parse(text: str) -> Any:
    """A strategy object from its text, such as `Laplace(subset=LastLayer())`.

    Only calls of known strategies with literal or strategy arguments are accepted.

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
    if isinstance(tree, ast.Name):  # Laplace is as good as Laplace()
        tree = ast.Call(func=tree, args=[], keywords=[])
    return _value(tree, text)


def _value(node: ast.AST, text: str) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node.func.id, node, text)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        piece = ast.unparse(node)
        raise UsageError(
            f"cannot use {piece!r} in {text!r}: expected a number, text, None, or a "
            f"known strategy ({', '.join(STRATEGIES)})"
        ) from error


def _call(name: str, node: ast.Call, text: str) -> Any:
    import ntkuq

    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"{name!r} is not a known strategy{hint} (known: {', '.join(STRATEGIES)})"
        )
    make = getattr(ntkuq, name)
    fields = list(inspect.signature(make).parameters)
    given = {}
    for number, argument in enumerate(node.args):
        if number >= len(fields):
            raise UsageError(
                f"{name} takes at most {len(fields)} arguments "
                f"({', '.join(fields) or 'none'}), got {len(node.args)} in {text!r}"
            )
        given[fields[number]] = _value(argument, text)
    for keyword in node.keywords:
        if keyword.arg not in fields:
            near = difflib.get_close_matches(str(keyword.arg), fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{name} has no field {keyword.arg!r}{hint} (fields: "
                f"{', '.join(fields) or 'none'})"
            )
        given[keyword.arg] = _value(keyword.value, text)
    _check(make, given, text)
    return make(**given)


def _check(make: Any, given: dict[str, Any], text: str) -> None:
    """Strategies where strategies belong, so that mistakes show at once."""
    import dataclasses

    import equinox as eqx

    for item in dataclasses.fields(make):
        if item.name not in given or item.default is dataclasses.MISSING:
            continue
        value, default = given[item.name], item.default
        wants = isinstance(default, eqx.Module)
        if wants and value is not None and not isinstance(value, eqx.Module):
            raise UsageError(
                f"{make.__name__}: expected {item.name}= a strategy such as "
                f"{default!r}, got {value!r} in {text!r}"
            )
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and not isinstance(value, int | float | None):
            raise UsageError(
                f"{make.__name__}: expected {item.name}= a number, got {value!r} in "
                f"{text!r}"
            )
