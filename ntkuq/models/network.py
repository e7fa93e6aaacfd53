"""`Network`: how to build a network, and the trained one where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree


class Network(eqx.Module):
    """A recipe for a network and, once trained, the network itself.

    Args:
        build: key -> `eqx.Module`; one example in, outputs out. Needed by methods that
            train from scratch (`MAP`, `DeepEnsemble`). Dropout is off throughout.
        trained: the trained module. Needed by methods that linearize (`Laplace`,
            `NTKGP(Empirical())`).

    A plain trained module is accepted wherever a `Network` is.

    >>> import equinox as eqx, jax
    >>> net = Network(lambda key: eqx.nn.MLP(2, 1, 4, 1, key=key))
    >>> net.trained is None
    True
    """

    build: Callable[..., PyTree] | None = None
    trained: PyTree | None = None

    def __check_init__(self):
        if self.build is None and self.trained is None:
            raise ValueError(
                "Network: expected a builder (key -> eqx.Module), a trained module, or "
                "both; got neither"
            )
        if self.build is not None and isinstance(self.build, eqx.Module):
            raise TypeError(
                "Network: `build` is a function key -> eqx.Module, got the module "
                f"{type(self.build).__name__} itself: pass it as trained="
            )

    def init(self, key: Array) -> PyTree:
        """A freshly initialized module; ValueError where there is no builder."""
        if self.build is None:
            raise ValueError(
                "this method trains from scratch and needs a builder (key -> "
                f"eqx.Module); got a trained {type(self.trained).__name__}, whose "
                "copies would share one initialization: use Network(build, trained=…)"
            )
        # dropout and the like stay off, in training too: one forward pass, no key
        return eqx.nn.inference_mode(self.build(key))


def as_network(value: PyTree) -> Network:
    """A `Network` from a `Network`, a trained module, or a builder."""
    if isinstance(value, Network):
        return value
    if isinstance(value, eqx.Module):
        return Network(trained=value)
    if callable(value):
        return Network(build=value)
    raise TypeError(
        "expected a Network, a trained eqx.Module, or a builder key -> eqx.Module; "
        f"got {type(value).__name__}"
    )


def forward(model: PyTree, x: PyTree) -> Float[Array, " C"]:
    """The outputs of one example, flattened to (C,).

    Raises:
        TypeError: where they are several arrays.
    """
    outputs = model(x)
    if not eqx.is_array_like(outputs):
        raise TypeError(
            "expected a network with one array of outputs for an example, got "
            f"{type(outputs).__name__}: join them, such as by jnp.concatenate"
        )
    return jnp.ravel(outputs)


def parameters(model: PyTree) -> PyTree:
    """The trainable leaves: inexact arrays; everything else is `None`."""
    return eqx.filter(model, trainable(model))


class Frozen(eqx.Module):
    """A part of a network whose arrays are no parameters.

    >>> count(Frozen(eqx.nn.Linear(2, 3, key=jax.random.key(0))))
    0
    """

    value: PyTree


def trainable(model: PyTree) -> PyTree:
    """Which leaves are parameters, for `equinox.partition`.

    Inexact arrays; those inside an `equinox.nn.State` (running statistics of a batch
    norm) or a `Frozen` are not.
    """

    def is_fixed(node: PyTree) -> bool:
        return isinstance(node, eqx.nn.State | Frozen)

    def turn(leaf: PyTree) -> bool:
        return not is_fixed(leaf) and _is_parameter(leaf)

    return jax.tree.map(turn, model, is_leaf=is_fixed)


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """The tree with its floating-point arrays in `dtype`.

    >>> cast({"w": jnp.ones(2), "n": 3}, np.dtype("float16"))["w"].dtype
    dtype('float16')
    """

    def turn(leaf: PyTree) -> PyTree:
        inexact = eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic)
        inexact = inexact and jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.asarray(leaf, dtype) if inexact else leaf

    return jax.tree.map(turn, tree)


def count(model: PyTree) -> int:
    """The number of parameters P, of a module or of its shapes."""
    leaves = jax.tree.leaves(parameters(model))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _is_parameter(leaf: object) -> bool:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return eqx.is_inexact_array(leaf)


def check_finite(model: PyTree) -> None:
    """Raise `ValueError` where a weight is not finite, naming the leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters(model)):
        bad = int(np.sum(~np.isfinite(np.asarray(leaf))))
        if bad:
            raise ValueError(
                f"expected finite weights, got {bad} that are not in "
                f"{jax.tree_util.keystr(path)}: training diverged, or the file is "
                "damaged"
            )
