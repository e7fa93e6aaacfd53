r"""The NNGP and NTK of convolutions, then a flatten, then dense layers.

With a flatten at the end, only covariances of the same position p in two inputs matter.
A convolution of window V is a mean over its offsets (zero where they are padding):

$K'(p) = \sigma_w^2 |V|^{-1} \sum_{o \in V} E[\phi\phi](p + o) + \sigma_b^2$,
$\Theta'(p) = K'(p) + \sigma_w^2 |V|^{-1} \sum_{o \in V} (\Theta E[\phi'\phi'])(p + o)$,

and the dense layer after the flatten takes the mean over all positions. What is carried
is not K but the squared distance $q_1 + q_2 - 2K$ (q: variances), which these means do
not disturb, so that no digits are lost where two inputs are nearly equal.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.kernels.base import AbstractCovariance, Gram, LogValues, Parameter
from ntkuq.kernels.blocks import rectangular_blocks, symmetric_blocks
from ntkuq.kernels.duals import AbstractDual, PiecewiseLinear, reciprocal, root
from ntkuq.kernels.layers import (
    Activation,
    Convolution,
    Dense,
    Flatten,
    Layer,
    UnsupportedLayer,
)
from ntkuq.kernels.recursion import (
    Step,
    advance,
    advance_both,
    output_variance,
    step,
    variance_step,
    variances,
    wide,
)
from ntkuq.kernels.stages import Stage, recognized, stages
from ntkuq.linearize.multiply import exact_product


#: Numbers of one intermediate of a block (positions x rows x columns).
NUMBERS = 2**18
#: Up to so many channels distances of inputs are sums of squared differences.
FEW_CHANNELS = 8


class Window(eqx.Module):
    """A convolution and the nonlinearity before it (`None` for the first)."""

    dual: AbstractDual | None
    sizes: tuple[int, ...] = eqx.field(static=True)
    window: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: str = eqx.field(static=True)
    bias: bool = eqx.field(static=True)

    def sum(self, values: Float[Array, "P *rest"]) -> Float[Array, "Q *rest"]:
        """Sums over the windows, one axis of the picture after the other."""
        rest = values.shape[1:]
        pads = jax.lax.padtype_to_pads(
            self.sizes, self.window, self.stride, self.padding
        )
        values = jnp.reshape(values, self.sizes + rest)
        for axis, (window, stride, pad) in enumerate(
            zip(self.window, self.stride, pads, strict=True)
        ):
            widths = [(0, 0)] * values.ndim
            widths[axis] = pad
            padded = jnp.pad(jax.lax.optimization_barrier(values), widths)
            span = (self.after[axis] - 1) * stride + 1
            parts = [
                jax.lax.slice_in_dim(padded, o, o + span, stride, axis)
                for o in range(window)
            ]
            # Computed once: fused into the sums it would be computed for each offset.
            values = jax.lax.optimization_barrier(functools.reduce(jnp.add, parts))
        return jnp.reshape(values, (-1, *rest))

    @property
    def after(self) -> tuple[int, ...]:
        """Sizes of the picture that comes out."""
        pads = jax.lax.padtype_to_pads(
            self.sizes, self.window, self.stride, self.padding
        )
        return tuple(
            (n + sum(pad) - w) // s + 1
            for n, pad, w, s in zip(
                self.sizes, pads, self.window, self.stride, strict=True
            )
        )


class Spatial(eqx.Module):
    """Convolutions, and the dense layers after the flatten."""

    windows: tuple[Window, ...]
    dense: tuple[Stage, ...]


def is_convolutional(layers: tuple[Layer, ...]) -> bool:
    """Whether this file has all layers: convolutions, a flatten, dense layers."""
    kinds = [type(layer) for layer in layers if not isinstance(layer, Activation)]
    if Flatten not in kinds:
        return False
    split = kinds.index(Flatten)
    before, after = kinds[:split], kinds[split:]
    return (
        bool(before)
        and isinstance(layers[0], Convolution)
        and all(kind is Convolution for kind in before)
        and Dense in after
        and all(kind in (Flatten, Dense) for kind in after)
    )


def spatial(layers: tuple[Layer, ...], sizes: tuple[int, ...]) -> Spatial:
    """Pair each layer with the nonlinearity before it.

    Args:
        layers: those of a network for which `is_convolutional` holds.
        sizes: of the picture, without its channels.

    Raises:
        UnsupportedLayer: for a nonlinearity after the last dense layer, or one that
            mixes its entries.
    """
    windows: list[Window] = []
    pending: list[Activation] = []
    rest = layers
    for number, layer in enumerate(layers):
        if isinstance(layer, Activation):
            pending.append(layer)
        elif isinstance(layer, Convolution):
            dual = recognized(pending)
            if windows and dual is None:
                dual = PiecewiseLinear(1.0, 1.0)
            window = Window(
                dual,
                tuple(sizes),
                tuple(layer.window),
                tuple(layer.stride),
                layer.padding,
                layer.bias,
            )
            windows.append(window)
            sizes, pending = window.after, []
        else:
            rest = layers[number:]
            break
    # the first dense layer as the successor of one before it
    dense = stages((Dense(bias=True), *pending, *rest))
    if not windows or len(dense) < 2:
        raise UnsupportedLayer(
            "expected convolutions, a flatten and a dense layer, got "
            f"{', '.join(type(layer).__name__ for layer in layers)}"
        )
    return Spatial(tuple(windows), dense[1:])


class Place(NamedTuple):
    r"""What a stage needs of each position of each input, leaves (N, P, ...).

    size: standard deviation; inverse: 1 over it; signal: $\sqrt{E[\phi\phi]}$ times the
    factor of the next layer, rate: that factor, $\sigma_w$ over the root of how many
    positions the next layer takes the mean of.
    """

    size: Array
    inverse: Array
    points: PyTree
    slope_points: PyTree
    signal: Array
    rate: Array


class Pictures(NamedTuple):
    """What the recursion over pairs needs of each input.

    pixels: (N, C, P) times the factor of the first layer; places: one for each
    nonlinearity before a convolution or the flatten; size, steps: of the dense part.
    """

    pixels: Array
    places: tuple[Place, ...]
    flat: Array
    steps: tuple[Step, ...]
    size: Array


def pictures(network: Spatial, params: LogValues, x: Array, *, slopes: bool):
    """The part of the recursion that looks at one input at a time, and the diagonals.

    Args:
        network: from `spatial`.
        params: logarithms of "weight std", "bias std" and "input scale" (one number).
        x: inputs (N, C, ...).
        slopes: whether what Θ needs is wanted.

    Returns:
        `Pictures`, and the exact diagonals of K and Θ.
    """
    params, z = wide(params, x)
    weight, bias = variances(params)
    channels = z.shape[1]
    first = network.windows[0]
    scale = root(weight) * jnp.exp(params["input scale"])
    pixels = jnp.reshape(z, (z.shape[0], channels, -1))
    pixels = pixels * (scale / math.sqrt(channels * math.prod(first.window)))

    def over(window: Window, values: Array) -> Array:
        return window.sum(values.T).T

    def shift(bias_or_not: bool) -> Array:
        return bias if bias_or_not else jnp.zeros_like(bias)

    q = over(first, jnp.sum(pixels**2, axis=1)) + shift(first.bias)
    ntk = q
    places: list[Place] = []

    def place(dual: AbstractDual, factor: Array) -> tuple[Array, Array]:
        value, slope = jax.vmap(dual.diagonal)(q)
        size = root(q)
        places.append(
            Place(
                size,
                reciprocal(size),
                jax.vmap(dual.points)(q),
                jax.vmap(dual.slope_points)(q) if slopes else (),
                root(factor * value),
                jnp.broadcast_to(root(factor), size.shape),
            )
        )
        return factor * value, factor * slope

    for window in network.windows[1:]:
        assert window.dual is not None  # noqa: S101
        value, slope = place(window.dual, weight / math.prod(window.window))
        q = over(window, value) + shift(window.bias)
        ntk = q + over(window, slope * ntk)
    head = network.dense[0]
    assert head.dual is not None  # noqa: S101
    value, slope = place(head.dual, weight / q.shape[1])
    q = jnp.sum(value, axis=1) + shift(head.bias)
    ntk = q + jnp.sum(slope * ntk, axis=1)
    flat, steps = root(q), []
    for stage in network.dense[1:]:
        after, ntk = variance_step(stage, q, ntk, weight, bias)
        steps.append(step(stage, q, after, weight, bias, slopes=slopes))
        q = after
    found = Pictures(pixels, tuple(places), flat, tuple(steps), root(q))
    found, q, ntk = jax.tree.map(lambda a: a.astype(x.dtype), (found, q, ntk))
    return found, (q, ntk)


def tile(
    network: Spatial, ntk: bool, one: Pictures, two: Pictures
) -> tuple[Float[Array, "N M"], ...]:
    """(K,) or (K, Θ) of all pairs."""
    # pairs last: sums over windows then add whole rows of numbers
    first = network.windows[0]
    distance = first.sum(_distance(one.pixels, two.pixels))
    left = [_positions_first(place) for place in one.places]
    right = [_positions_first(place) for place in two.places]
    gap = _gap(distance, left[0], right[0])
    tangent = _outer(left[0].size, right[0].size) * (1.0 - gap)
    for number, (a, b) in enumerate(zip(left, right, strict=True)):
        last = number + 1 == len(left)
        stage = network.dense[0] if last else network.windows[number + 1]
        dual = stage.dual
        assert dual is not None  # noqa: S101
        if ntk:
            slopes = jax.vmap(dual.slopes)(gap, a.slope_points, b.slope_points)
            tangent = tangent * slopes * _outer(a.rate, b.rate)
        gap = jax.vmap(dual.gaps)(gap, a.points, b.points)
        apart = a.signal[:, :, None] - b.signal[:, None, :]
        distance = apart**2 + 2.0 * _outer(a.signal, b.signal) * gap
        if isinstance(stage, Window):
            distance = stage.sum(distance)
            gap = _gap(distance, left[number + 1], right[number + 1])
            if ntk:
                k = _outer(left[number + 1].size, right[number + 1].size) * (1.0 - gap)
                tangent = k + stage.sum(tangent)
        else:
            distance = jnp.sum(distance, axis=0)
            tangent = jnp.sum(tangent, axis=0) if ntk else gap[0]
    inverse = reciprocal(one.flat)[:, None] * reciprocal(two.flat)[None, :]
    apart = one.flat[:, None] - two.flat[None, :]
    gap = 0.5 * (distance - apart**2) * inverse
    tangent = 1.0 - gap + tangent * inverse
    for stage, a, b in zip(network.dense[1:], one.steps, two.steps, strict=True):
        if ntk:
            gap, tangent = advance_both(stage, gap, tangent, a, b)
        else:
            gap = advance(stage, gap, a, b)
    size = one.size[:, None] * two.size[None, :]
    k = size * (1.0 - gap)
    return (k, size * tangent) if ntk else (k,)


def _positions_first(place: Place) -> Place:
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), place)


def _outer(one: Float[Array, "P N"], two: Float[Array, "P M"]) -> Array:
    return one[:, :, None] * two[:, None, :]


def _distance(one: Float[Array, "N C P"], two: Float[Array, "M C P"]) -> Array:
    """Squared distances of the channels at each position, (P, N, M)."""
    if one.shape[1] <= FEW_CHANNELS:
        a, b = jnp.transpose(one, (1, 2, 0)), jnp.transpose(two, (1, 2, 0))
        parts = [
            (a[c][:, :, None] - b[c][:, None, :]) ** 2 for c in range(one.shape[1])
        ]
        return functools.reduce(jnp.add, parts)
    a, b = jnp.transpose(one, (2, 0, 1)), jnp.transpose(two, (2, 1, 0))
    product = exact_product(a, b)
    own = jnp.sum(a**2, axis=2)[:, :, None] + jnp.sum(b**2, axis=1)[:, None, :]
    distance = own - 2.0 * product
    return jnp.where(distance > 0.0, distance, 0.0)


def _gap(distance: Array, one: Place, two: Place) -> Array:
    apart = one.size[:, :, None] - two.size[:, None, :]
    gap = 0.5 * (distance - apart**2) * _outer(one.inverse, two.inverse)
    gap = jnp.where(gap > 0.0, gap, 0.0)
    return jnp.where(gap < 2.0, gap, 2.0)


def recursion(
    network: Spatial,
    params: LogValues,
    x1: Array,
    x2: Array | None,
    *,
    ntk: bool,
) -> tuple[Array, ...]:
    """(K,) or (K, Θ) between two sets of inputs, (N1, N2) each.

    Args:
        network: from `spatial`.
        params: logarithms of "weight std", "bias std" and "input scale".
        x1, x2: inputs (N, C, ...); without `x2` both are `x1`.
        ntk: whether Θ is wanted too.
    """
    block = functools.partial(tile, network, ntk)
    positions = math.prod(network.windows[0].sizes)
    side = max(4, math.isqrt(NUMBERS // positions))
    one, diagonals = pictures(network, params, x1, slopes=ntk)
    if x2 is None:
        wanted = diagonals if ntk else diagonals[:1]
        return symmetric_blocks(block, one, wanted, side)
    two, _ = pictures(network, params, x2, slopes=ntk)
    return rectangular_blocks(block, one, two, side)


class ConvolutionNNGP(AbstractCovariance):
    """K of a network of convolutions, a flatten and dense layers; see `DenseNNGP`."""

    parameters: dict[str, Parameter]
    network: Spatial

    def gram(self, params, x1, x2=None):
        (k,) = recursion(self.network, params, x1, x2, ntk=False)
        return k * output_variance(params, k)

    def diagonal(self, params, x):
        _, (q, _) = pictures(self.network, params, x, slopes=False)
        return q * output_variance(params, q)

    def at(self, x):
        return Gram(self, x)


class ConvolutionNTK(AbstractCovariance):
    """Θ of a network of convolutions, a flatten and dense layers; see `DenseNTK`."""

    parameters: dict[str, Parameter]
    network: Spatial

    def gram(self, params, x1, x2=None):
        return self.both(params, x1, x2)[1]

    def both(
        self, params: LogValues, x1: Array, x2: Array | None = None
    ) -> tuple[Array, Array]:
        """K and Θ, (N1, N2) each, for little more than Θ alone."""
        k, ntk = recursion(self.network, params, x1, x2, ntk=True)
        scale = output_variance(params, ntk)
        return k * scale, ntk * scale

    def diagonal(self, params, x):
        _, (_, ntk) = pictures(self.network, params, x, slopes=True)
        return ntk * output_variance(params, ntk)

    def at(self, x):
        return Gram(self, x)
