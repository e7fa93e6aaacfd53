"""The networks and the data of the study of conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

import ntkuq as nq
from experiments import pictures
from ntkuq.kernels import Analytic, StandardParametrization
from ntkuq.models.architectures import cnn, mlp, resnet
from ntkuq.models.parametrization import (
    NTK,
    AbstractParametrization,
    MuP,
    Place,
    Scales,
    Standard,
)


#: Of weights (times the root of the fan-in) and biases, in every parametrization.
WEIGHT_STD, BIAS_STD = math.sqrt(2.0), 0.1
PARAMETRIZATIONS: dict[str, AbstractParametrization] = {
    "standard": Standard(WEIGHT_STD, BIAS_STD),
    "ntk": NTK(WEIGHT_STD, BIAS_STD),
    "mup": MuP(WEIGHT_STD, BIAS_STD),
}
DATA = ("toy", "mnist", "fashion_mnist", "cifar10")


class Task(NamedTuple):
    """Inputs (N, d) or (N, channels, height, width), targets (N, 1), in float64."""

    x: np.ndarray
    y: np.ndarray


class WrittenOut(AbstractParametrization):
    """A parametrization with a gain at every layer, also where it is 1.

    So that networks of all parametrizations are one program.

    >>> WrittenOut(Standard(1.0)).scales(Place(Role.HIDDEN, 4, 4)).gains
    (1.0, 1.0)
    """

    inner: AbstractParametrization

    @property
    def text(self) -> str:
        return "gains written out"

    def scales(self, place: Place) -> Scales | None:
        found = self.inner.scales(place)
        if found is None:
            return None
        return found._replace(gains=found.gains or (1.0, 1.0))


class Family(NamedTuple):
    """A kind of network.

    make: (shape of an example, width, parametrization) -> builder.
    images: does it take images? else vectors.
    """

    make: Callable[[tuple[int, ...], int, AbstractParametrization], Callable]
    images: bool


def _dense(depth: int) -> Family:
    def make(shape, width, parametrization):
        return mlp(
            shape[0],
            1,
            width=width,
            depth=depth,
            activation=jax.nn.relu,
            parametrization=parametrization,
        )

    return Family(make, images=False)


def _cnn(shape, width, parametrization):
    return cnn(shape[0], 1, width=width, parametrization=parametrization)


def _resnet(shape, width, parametrization):
    return resnet(shape[0], 1, width=width, blocks=1, parametrization=parametrization)


FAMILIES = {
    "shallow": _dense(1),
    "deep": _dense(3),
    "cnn": Family(_cnn, images=True),
    "resnet": Family(_resnet, images=True),
}


def task(name: str, points: int, pool: int, *, images: bool) -> Task:
    r"""The data of this name, the same for every network and seed.

    "toy" are points of the unit sphere in 10 dimensions with $y = \sin(3\,w \cdot x)$
    for a unit vector w; the others are the classes 0 and 1 of a set of images, as many
    of each, with targets ±1; pixels are means over squares of side `pool`, centered
    and scaled by one mean and one standard deviation.

    Args:
        name: one of `DATA`.
        points: N.
        pool: side of the squares.
        images: keep the axes of an image, channels first, or make one.

    Raises:
        ValueError: for images of a set that has none, another name, or fewer than two
            points.
    """
    if points < 2 or pool < 1:
        raise ValueError(f"expected points >= 2 and pool >= 1, got {points} and {pool}")
    generator = np.random.default_rng(0)
    if name == "toy":
        if images:
            raise ValueError("the toy set has no images: take a dense network")
        x, w = generator.normal(size=(points, 10)), generator.normal(size=10)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return Task(x, np.sin(3 * x @ w / np.linalg.norm(w))[:, None])
    found = pictures.load(name)
    share = (points + 1) // 2
    rows = [
        generator.permutation(np.flatnonzero(found.y == label))[:share]
        for label in (0, 1)
    ]
    chosen = np.stack(rows, axis=1).reshape(-1)[:points]
    x = found.x[chosen].astype(np.float64)
    x = x[..., None] if x.ndim == 3 else x
    height, width = (side // pool * pool for side in x.shape[1:3])
    x = x[:, :height, :width].reshape(
        len(x), height // pool, pool, width // pool, pool, -1
    )
    x = np.moveaxis(x.mean(axis=(2, 4)), -1, 1)
    x = (x - x.mean()) / x.std()
    y = np.where(found.y[chosen] == 0, -1.0, 1.0)[:, None]
    return Task(x if images else x.reshape(len(x), -1), y)


def builder(
    network: str, shape: tuple[int, ...], width: int, parametrization: str
) -> Callable[..., PyTree]:
    """key -> network, with a gain at every layer."""
    written = WrittenOut(PARAMETRIZATIONS[parametrization])
    return FAMILIES[network].make(shape, width, written)


def limit(network: str, x: Array, width: int, parametrization: str) -> np.ndarray:
    r"""The tangent kernel of infinite width at the inputs, (N, N).

    In the NTK parametrization it is $\Theta_\infty$. In the standard one the weights
    of a layer count with its fan-in, so that the kernel grows like the width: it is
    $\Theta_\infty$ with the fan-ins of this `width`. For μP each layer's part is
    divided by the width that the first layer's gain, the last layer's gain, and the
    backward pass through it leave: that is the standard one counted with the fan-ins of
    a network of width 1.

    Args:
        network: of `FAMILIES`.
        x: inputs.
        width: of the network.
        parametrization: of `PARAMETRIZATIONS`.
    """
    # only the standard one depends on the width
    counted = width if parametrization == "standard" else 1
    held = np.asarray(x)
    key = (network, counted, parametrization == "ntk", held.shape, held.tobytes())
    if key not in _LIMITS:
        _LIMITS[key] = _limit(network, x, counted, tangent=parametrization == "ntk")
    return _LIMITS[key]


#: Kernels of infinite width by network, fan-in, form and data.
_LIMITS: dict[tuple, np.ndarray] = {}


def _limit(network: str, x: Array, counted: int, *, tangent: bool) -> np.ndarray:
    build = FAMILIES[network].make(x.shape[1:], counted, PARAMETRIZATIONS["standard"])
    # neither the likelihood nor the prior takes part
    bnn = nq.BNN(nq.Network(build), nq.Gaussian(), nq.NormalPrior(1.0))
    if tangent:
        kernel = Analytic(ard=False).ntk(bnn, x, 1.0)
    else:
        standard = Analytic(ard=False, parametrization=StandardParametrization())
        kernel = standard.dynamics(bnn, x, 1.0)
    values = {"weight std": WEIGHT_STD, "bias std": BIAS_STD}
    params = {
        name: jax.numpy.full(old.shape, math.log(values.get(name, 1.0)), old.dtype)
        for name, old in kernel.initial().items()
    }
    return np.asarray(kernel.gram(params, x))
