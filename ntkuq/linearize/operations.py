"""How much work the forward pass of one example is, read off its equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import PyTree

from ntkuq.linearize.program import inner_jaxprs


#: How many simple equations take as long to compile, with their derivatives, as a
#: convolution, and as one equation in a loop (measured).
CONVOLUTION, IN_LOOP = 30, 4


class Operations(NamedTuple):
    """What a forward pass does.

    products: operations of matrix products, two a multiplication.
    convolutions: the same of convolutions.
    equations: how many equations are compiled, as simple ones: a convolution and the
        body of a loop count for several, however often the loop is passed.
    """

    products: float = 0.0
    convolutions: float = 0.0
    equations: int = 0


def operations(fn: Callable, *args: PyTree) -> Operations:
    """The operations of `fn(*args)`; nothing is computed.

    >>> import jax.numpy as jnp
    >>> weights, x = jnp.ones((3, 2)), jnp.ones(2)
    >>> operations(lambda w, x: jnp.tanh(w @ x), weights, x)
    Operations(products=12.0, convolutions=0.0, equations=2)
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> Operations:
    return _sum([_of(equation) for equation in jaxpr.eqns])


def _of(equation: Any) -> Operations:
    """One equation; a loop of unknown length counts as passed once."""
    if equation.primitive is primitives.dot_general_p:
        return Operations(products=_product(equation), equations=1)
    if equation.primitive is primitives.conv_general_dilated_p:
        return Operations(convolutions=_convolution(equation), equations=CONVOLUTION)
    inner = [_count(jaxpr) for jaxpr in inner_jaxprs(equation.params)]
    if not inner:
        return Operations(equations=1)
    if equation.primitive is primitives.cond_p:
        longest = max(inner, key=lambda one: one.products + one.convolutions)
        return longest._replace(equations=sum(one.equations for one in inner))
    total = _sum(inner)
    if equation.primitive is primitives.scan_p:
        times = equation.params["length"]
        total = total._replace(
            products=times * total.products, convolutions=times * total.convolutions
        )
    if equation.primitive in (primitives.scan_p, primitives.while_p):
        return total._replace(equations=IN_LOOP * total.equations)
    return total


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * _size(equation.outvars[0]) * math.prod(shape[n] for n in contracted)


def _convolution(equation: Any) -> float:
    """Each output is a product with a kernel, which has the inputs of one group."""
    kernel = equation.invars[1].aval.shape
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * _size(equation.outvars[0]) * math.prod(kernel) / outputs


def _size(atom: Any) -> int:
    return math.prod(atom.aval.shape)


def _sum(parts: list[Operations]) -> Operations:
    return Operations(
        sum(part.products for part in parts),
        sum(part.convolutions for part in parts),
        sum(part.equations for part in parts),
    )
