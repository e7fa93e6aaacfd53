"""Networks with more or fewer hidden layers of the same kind."""

from __future__ import annotations

from ntkuq.kernels.layers import Activation, Dense, Flatten, Layer, UnsupportedLayer


def repeated(layers: tuple[Layer, ...] | None, depth: int) -> tuple[Layer, ...]:
    """A chain of dense layers with `depth` hidden layers.

    Args:
        layers: a chain of dense layers with the same nonlinearity after each but the
            last; `None` stands for a network that is no chain.
        depth: at least 1.

    Raises:
        UnsupportedLayer: for any other network.

    >>> import jax
    >>> hidden = Dense(True), Activation(jax.nn.relu)
    >>> len(repeated((*hidden, Dense(True)), 3))
    7
    """
    found = [] if layers is None else list(layers)
    start = 1 if found and isinstance(found[0], Flatten) else 0
    body = found[start:]
    linear = [layer for layer in body[::2] if isinstance(layer, Dense)]
    between = [layer for layer in body[1::2] if isinstance(layer, Activation)]
    if (
        len(linear) + len(between) < len(body)
        or len(linear) != len(between) + 1
        or not between
        or any(layer != between[0] for layer in between)
    ):
        names = ", ".join(type(layer).__name__ for layer in found) or "branches"
        raise UnsupportedLayer(
            "depth: expected a network of dense layers with one and the same "
            f"nonlinearity between them, got {names}; leave depth=None"
        )
    first, last = linear[0], linear[-1]
    inner = linear[1] if len(linear) > 2 else Dense(first.bias, last.fan_in)
    hidden = [layer for _ in range(depth - 1) for layer in (inner, between[0])]
    return (*found[:start], first, between[0], *hidden, last)
