"""Plain convolutional networks."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.models.architectures.dense import STANDARD
from ntkuq.models.parametrization import (
    AbstractParametrization,
    Place,
    Role,
    Scaled,
    parametrized,
)


class CNN(eqx.Module):
    """Convolutions with a nonlinearity each, the mean over positions, a dense layer.

    Args:
        convolutions: each keeps the size of the image.
        readout: from channels to outputs.
        activation: elementwise nonlinearity.
    """

    convolutions: tuple[eqx.nn.Conv2d | Scaled, ...]
    readout: eqx.nn.Linear | Scaled
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(
        self, x: Float[Array, "channels height width"], *, key: Array | None = None
    ) -> Float[Array, " C"]:
        """The outputs of one image."""
        del key
        for layer in self.convolutions:
            x = self.activation(layer(x))
        return self.readout(jnp.mean(x, axis=(1, 2)))


def cnn(
    channels: int,
    outputs: int,
    *,
    width: int = 16,
    depth: int = 2,
    window: int = 3,
    activation: Callable[[Array], Array] = jax.nn.relu,
    parametrization: AbstractParametrization = STANDARD,
) -> Callable[..., CNN]:
    """A builder of convolutional networks with global average pooling.

    `depth` convolutions of `width` channels with stride 1 and padding that keeps the
    size of the image, each followed by the nonlinearity; the mean over all positions; a
    dense layer. Images of any size are taken, channels first.

    Args:
        channels, outputs: of an image, and of the network.
        width, depth: channels of a hidden layer, number of convolutions.
        window: sides of a filter, odd.
        activation: elementwise nonlinearity.
        parametrization: as of `mlp`; the fan-in of a convolution is channels × window².

    Returns:
        build: key -> `CNN`.

    Raises:
        ValueError: for depth < 1 or an even window.

    References: LeCun, Bottou, Bengio, Haffner 1998 (doi 10.1109/5.726791); global
    pooling: Lin, Chen, Yan 2014 (arXiv 1312.4400).

    >>> cnn(3, 10)(jax.random.key(0))(jnp.ones((3, 8, 8))).shape
    (10,)
    """
    if depth < 1 or window % 2 == 0:
        raise ValueError(
            f"cnn: expected depth >= 1 and an odd window, got {depth} and {window}"
        )

    def build(key: Array) -> CNN:
        first, *keys, last = jax.random.split(key, depth + 1)
        convolutions = [
            convolution(channels, width, window, Role.INPUT, parametrization, first),
            *(
                convolution(width, width, window, Role.HIDDEN, parametrization, one)
                for one in keys
            ),
        ]
        readout = dense_readout(width, outputs, parametrization, last)
        return CNN(tuple(convolutions), readout, activation)

    return build


def convolution(
    channels: int,
    width: int,
    window: int,
    role: Role,
    parametrization: AbstractParametrization,
    key: Array,
) -> eqx.nn.Conv2d | Scaled:
    """A convolution that keeps the size of the image."""
    made, drawn = jax.random.split(key)
    layer = eqx.nn.Conv2d(channels, width, window, padding=window // 2, key=made)
    place = Place(role, channels * window**2, width)
    return parametrized(layer, place, parametrization, key=drawn)


def dense_readout(
    width: int, outputs: int, parametrization: AbstractParametrization, key: Array
) -> eqx.nn.Linear | Scaled:
    """The last layer."""
    made, drawn = jax.random.split(key)
    layer = eqx.nn.Linear(width, outputs, key=made)
    place = Place(Role.READOUT, width, width)
    return parametrized(layer, place, parametrization, key=drawn)
