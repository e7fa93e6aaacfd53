"""How a network writes its weights: what grows or shrinks with its width."""

from __future__ import annotations

import abc
import enum
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.models.network import Frozen


#: What can be written in another way.
Layer = eqx.nn.Linear | eqx.nn.Conv


class Role(enum.Enum):
    """Where a layer stands: it meets the data, hidden units only, or makes outputs."""

    INPUT = "input"
    HIDDEN = "hidden"
    READOUT = "readout"


class Place(NamedTuple):
    """What decides the scales of a layer.

    role: where it stands. fan_in: the numbers that one of its units sums (for a
    convolution channels times window). width: units of a hidden layer, n.
    """

    role: Role
    fan_in: int
    width: int


class Scales(NamedTuple):
    r"""A layer is $g_w W h + g_b b$ with $W \sim N(0, s_w^2)$ and $b \sim N(0, s_b^2)$.

    weight_std, bias_std: $s_w$ and $s_b$. gains: $(g_w, g_b)$; `None` for (1, 1), where
    the layer stays one of Equinox's.
    """

    weight_std: float
    bias_std: float
    gains: tuple[float, float] | None


class AbstractParametrization(eqx.Module):
    """A rule for the scales of all layers of a network.

    The random function is that of `weight_std` and `bias_std` (up to the readout of
    μP); how fast each weight learns is what tells parametrizations apart.
    """

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """What `describe` says of it."""

    @abc.abstractmethod
    def scales(self, place: Place) -> Scales | None:
        """The scales of a layer there; `None` for Equinox's own initialization."""


class Standard(AbstractParametrization):
    r"""A layer is $W h + b$ with $W \sim N(0, \sigma_w^2 / \text{fan-in})$.

    Biases are $N(0, \sigma_b^2)$. The tangent kernel of a hidden or last layer grows
    like the width, and so does that of the network: gradient descent needs a step of
    order 1 / width.

    Args:
        weight_std: $\sigma_w$; `None` for Equinox's initialization, weights and biases
            uniform in ±1/sqrt(fan_in), of variance 1 / (3 fan_in).
        bias_std: $\sigma_b$, of no effect without `weight_std`.

    Raises:
        ValueError: for a `weight_std` that is not positive or a negative `bias_std`.

    References: Sohl-Dickstein, Novak, Schoenholz, Lee 2020 (arXiv 2001.07301).

    >>> Standard(2.0).scales(Place(Role.HIDDEN, fan_in=16, width=16)).weight_std
    0.5
    """

    weight_std: float | None = None
    bias_std: float = 0.0

    def __check_init__(self):
        _check(self, 1.0 if self.weight_std is None else self.weight_std, self.bias_std)

    @property
    def text(self) -> str:
        return "standard parametrization"

    def scales(self, place: Place) -> Scales | None:
        if self.weight_std is None:
            return None
        return Scales(self.weight_std / math.sqrt(place.fan_in), self.bias_std, None)


class NTK(AbstractParametrization):
    r"""A layer is $\sigma_w W h / \sqrt{\text{fan-in}} + \sigma_b b$, W, b ~ N(0, 1).

    The tangent kernel has a limit as the width grows, `Analytic().ntk`, and gradient
    descent with a fixed step stays ever closer to where it began: no features are
    learned in the limit.

    Args:
        weight_std: $\sigma_w$; $\sqrt2$ keeps the size of the signal through ReLUs.
        bias_std: $\sigma_b$; 0 for biases that neither start nor learn.

    Raises:
        ValueError: for a `weight_std` that is not positive or a negative `bias_std`.

    References: Jacot, Gabriel, Hongler 2018 (arXiv 1806.07572).

    >>> NTK(2.0).scales(Place(Role.HIDDEN, 16, 16)).gains
    (0.5, 0.0)
    """

    weight_std: float = math.sqrt(2.0)
    bias_std: float = 0.0

    def __check_init__(self):
        _check(self, self.weight_std, self.bias_std)

    @property
    def text(self) -> str:
        return "NTK parametrization"

    def scales(self, place: Place) -> Scales:
        gain = self.weight_std / math.sqrt(place.fan_in)
        return Scales(1.0, 1.0, (gain, self.bias_std))


