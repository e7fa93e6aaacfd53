r"""Kernels of a network of finite width, by Monte Carlo over random initializations."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.base import (
    AbstractCovariance,
    AbstractNetworkKernel,
    LogValues,
    Parameter,
)
from ntkuq.linearize import Jacobian, ntk_diagonal, ntk_trace
from ntkuq.linearize.multiply import exact_product
from ntkuq.models import AbstractPrior, Network, cast, forward, parameters


class MonteCarlo(AbstractNetworkKernel):
    r"""The NNGP and NTK of the network as wide as it is, over random initializations.

    With weights $\theta_1, \ldots, \theta_S$ drawn by the builder of the network, C
    outputs f and their Jacobian J,
    $K(x, x') = \frac{1}{SC} \sum_s f_{\theta_s}(x) \cdot f_{\theta_s}(x')$ and
    $\Theta(x, x') = \frac{1}{SC} \sum_s \mathrm{tr}\, J_{\theta_s}(x) \Sigma_0
    J_{\theta_s}(x')^T$, where $\Sigma_0$ is the covariance of the prior of the `BNN`.
    One draw gives the empirical NTK at initialization (`Empirical()` is that of the
    trained network). Hyper-parameter: "output std", which starts where the mean
    variance is that of the targets. K has rank at most S C.

    Where the builder draws from `FanInPrior(weight_std, bias_std)` and that is the
    prior, K and Θ go to those of `Analytic` as the width grows, with an error of order
    $1/\sqrt{\text{width}}$ for one draw.

    Args:
        draws: S.
        seed: of the random initializations.

    References:
        Novak et al., *Bayesian deep convolutional networks with many channels are
        Gaussian processes*, ICLR 2019, section 4 (the estimate of K);
        Jacot, Gabriel and Hongler, *Neural tangent kernel*, NeurIPS 2018.

    >>> MonteCarlo(draws=4)
    MonteCarlo(draws=4)
    """

    draws: int = 64
    seed: int = 0

    def __check_init__(self):
        if self.draws < 1:
            raise ValueError(f"MonteCarlo: expected draws >= 1, got {self.draws}")

    def covariance(self, bnn, x, scale):
        raise TypeError(
            "GP(kernel=MonteCarlo()) could mean two covariances: say "
            "NNGP(MonteCarlo()) for the random network, NTKGP(MonteCarlo()) for its "
            "linearization"
        )

    def nngp(self, bnn, x, scale):
        network = _builder(bnn)
        found = MonteCarloNNGP({}, network, self._keys())
        return _started(found, x, scale)

    def ntk(self, bnn, x, scale):
        network = _builder(bnn)
        found = MonteCarloNTK({}, network, bnn.prior, self._keys())
        return _started(found, x, scale)

    def _keys(self) -> np.ndarray:
        keys = jax.random.split(jax.random.key(self.seed), self.draws)
        return np.asarray(jax.random.key_data(keys))


def _builder(bnn: Any) -> Network:
    if bnn.network.build is None:
        raise ValueError(
            "MonteCarlo: expected a network with a builder (key -> eqx.Module), which "
            "draws its weights; got a trained module only. Use Network(build, "
            "trained=...), or kernel=Empirical() for the trained network"
        )
    return Network(build=bnn.network.build)


def _started(covariance: Any, x: Array, scale: float) -> Any:
    """The covariance with an "output std" that fits the targets."""
    plain = {"output std": jnp.zeros((), x.dtype)}
    variance = float(jnp.mean(_diagonal(covariance, plain, x)))
    start = scale / np.sqrt(variance) if variance > 0.0 else 1.0
    parameters = {"output std": Parameter.of(start, 1e-2, 1e2)}
    return eqx.tree_at(lambda c: c.parameters, covariance, parameters)


@eqx.filter_jit
def _diagonal(covariance: AbstractCovariance, params: LogValues, x: Array) -> Array:
    return covariance.diagonal(params, x)


def _model(network: Network, key: Array, dtype: Any) -> Any:
    return cast(network.init(jax.random.wrap_key_data(key)), dtype)


class MonteCarloNNGP(AbstractCovariance):
    """K of `MonteCarlo`: the second moment of the outputs of random networks."""

    parameters: dict[str, Parameter]
    network: Network
    keys: np.ndarray

    def gram(self, params, x1, x2=None):
        one = self._features(params, x1)
        two = one if x2 is None else self._features(params, x2)
        product = exact_product(one, two.T)
        if x2 is not None:
            return product
        return 0.5 * (product + product.T)

    def diagonal(self, params, x):
        return jnp.sum(self._features(params, x) ** 2, axis=1)

    def at(self, x):
        return Scaled(_gram(self, {"output std": jnp.zeros((), x.dtype)}, x))

    def _features(self, params: LogValues, x: Array) -> Float[Array, "N F"]:
        """The outputs of all networks, such that K is their product."""

        def outputs(key: Array) -> Float[Array, "N C"]:
            model = _model(self.network, key, x.dtype)
            return jax.vmap(lambda a: forward(model, a))(x)

        found = jax.lax.map(outputs, jnp.asarray(self.keys))
        found = jnp.reshape(jnp.moveaxis(found, 1, 0), (x.shape[0], -1))
        std = jnp.exp(params["output std"]).astype(x.dtype)
        return found * (std / np.sqrt(found.shape[1]))


class MonteCarloNTK(AbstractCovariance):
    """Θ of `MonteCarlo`: the mean of the empirical NTK of random networks."""

    parameters: dict[str, Parameter]
    network: Network
    prior: AbstractPrior
    keys: np.ndarray

    def gram(self, params, x1, x2=None):
        def one(jacobian: Jacobian, variances: list[Array]) -> Array:
            return ntk_trace(jacobian, x1, x2, variances) / jacobian.output(x1).shape[0]

        return self._mean(params, x1, one)

    def diagonal(self, params, x):
        def one(jacobian: Jacobian, variances: list[Array]) -> Array:
            each = ntk_diagonal(jacobian, x, variances)
            return jnp.trace(each, axis1=1, axis2=2) / jacobian.output(x).shape[0]

        return self._mean(params, x, one)

    def at(self, x):
        return Scaled(_gram(self, {"output std": jnp.zeros((), x.dtype)}, x))

    def _mean(self, params: LogValues, x: Array, value: Any) -> Array:
        def add(total: Array, key: Array) -> tuple[Array, None]:
            return total + draw(key), None

        def draw(key: Array) -> Array:
            model = _model(self.network, key, x.dtype)
            jacobian = Jacobian.at(model, x[0])
            leaves = jax.tree.leaves(self.prior.precisions(parameters(model)))
            return value(jacobian, [1.0 / leaf for leaf in leaves])

        keys = jnp.asarray(self.keys)
        shape = jax.eval_shape(draw, keys[0])
        total, _ = jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), keys)
        std = jnp.exp(params["output std"]).astype(x.dtype)
        return total * (std**2 / len(keys))


class Scaled(eqx.Module):
    """A Gram matrix that is computed once, times "output std" squared."""

    gram: Float[Array, "N N"]

    def __call__(self, params: LogValues) -> Float[Array, "N N"]:
        return jnp.exp(2.0 * params["output std"]) * self.gram


@eqx.filter_jit
def _gram(covariance: AbstractCovariance, params: LogValues, x: Array) -> Array:
    return covariance.gram(params, x)
