"""Small residual networks without normalization."""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.models.architectures.convolutional import convolution, dense_readout
from ntkuq.models.architectures.dense import STANDARD
from ntkuq.models.parametrization import AbstractParametrization, Role, Scaled


class ResNet(eqx.Module):
    r"""A convolution, residual blocks, the mean over positions, a dense layer.

    A block is $h + L^{-1/2}\, V * \phi(U * \phi(h))$ with L blocks.

    Args:
        stem: the first convolution.
        blocks: two convolutions each; all keep the size of the image.
        readout: from channels to outputs.
        activation: $\phi$.
    """

    stem: eqx.nn.Conv2d | Scaled
    blocks: tuple[tuple[eqx.nn.Conv2d | Scaled, eqx.nn.Conv2d | Scaled], ...]
    readout: eqx.nn.Linear | Scaled
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(
        self, x: Float[Array, "channels height width"], *, key: Array | None = None
    ) -> Float[Array, " C"]:
        """The outputs of one image."""
        del key
        h = self.stem(x)
        share = 1.0 / math.sqrt(len(self.blocks))
        for first, second in self.blocks:
            h = h + share * second(self.activation(first(self.activation(h))))
        return self.readout(jnp.mean(self.activation(h), axis=(1, 2)))


def resnet(
    channels: int,
    outputs: int,
    *,
    width: int = 16,
    blocks: int = 2,
    window: int = 3,
    activation: Callable[[Array], Array] = jax.nn.relu,
    parametrization: AbstractParametrization = STANDARD,
) -> Callable[..., ResNet]:
    r"""A builder of residual networks that need no normalization.

    Pre-activation blocks of two convolutions with identity shortcuts. Their branches
    are multiplied by $L^{-1/2}$ for L blocks, a constant: the signal then grows by a
    bounded factor whatever the depth, which is what batch normalization is for at
    initialization. (Fixup instead starts the last convolution of each branch at zero,
    which leaves nothing of it in the kernel at initialization.)

    Args:
        channels, outputs: of an image, and of the network.
        width, blocks: channels, number of blocks L.
        window: sides of a filter, odd.
        activation: elementwise nonlinearity.
        parametrization: as of `mlp`; the fan-in of a convolution is channels × window².

    Returns:
        build: key -> `ResNet`.

    Raises:
        ValueError: for fewer than one block or an even window.

    References: He, Zhang, Ren, Sun 2016 (arXiv 1603.05027); Hayou et al. 2021, *Stable
    ResNet* (arXiv 2010.12859); Zhang, Dauphin, Ma 2019, Fixup (arXiv 1901.09321).

    >>> resnet(3, 10, width=4)(jax.random.key(0))(jnp.ones((3, 8, 8))).shape
    (10,)
    """
    if blocks < 1 or window % 2 == 0:
        raise ValueError(
            f"resnet: expected blocks >= 1 and an odd window, got {blocks} and {window}"
        )

    def build(key: Array) -> ResNet:
        first, *keys, last = jax.random.split(key, 2 * blocks + 2)
        hidden = [
            convolution(width, width, window, Role.HIDDEN, parametrization, one)
            for one in keys
        ]
        return ResNet(
            convolution(channels, width, window, Role.INPUT, parametrization, first),
            tuple(zip(hidden[::2], hidden[1::2], strict=True)),
            dense_readout(width, outputs, parametrization, last),
            activation,
        )

    return build
