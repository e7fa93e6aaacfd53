"""Networks that are slow inside loops on the device."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import PyTree

from ntkuq.models.network import forward, parameters


def slow_in_loops(model: PyTree, x: PyTree) -> bool:
    """Whether a loop on the device would cost more than one call for each step.

    On a CPU, XLA runs convolutions inside a loop without threads.
    """
    # the kernel of a convolution has three axes or more; looking further takes a trace
    flat = all(leaf.ndim < 3 for leaf in jax.tree.leaves(parameters(model)))
    if flat or jax.default_backend() != "cpu":
        return False
    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
    # dropout, where it is on, asks for a key
    quiet = eqx.nn.inference_mode(model)
    program, *_ = eqx.filter_make_jaxpr(forward)(quiet, example)
    return "conv_general_dilated" in str(program)
