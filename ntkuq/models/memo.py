"""Results that are kept between calls: by structure, or as long as an object lives."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree


def by_structure[T](function: Callable[..., T]) -> Callable[..., T]:
    """Call `function(*trees)` once for each structure of its arguments.

    As compiled programs are kept: arrays count by shape and type, everything else by
    equality, so that an object inside a network must not change after it was used. For
    functions that trace and never look at values.
    """

    @functools.lru_cache(maxsize=256)
    def kept(*key: Any) -> _Once:
        del key
        return _Once()

    @functools.wraps(function)
    def wrapped(*trees: PyTree) -> T:
        abstract = jax.tree.map(_abstract, eqx.filter(trees, _is_array))
        rest = eqx.filter(trees, _is_array, inverse=True)
        try:
            once = kept(*_hashable(abstract), *_hashable(rest), *mode())
        except TypeError as error:
            # a module may hold something static that cannot be hashed
            if "unhashable" not in str(error):
                raise
            return function(*trees)
        return once(function, trees)

    return wrapped


def by_identity[T](function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Call `function(one)` once for each object, which must not change.

    The value is forgotten with the object; it may hold parts of it, not itself.
    """
    kept: dict[int, tuple[weakref.ref, T]] = {}

    @functools.wraps(function)
    def wrapped(one: Any) -> T:
        found = kept.get(id(one))
        if found is not None and found[0]() is one:
            return found[1]
        value, key = function(one), id(one)
        try:
            reference = weakref.ref(one, lambda _: kept.pop(key, None))
        except TypeError:  # a list or a tuple of layers
            return value
        if value is not one:
            kept[key] = reference, value
        return value

    return wrapped


class _Once:
    """A value made at the first call."""

    def __init__(self):
        self.value: Any = None
        self.made = False

    def __call__(self, function: Callable, trees: tuple) -> Any:
        if not self.made:
            self.value = function(*trees)
            self.made = True
        return self.value


def mode() -> tuple:
    """What types depend on beside those of the arguments."""
    return jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.shape, str(leaf.dtype)
    return jax.typeof(leaf)


def _hashable(tree: PyTree) -> tuple[tuple, tuple, Any]:
    leaves, structure = jax.tree.flatten(tree)
    # 1 == True == 1.0, but a network may tell them apart
    return tuple(leaves), tuple(type(leaf) for leaf in leaves), structure
