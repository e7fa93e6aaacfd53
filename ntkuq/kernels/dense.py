r"""The NNGP and NTK of fully connected networks, by recursion over the layers.

In the NTK parametrization a dense layer is
$f = \sigma_w W h / \sqrt{\text{fan-in}} + \sigma_b b$ with standard normal W, b. For
inputs scaled by $s$ and for layers $l = 1, 2, \ldots$,

$K_1 = \Theta_1 = \sigma_w^2 (s x)\cdot(s x') / D + \sigma_b^2$,
$K_{l+1} = \sigma_w^2 E[\phi\phi] + \sigma_b^2$,
$\Theta_{l+1} = K_{l+1} + \sigma_w^2 \Theta_l \odot E[\phi'\phi']$.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.kernels.base import (
    AbstractCovariance,
    Gram,
    LogValues,
    Parameter,
    flat,
    symmetric,
)
from ntkuq.kernels.duals import AbstractDual, PiecewiseLinear, recognize
from ntkuq.kernels.layers import Activation, Dense, Flatten, Layer, UnsupportedLayer


class Stage(eqx.Module):
    """A dense layer and the nonlinearity before it (`None` for the first)."""

    dual: AbstractDual | None
    bias: bool = eqx.field(static=True)


def is_dense(layers: tuple[Layer, ...]) -> bool:
    """Whether the recursion of this file has all layers."""
    return all(isinstance(layer, Dense | Activation | Flatten) for layer in layers)


def stages(layers: tuple[Layer, ...]) -> tuple[Stage, ...]:
    """Pair each dense layer with the nonlinearity before it.

    Raises:
        UnsupportedLayer: for a nonlinearity before the first or after the last dense
            layer (the outputs are then not Gaussian), or one that mixes its entries.

    >>> import jax
    >>> from ntkuq.kernels.layers import Activation, Dense
    >>> len(stages((Dense(True), Activation(jax.nn.relu), Dense(True))))
    2
    """
    if not any(isinstance(layer, Dense) for layer in layers):
        raise UnsupportedLayer("expected a network with a dense layer, got none")
    found: list[Stage] = []
    pending: list[Activation] = []
    for layer in layers:
        if isinstance(layer, Activation):
            pending.append(layer)
        elif isinstance(layer, Dense):
            if pending and not found:
                raise UnsupportedLayer(
                    "the network starts with a nonlinearity, before any dense layer: "
                    "apply it to the data instead"
                )
            dual = recognized(pending)
            if found and dual is None:
                dual = PiecewiseLinear(1.0, 1.0)
            found.append(Stage(dual, layer.bias))
            pending = []
    if pending:
        raise UnsupportedLayer(
            "the network ends in a nonlinearity, so its outputs are not Gaussian at "
            "any width: leave it to the likelihood (Categorical, Bernoulli, Poisson)"
        )
    return tuple(found)


def recognized(activations: list[Activation]) -> AbstractDual | None:
    """The dual map of activations in a row; `None` where there is none."""
    if not activations:
        return None
    functions = [a.function for a in activations]

    def composed(t: Array) -> Array:
        for function in functions:
            t = function(t)
        return t

    try:
        return recognize(functions[0] if len(functions) == 1 else composed)
    except ValueError as error:
        name = getattr(functions[0], "__name__", type(functions[0]).__name__)
        raise UnsupportedLayer(
            f"no infinite-width kernel for the nonlinearity {name}: {error}"
        ) from error


def homogeneous(network: tuple[Stage, ...]) -> bool:
    """Whether the outputs scale with the inputs and biases, as ReLU networks' do."""
    return all(isinstance(stage.dual, PiecewiseLinear | None) for stage in network)