class MuP(AbstractParametrization):
    r"""The maximal update parametrization for gradient descent (SGD).

    The abc-parametrization of Yang and Hu 2021, the line μP of their Table 1, for SGD
    with a learning rate that does not depend on the width n. Weights are multiplied by
    $n^{-a}$ and start with variance of order $n^{-2b}$:

    | layer | a | b | gain here | variance here |
    |---|---|---|---|---|
    | input, hidden biases | -1/2 | 1/2 | $\sqrt n$ | $\sigma_w^2 / (n\,d)$ |
    | hidden | 0 | 1/2 | 1 | $\sigma_w^2 / \text{fan-in}$ |
    | readout | 1/2 | 1/2 | $1 / \sqrt n$ | $\sigma_w^2 / n$ |

    with d numbers in an example (or channels times window); biases of hidden units have
    $\sigma_b^2 / n$ in place of $\sigma_w^2 / (n d)$, those of outputs gain 1 and
    variance $\sigma_b^2$. Outputs start at order $n^{-1/2}$, the tangent kernel has a
    limit, and the features of every layer move by order 1 in every step. For Adam the
    table is another one (Yang et al. 2022, arXiv 2203.03466, Table 3): with it the
    widths of one network are not comparable here.

    Args:
        weight_std, bias_std: $\sigma_w$, $\sigma_b$.

    Raises:
        ValueError: for a `weight_std` that is not positive or a negative `bias_std`.

    References: Yang and Hu 2021, *Feature learning in infinite-width neural networks*
    (arXiv 2011.14522).

    >>> [MuP().scales(Place(role, 16, 16)).gains[0] for role in Role]
    [4.0, 1.0, 0.25]
    """

    weight_std: float = math.sqrt(2.0)
    bias_std: float = 0.0

    def __check_init__(self):
        _check(self, self.weight_std, self.bias_std)

    @property
    def text(self) -> str:
        return "μP for SGD"

    def scales(self, place: Place) -> Scales:
        std, root = self.weight_std / math.sqrt(place.fan_in), math.sqrt(place.width)
        if place.role is Role.INPUT:
            return Scales(std / root, self.bias_std / root, (root, root))
        if place.role is Role.HIDDEN:
            return Scales(std, self.bias_std / root, (1.0, root))
        return Scales(std, self.bias_std, (1.0 / root, 1.0))


class Scaled(eqx.Module):
    """A layer without bias at a multiple of its input, and a multiple of a bias.

    Args:
        layer: dense or a convolution, without bias: linear in its input, so that the
            gain of the weights may as well stand there.
        bias: to be added, in the shape of the layer's output.
        gains: of weights and bias; constants, no parameters.
        text: of the parametrization, for `describe`.

    >>> flat = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    >>> flat = eqx.tree_at(lambda f: f.weight, flat, jnp.ones((1, 1)))
    >>> layer = Scaled(flat, jnp.ones(1), Frozen((jnp.array(2.0), jnp.array(5.0))), "")
    >>> layer(jnp.ones(1)).item()
    7.0
    """

    layer: Layer
    bias: Array | None
    gains: Frozen
    text: str = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."], *, key: Array | None = None) -> Array:
        """The outputs of one example."""
        del key
        # a product with weights of another dtype is for the layer to refuse or promote
        weight, bias = (gain.astype(x.dtype) for gain in self.gains.value)
        out = self.layer(weight * x)
        return out if self.bias is None else out + bias * self.bias


def parametrized[L: Layer](
    layer: L,
    place: Place,
    parametrization: AbstractParametrization,
    *,
    key: Array,
) -> L | Scaled:
    """A layer as a parametrization writes it.

    Args:
        layer: of Equinox, with its own initialization.
        place: where it stands.
        parametrization: the rule.
        key: of the weights; of no effect where they stay as they are.

    Returns:
        The layer itself, with other weights, or within `Scaled`.

    >>> line = eqx.nn.Linear(4, 4, key=jax.random.key(0))
    >>> place = Place(Role.HIDDEN, 4, 4)
    >>> parametrized(line, place, Standard(), key=jax.random.key(1)) is line
    True
    """
    scales = parametrization.scales(place)
    if scales is None:
        return layer
    first, second = jax.random.split(key)
    weight = scales.weight_std * jax.random.normal(
        first, layer.weight.shape, layer.weight.dtype
    )
    bias = None
    if layer.bias is not None:
        bias = scales.bias_std * jax.random.normal(
            second, layer.bias.shape, layer.bias.dtype
        )
    drawn = _with(layer, weight, bias)
    if scales.gains is None:
        return drawn
    gains = Frozen(tuple(jnp.asarray(gain, weight.dtype) for gain in scales.gains))
    return Scaled(_without_bias(drawn), bias, gains, parametrization.text)


def _with[L: Layer](layer: L, weight: Array, bias: Array | None) -> L:
    drawn = eqx.tree_at(lambda one: one.weight, layer, weight)
    if bias is None:
        return drawn
    return eqx.tree_at(lambda one: one.bias, drawn, bias)


def _without_bias[L: Layer](layer: L) -> L:
    # `use_bias` is static, and no argument of `tree_at`
    bare = object.__new__(type(layer))
    changed = {"bias": None, "use_bias": False}
    for field, value in vars(layer).items():
        object.__setattr__(bare, field, changed.get(field, value))
    return bare


def _check(one: AbstractParametrization, weight_std: float, bias_std: float) -> None:
    if not (0 < weight_std < math.inf and 0 <= bias_std < math.inf):
        raise ValueError(
            f"{type(one).__name__}: expected weight_std > 0 and bias_std >= 0, got "
            f"{weight_std} and {bias_std}"
        )
