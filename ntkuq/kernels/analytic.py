"""`Analytic`: the infinite-width kernels of the user's own network."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np

from ntkuq.kernels import bridge
from ntkuq.kernels.base import (
    AbstractNetworkKernel,
    Parameter,
    feature_scale,
    separate_scales,
)
from ntkuq.kernels.dense import (
    DenseNNGP,
    DenseNTK,
    homogeneous,
    is_dense,
    stages,
)
from ntkuq.kernels.layers import Layer, walk


class Analytic(AbstractNetworkKernel):
    r"""The NNGP and NTK of the network's architecture at infinite width.

    NTK parametrization: each layer is
    $\sigma_w W h/\sqrt{\text{fan-in}} + \sigma_b b$ with standard normal W and b, and
    one $\sigma_w$, $\sigma_b$ for all layers; the widths and weights of the network
    given play no part, its layers and nonlinearities do. Hyper-parameters: "weight
    std" $\sigma_w$, "bias std" $\sigma_b$ in units of the output, "input scale" (what
    inputs are multiplied by) and, unless it would be redundant (ReLU-like networks
    scale with their inputs and biases), "output std".

    Dense networks use our own recursion. Convolution and average pooling ask for the
    package neural-tangents.

    Args:
        weight_std: first value of $\sigma_w$; `None` keeps the signal's size through
            the layers ($\sqrt2$).
        bias_std: first value of $\sigma_b$, relative to the spread of the targets.
        ard: one input scale for each feature (`True`) or one for all (`False`);
            `None` takes one for each where there are at most 20 features.

    References:
        Lee et al., *Deep neural networks as Gaussian processes*, ICLR 2018;
        Jacot, Gabriel and Hongler, *Neural tangent kernel*, NeurIPS 2018.

    >>> Analytic(ard=False).bias_std
    0.3
    """

    weight_std: float = 1.4142135623730951
    bias_std: float = 0.3
    ard: bool | None = None

    def __check_init__(self):
        if not (self.weight_std > 0 and self.bias_std > 0):
            raise ValueError(
                "Analytic: expected weight_std > 0 and bias_std > 0, got "
                f"{self.weight_std} and {self.bias_std}"
            )

    def covariance(self, bnn, x, scale):
        raise TypeError(
            "GP(kernel=Analytic()) could mean two covariances: say NNGP(Analytic()) "
            "for the random network, NTKGP(Analytic()) for its linearization"
        )

    def nngp(self, bnn, x, scale):
        layers = _layers(bnn, x)
        if is_dense(layers):
            network = stages(layers)
            parameters = self._parameters(x, scale, homogeneous(network))
            return DenseNNGP(parameters=parameters, network=network)
        parameters = self._parameters(x, scale, redundant=False)
        return bridge.StaxNNGP(parameters=parameters, layers=bridge.check(layers))

    def ntk(self, bnn, x, scale):
        layers = _layers(bnn, x)
        if is_dense(layers):
            network = stages(layers)
            parameters = self._parameters(x, scale, homogeneous(network))
            return DenseNTK(parameters=parameters, network=network)
        parameters = self._parameters(x, scale, redundant=False)
        return bridge.StaxNTK(parameters=parameters, layers=bridge.check(layers))

    def _parameters(self, x, scale, redundant: bool) -> dict[str, Parameter]:
        image = x.ndim > 2
        separate = separate_scales(self.ard, x) and not image
        width = feature_scale(np.asarray(x), separate=separate)
        size = scale if redundant else 1.0
        found = {
            "weight std": Parameter.of(self.weight_std, 0.1, 10.0),
            "bias std": Parameter.of(self.bias_std * size, 1e-2, 1e2),
            "input scale": Parameter.of(size / width, 1e-3, 1e3),
        }
        if not redundant:
            found["output std"] = Parameter.of(scale, 1e-2, 1e2)
        return found


def _layers(bnn, x) -> tuple[Layer, ...]:
    network = bnn.network
    module = network.trained
    if module is None:
        module = eqx.filter_eval_shape(network.build, jax.random.key(0))
    return walk(module, x.shape[1:])
