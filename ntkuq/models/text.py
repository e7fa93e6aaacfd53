"""Strategy objects as text: what a user would type, and what identifies a result."""

from __future__ import annotations

import dataclasses
import functools as ft
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def constructor(thing: Any) -> str:
    """A strategy object as the call that makes it, defaults left out.

    >>> from ntkuq.models import NormalPrior, Train
    >>> constructor(Train(0.01, steps=500)), constructor(NormalPrior(2.0))
    ('Train(steps=500)', 'NormalPrior(precision=2.0)')
    """
    return _text(thing, _function_name)


def identity(thing: Any) -> str:
    """Like `constructor`, with every field, and functions by what they compute.

    Two objects with the same identity give the same result: it keys stored results.
    """
    return _text(thing, _function_digest, every=True)


def _text(thing: Any, function: Callable[[Any], str], *, every: bool = False) -> str:
    again = ft.partial(_text, function=function, every=every)
    if isinstance(thing, optax.GradientTransformation):
        return _optimizer(thing)
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = []
        for item in dataclasses.fields(thing):
            value = getattr(thing, item.name)
            text = again(value)
            default = dataclasses.MISSING if every else item.default
            if default is dataclasses.MISSING or again(default) != text:
                parts.append(f"{item.name}={text}")
        return f"{type(thing).__name__}({', '.join(parts)})"
    if isinstance(thing, tuple | list):
        inner = ", ".join(again(value) for value in thing)
        return f"({inner})" if isinstance(thing, tuple) else f"[{inner}]"
    if isinstance(thing, dict):
        inner = ", ".join(f"{key!r}: {again(value)}" for key, value in thing.items())
        return f"{{{inner}}}"
    if isinstance(thing, np.ndarray | np.generic | jax.Array):
        return repr(np.asarray(thing).tolist())
    if callable(thing):
        return function(thing)
    return repr(thing)


def _function_name(thing: Any) -> str:
    return getattr(thing, "__name__", type(thing).__name__)


def _function_digest(thing: Any) -> str:
    code = getattr(thing, "__code__", None)
    if code is None:
        return _function_name(thing)
    content = repr((code.co_code, code.co_names, code.co_varnames))
    constants = [c for c in code.co_consts if isinstance(c, int | float | str | None)]
    content += repr(constants)
    return f"{thing.__name__}#{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _optimizer(thing: optax.GradientTransformation) -> str:
    """An optax transformation has no name: identify it by the program it is."""
    tree = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    def update(grads: Any, state: Any, params: Any) -> Any:
        return thing.update(grads, state, params)

    # optax relies on the standard rules of promotion
    with jax.numpy_dtype_promotion("standard"):
        state = thing.init(tree)
        program = str(jax.make_jaxpr(update)(tree, state, tree))
    return f"optax#{hashlib.sha256(program.encode()).hexdigest()[:12]}"
