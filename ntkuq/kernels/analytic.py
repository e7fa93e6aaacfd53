"""`Analytic`: the infinite-width kernels of the user's own network."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

from ntkuq.kernels import stax
from ntkuq.kernels.base import (
    AbstractNetworkKernel,
    Parameter,
    feature_scale,
    separate_scales,
)
from ntkuq.kernels.convolution import (
    ConvolutionNNGP,
    ConvolutionNTK,
    Spatial,
    is_convolutional,
    spatial,
)
from ntkuq.kernels.dense import DenseNNGP, DenseNTK
from ntkuq.kernels.depth import repeated
from ntkuq.kernels.duals import PiecewiseLinear
from ntkuq.kernels.layers import Activation, Dense, Graph, LayerNorm
from ntkuq.kernels.parametrization import (
    AbstractParametrization,
    NTKParametrization,
    StandardParametrization,
)
from ntkuq.kernels.stages import Stage, is_dense, recognized, stages
from ntkuq.kernels.standard import StandardNTK
from ntkuq.kernels.trace import walk


class Analytic(AbstractNetworkKernel):
    r"""The NNGP and NTK of the network's architecture at infinite width.

    The network is read from a trace of its forward pass (`walk`), so that a class of
    your own serves as well as `eqx.nn.Sequential`. Each dense layer and convolution
    stands for $\sigma_w W h/\sqrt{\text{fan-in}} + \sigma_b b$ with standard normal W
    and b, and one $\sigma_w$, $\sigma_b$ for all layers; the weights of the network
    given play no part, its layers, nonlinearities and constants do. Hyper-parameters:
    "weight std" $\sigma_w$, "bias std" $\sigma_b$ in units of the output, "input scale"
    (what inputs are multiplied by) and, unless it would be redundant (ReLU-like
    networks scale with their inputs and biases), "output std".

    Dense networks, and convolutions that end in a flatten, use our own recursions.
    Branches, pooling and normalization ask for the package neural-tangents.

    Args:
        weight_std: first value of $\sigma_w$; `None` keeps the signal's size through
            the layers ($\sqrt2$).
        bias_std: first value of $\sigma_b$, relative to the spread of the targets.
        ard: one input scale for each feature (`True`) or one for all (`False`);
            `None` takes one for each where there are at most 20 features.
        parametrization: `NTKParametrization()` or `StandardParametrization()`. It
            decides how fast the weights of each layer learn, so it matters where
            training for a finite time is meant (`dynamics`); the priors `nngp` and
            `ntk` do not depend on it.
        depth: number of hidden layers instead of that of the network, or several to
            choose from; of networks of dense layers with one nonlinearity.

    References:
        Lee et al., *Deep neural networks as Gaussian processes*, ICLR 2018;
        Jacot, Gabriel and Hongler, *Neural tangent kernel*, NeurIPS 2018.

    >>> Analytic(ard=False).bias_std
    0.3
    """

    weight_std: float = 1.4142135623730951
    bias_std: float = 0.3
    ard: bool | None = None
    parametrization: AbstractParametrization = NTKParametrization()
    depth: int | tuple[int, ...] | None = None

    def __check_init__(self):
        if not (self.weight_std > 0 and self.bias_std > 0):
            raise ValueError(
                "Analytic: expected weight_std > 0 and bias_std > 0, got "
                f"{self.weight_std} and {self.bias_std}"
            )
        several = self.depth if isinstance(self.depth, tuple) else (self.depth,)
        if not several or any(n is not None and n < 1 for n in several):
            raise ValueError(
                f"Analytic: expected depths of at least 1, got depth={self.depth}"
            )

    @property
    def choices(self) -> tuple[Analytic, ...]:
        """A kernel of each depth; the one itself where there is no choice.

        >>> [kernel.depth for kernel in Analytic(depth=(1, 2)).choices]
        [1, 2]
        """
        if not isinstance(self.depth, tuple):
            return (self,)
        return tuple(
            Analytic(
                self.weight_std, self.bias_std, self.ard, self.parametrization, depth
            )
            for depth in self.depth
        )

    def covariance(self, bnn, x, scale):
        raise TypeError(
            "GP(kernel=Analytic()) could mean two covariances: say NNGP(Analytic()) "
            "for the random network, NTKGP(Analytic()) for its linearization"
        )

    def nngp(self, bnn, x, scale):
        read = self._read(bnn, x, scale)
        if read.dense is not None:
            return DenseNNGP(parameters=read.parameters, network=read.dense)
        if read.spatial is not None:
            return ConvolutionNNGP(parameters=read.parameters, network=read.spatial)
        return stax.StaxNNGP(parameters=read.parameters, layers=read.graph)

    def ntk(self, bnn, x, scale):
        read = self._read(bnn, x, scale)
        if read.dense is not None:
            return DenseNTK(parameters=read.parameters, network=read.dense)
        if read.spatial is not None:
            return ConvolutionNTK(parameters=read.parameters, network=read.spatial)
        return stax.StaxNTK(parameters=read.parameters, layers=read.graph)

    def dynamics(self, bnn, x, scale):
        r"""Θ as gradient descent at rate 1 on all parameters moves the outputs.

        In the NTK parametrization it is `ntk`. In the standard one the weights of a
        layer of fan-in n count $n / \sigma_w^2$ times as much, its biases
        $1 / \sigma_b^2$ times.

        Args:
            bnn: whose network is read, with its widths.
            x: inputs (N, ...).
            scale: standard deviation of the targets.
        """
        if not isinstance(self.parametrization, StandardParametrization):
            return super().dynamics(bnn, x, scale)
        read = self._read(bnn, x, scale)
        if read.dense is None:
            graph = stax.check(read.graph)
            return stax.StaxNTK(read.parameters, graph, standard=True)
        widths = tuple(
            node.layer.fan_in
            for node in read.graph.nodes
            if isinstance(node.layer, Dense) and node.layer.fan_in is not None
        )
        return StandardNTK(read.parameters, read.dense, widths)

    def _read(self, bnn, x, scale) -> _Read:
        graph = _graph(bnn, x)
        if isinstance(self.depth, tuple):
            raise TypeError(
                f"Analytic: expected one depth, got {self.depth}: NNGP and NTKGP "
                "choose between depths, other methods take one"
            )
        if self.depth is not None:
            graph = Graph.of(repeated(graph.chain(), self.depth))
        chain = graph.chain()
        dense = pictures = None
        if chain is not None and is_dense(chain):
            dense = stages(chain)
        elif chain is not None and is_convolutional(chain):
            pictures = spatial(chain, x.shape[2:])
        else:
            stax.check(graph)
        parameters = self._parameters(x, scale, homogeneous(graph))
        return _Read(graph, dense, pictures, parameters)

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


class _Read(NamedTuple):
    """A network as a graph and, where they cover it, for our own recursions."""

    graph: Graph
    dense: tuple[Stage, ...] | None
    spatial: Spatial | None
    parameters: dict[str, Parameter]


def homogeneous(graph: Graph) -> bool:
    """Whether the outputs scale with the inputs and biases, as ReLU networks' do."""
    activations = [n.layer for n in graph.nodes if isinstance(n.layer, Activation)]
    linear = all(isinstance(recognized([a]), PiecewiseLinear) for a in activations)
    return linear and not graph.has(LayerNorm)


def _graph(bnn, x) -> Graph:
    module = bnn.network.trained
    if module is None:
        module = eqx.filter_eval_shape(bnn.network.build, jax.random.key(0))
    return walk(module, x.shape[1:])
