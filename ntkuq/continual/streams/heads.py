"""One head a task: only the classes of a task compete."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ntkuq.data import Dataset


#: The output of a class that cannot be: its probability is exactly 0 in every type.
NEVER = -1e9


class MultiHead(eqx.Module):
    """A classifier with a head for each task, which an input names.

    $f_c(x, h)$ is the network's output where class c belongs to head h, and so low
    elsewhere that the class has probability 0: the softmax runs over the classes of
    one task.

    Args:
        network: one example -> C outputs.
        heads: (H, C), which classes belong to each head.

    >>> import jax
    >>> net = MultiHead(eqx.nn.Linear(2, 4, key=jax.random.key(0)), np.eye(2, 4) > 0)
    >>> out = net((jnp.ones(2), jnp.asarray(1)))
    >>> (out > -1e8).tolist()
    [False, True, False, False]
    """

    network: PyTree
    heads: Bool[np.ndarray, "H C"]

    def __call__(self, inputs: tuple[PyTree, Int[Array, ""]]) -> Float[Array, " C"]:
        """The outputs for an input and the number of its head."""
        x, head = inputs
        outputs = jnp.ravel(self.network(x))
        return jnp.where(jnp.asarray(self.heads)[head], outputs, NEVER)


def multi_head(
    build: Callable[[Array], PyTree], heads: Bool[np.ndarray, "H C"]
) -> Callable[[Array], MultiHead]:
    """A builder of the network with a head for each task of a stream.

    Args:
        build: key -> network with an output for every class.
        heads: `stream.heads`.

    >>> import jax
    >>> line = lambda key: eqx.nn.Linear(2, 4, key=key)
    >>> multi_head(line, np.ones((1, 4), bool))(jax.random.key(0)).heads.shape
    (1, 4)
    """

    def with_heads(key: Array) -> MultiHead:
        return MultiHead(build(key), np.asarray(heads, bool))

    return with_heads


def with_head(data: Dataset, number: int) -> Dataset:
    """Inputs with the number of their head beside them, as `MultiHead` takes them."""
    head = np.full(len(data), number, np.int32)
    return data.with_inputs((data.x, head))
