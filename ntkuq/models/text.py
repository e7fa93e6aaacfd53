"""Strategy objects as text: what a user would type, and what identifies a result."""

from __future__ import annotations

import dataclasses
import functools as ft
import hashlib
import secrets
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


#: Marks callables whose content cannot be read: they are equal to themselves only.
_PROCESS = secrets.token_hex(6)


def constructor(thing: Any) -> str:
    """A strategy object as the call that makes it, defaults left out.

    >>> from ntkuq.models import NormalPrior, Train
    >>> constructor(Train(0.02, steps=500)), constructor(NormalPrior(2.0))
    ('Train(optimizer=0.02, steps=500)', 'NormalPrior(precision=2.0)')
    """
    return _text(thing, _function_name)


def identity(thing: Any) -> str:
    """Like `constructor`, with every field, and functions by their code.

    It keys stored results: two objects with the same identity compute the same. A
    function is identified by its code, defaults and closure (not by the globals that it
    reads), an optax transformation by its program and first state. A callable that can
    be read in neither way has an identity of its own in each process.
    """
    return _text(thing, _Functions(), every=True)


def _text(thing: Any, function: Callable[[Any], str], *, every: bool = False) -> str:
    again = ft.partial(_text, function=function, every=every)
    if isinstance(thing, optax.GradientTransformation):
        return _optimizer(thing)
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = []
        for item in dataclasses.fields(thing):
            text = again(getattr(thing, item.name))
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
        return _array(thing)
    if callable(thing):
        return function(thing)
    return repr(thing)


def _array(thing: Any) -> str:
    if isinstance(thing, jax.Array) and jnp.issubdtype(
        thing.dtype, jax.dtypes.prng_key
    ):
        thing = jax.random.key_data(thing)
    return repr(np.asarray(thing).tolist())


def _function_name(thing: Any) -> str:
    return getattr(thing, "__name__", type(thing).__name__)


class _Functions:
    """Functions by what they compute; remembers those it is inside of."""

    def __init__(self):
        self.inside: list[int] = []

    def __call__(self, thing: Any) -> str:
        if id(thing) in self.inside:
            return f"{_function_name(thing)}#itself"
        self.inside.append(id(thing))
        content = self._content(thing)
        self.inside.pop()
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return f"{_function_name(thing)}#{digest}"

    def _content(self, thing: Any) -> str:
        again = ft.partial(_text, function=self, every=True)
        if isinstance(thing, ft.partial):
            return again([thing.func, thing.args, thing.keywords])
        if hasattr(thing, "__wrapped__"):
            return again(thing.__wrapped__)
        code = getattr(thing, "__code__", None)
        if isinstance(code, CodeType):
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            extra = again([thing.__defaults__, thing.__kwdefaults__, cells])
            return f"{_code(code)} {extra}"
        module = str(getattr(thing, "__module__", ""))
        name = getattr(thing, "__qualname__", "")
        if name and getattr(sys.modules.get(module), name, None) is thing:
            return f"{module}.{name}"
        return f"{_PROCESS} {id(thing)}"


def _code(code: CodeType) -> str:
    constants = [
        _code(value) if isinstance(value, CodeType) else repr(value)
        for value in code.co_consts
    ]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _optimizer(thing: optax.GradientTransformation) -> str:
    """An optax transformation has no name: identify it by the program it is."""
    tree = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    def update(grads: Any, state: Any, params: Any) -> Any:
        return thing.update(grads, state, params)

    # optax relies on the standard rules of promotion
    with jax.numpy_dtype_promotion("standard"):
        state = thing.init(tree)
        program = jax.make_jaxpr(update)(tree, state, tree)
    values = [_array(leaf) for leaf in (*jax.tree.leaves(state), *program.consts)]
    content = f"{program.jaxpr} {values}"
    return f"optax#{hashlib.sha256(content.encode()).hexdigest()[:16]}"