def recursion(
    network: tuple[Stage, ...], params: LogValues, x1: Array, x2: Array | None
) -> tuple[Array, Array]:
    """K and Θ between two sets of inputs, (N1, N2) each.

    Args:
        network: from `stages`.
        params: logarithms of "weight std", "bias std" and "input scale".
        x1, x2: inputs (N, ...); without `x2` both are `x1`.
    """
    z1 = scaled_inputs(params, x1)
    z2 = z1 if x2 is None else scaled_inputs(params, x2)
    weight, bias = variances(params)
    k = ntk = jnp.zeros((x1.shape[0], z2.shape[0]), z1.dtype)
    q1 = q2 = jnp.zeros((), z1.dtype)
    for stage in network:
        shift = bias if stage.bias else jnp.zeros_like(bias)
        if stage.dual is None:
            k = ntk = weight * (z1 @ z2.T) + shift
            q1 = weight * jnp.sum(z1**2, axis=1) + shift
            q2 = q1 if x2 is None else weight * jnp.sum(z2**2, axis=1) + shift
        else:
            value, slopes = stage.dual(k, q1, q2)
            k = weight * value + shift
            ntk = k + weight * ntk * slopes
            q1, same = weight * stage.dual.diagonal(q1)[0] + shift, q2 is q1
            q2 = q1 if same else weight * stage.dual.diagonal(q2)[0] + shift
    return k, ntk


def one_input(
    network: tuple[Stage, ...], params: LogValues, x: Array
) -> tuple[Array, Array]:
    """The diagonals of K and Θ, (N,) each, exact to rounding.

    The two-input recursion loses half the digits of Θ there, in arccos near 1.
    """
    z = scaled_inputs(params, x)
    weight, bias = variances(params)
    q = ntk = jnp.zeros(z.shape[:1], z.dtype)
    for stage in network:
        shift = bias if stage.bias else jnp.zeros_like(bias)
        if stage.dual is None:
            q = ntk = weight * jnp.sum(z**2, axis=1) + shift
        else:
            value, slopes = stage.dual.diagonal(q)
            q = weight * value + shift
            ntk = q + weight * ntk * slopes
    return q, ntk


def scaled_inputs(params: LogValues, x: Array) -> Array:
    """Inputs times "input scale" over sqrt(D), as rows (N, D)."""
    rows = flat(x)
    scale = jnp.exp(params["input scale"]) / np.sqrt(rows.shape[1])
    return rows * (scale[None, :] if scale.ndim else scale)


def variances(params: LogValues) -> tuple[Array, Array]:
    """sigma_w^2 and sigma_b^2."""
    return jnp.exp(2.0 * params["weight std"]), jnp.exp(2.0 * params["bias std"])


def output_variance(params: LogValues, like: Array) -> Array:
    """The factor of the whole covariance: 1 where it is no hyper-parameter."""
    if "output std" not in params:
        return jnp.ones((), like.dtype)
    return jnp.exp(2.0 * params["output std"])


class DenseNNGP(AbstractCovariance):
    """K: the outputs of the random network of infinite width."""

    parameters: dict[str, Parameter]
    network: tuple[Stage, ...]

    def gram(self, params, x1, x2=None):
        k, _ = recursion(self.network, params, x1, x2)
        k = k * output_variance(params, k)
        return k if x2 is not None else symmetric(k, self.diagonal(params, x1))

    def diagonal(self, params, x):
        q, _ = one_input(self.network, params, x)
        return q * output_variance(params, q)

    def at(self, x):
        return Gram(self, x)


class DenseNTK(AbstractCovariance):
    """Θ: the outputs of the linearized random network of infinite width."""

    parameters: dict[str, Parameter]
    network: tuple[Stage, ...]

    def gram(self, params, x1, x2=None):
        _, ntk = recursion(self.network, params, x1, x2)
        ntk = ntk * output_variance(params, ntk)
        return ntk if x2 is not None else symmetric(ntk, self.diagonal(params, x1))

    def diagonal(self, params, x):
        _, ntk = one_input(self.network, params, x)
        return ntk * output_variance(params, ntk)

    def at(self, x):
        return Gram(self, x)
