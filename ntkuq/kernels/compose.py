"""Kernels made of kernels: sums, multiples, and a lengthscale for each feature."""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.base import (
    AbstractCovariance,
    AbstractKernel,
    AbstractNetworkKernel,
    Gram,
    LogValues,
    Parameter,
    feature_scale,
    flat,
)


#: Names of hyper-parameters that only scale the inputs.
INPUT_SCALES = ("lengthscale", "input scale")
OUTPUT = "output std"

Make = Callable[[AbstractKernel], AbstractCovariance]


def _nngp(bnn, x, scale) -> Make:
    def make(kernel: AbstractKernel) -> AbstractCovariance:
        network = isinstance(kernel, AbstractNetworkKernel)
        return (kernel.nngp if network else kernel.covariance)(bnn, x, scale)

    return make


def _ntk(bnn, x, scale) -> Make:
    def make(kernel: AbstractKernel) -> AbstractCovariance:
        network = isinstance(kernel, AbstractNetworkKernel)
        return (kernel.ntk if network else kernel.covariance)(bnn, x, scale)

    return make


def _plain(bnn, x, scale) -> Make:
    return lambda kernel: kernel.covariance(bnn, x, scale)


class Sum(AbstractNetworkKernel):
    r"""$k(x, x') = k_1(x, x') + k_2(x, x') + \ldots$: a sum of independent functions.

    The hyper-parameters of each part keep their names behind its number, as in
    "1: lengthscale". In `NNGP` and `NTKGP`, parts that come from the network give their
    K or their Θ, the others their only covariance.

    Args:
        kernels: two or more.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006,
        ch. 4.2.4.

    >>> from ntkuq.kernels import RBF, Analytic
    >>> len(Sum(Analytic(), RBF()).kernels)
    2
    """

    kernels: tuple[AbstractKernel, ...]

    def __init__(self, *kernels: AbstractKernel):
        if len(kernels) < 2:
            raise ValueError(
                f"Sum: expected two kernels or more, got {len(kernels)}: "
                "Sum(RBF(), Analytic())"
            )
        self.kernels = kernels

    def covariance(self, bnn, x, scale):
        return self._of(_plain(bnn, x, self._share(scale)))

    def nngp(self, bnn, x, scale):
        return self._of(_nngp(bnn, x, self._share(scale)))

    def ntk(self, bnn, x, scale):
        return self._of(_ntk(bnn, x, self._share(scale)))

    def _share(self, scale: float) -> float:
        """Each part starts with an equal part of the variance."""
        return scale / float(np.sqrt(len(self.kernels)))

    def _of(self, make: Make) -> SumCovariance:
        parts = tuple(make(kernel) for kernel in self.kernels)
        return SumCovariance(
            {
                f"{number}: {name}": parameter
                for number, part in enumerate(parts, 1)
                for name, parameter in part.parameters.items()
            },
            parts,
        )


class SumCovariance(AbstractCovariance):
    """The covariance of `Sum`."""

    parameters: dict[str, Parameter]
    parts: tuple[AbstractCovariance, ...]

    def gram(self, params, x1, x2=None):
        return self._sum(lambda part, own: part.gram(own, x1, x2), params)

    def diagonal(self, params, x):
        return self._sum(lambda part, own: part.diagonal(own, x), params)

    def at(self, x):
        return SumAt(tuple(part.at(x) for part in self.parts))

    def _sum(self, value, params: LogValues) -> Array:
        found = [
            value(part, _own(params, number))
            for number, part in enumerate(self.parts, 1)
        ]
        return functools.reduce(jnp.add, found)


class SumAt(eqx.Module):
    """The Gram matrix of a sum at fixed inputs."""

    parts: tuple[Callable[[LogValues], Array], ...]

    def __call__(self, params: LogValues) -> Float[Array, "N N"]:
        found = [part(_own(params, n)) for n, part in enumerate(self.parts, 1)]
        return functools.reduce(jnp.add, found)


def _own(params: LogValues, number: int) -> LogValues:
    """The hyper-parameters of one part, under its own names."""
    start = f"{number}: "
    return {
        name.removeprefix(start): value
        for name, value in params.items()
        if name.startswith(start)
    }


class Scale(AbstractNetworkKernel):
    r"""$s^2 k(x, x')$: a kernel with a standard deviation of its own.

    A kernel that has an "output std" gets it multiplied by `std`; to another it is
    added as a hyper-parameter that starts at `std`.

    Args:
        kernel: any kernel.
        std: first value of s.

    >>> from ntkuq.kernels import RBF
    >>> Scale(RBF(), 2.0).std
    2.0
    """

    kernel: AbstractKernel
    std: float = 1.0

    def __check_init__(self):
        if not self.std > 0.0:
            raise ValueError(f"Scale: expected std > 0, got {self.std}")

    def covariance(self, bnn, x, scale):
        return self._of(_plain(bnn, x, scale))

    def nngp(self, bnn, x, scale):
        return self._of(_nngp(bnn, x, scale))

    def ntk(self, bnn, x, scale):
        return self._of(_ntk(bnn, x, scale))

    def _of(self, make: Make) -> AbstractCovariance:
        inner = make(self.kernel)
        log = np.log(self.std)
        if OUTPUT in inner.parameters:
            old = inner.parameters[OUTPUT]
            ends = (old.initial, old.lower, old.upper)
            # NumPy turns sums of arrays of no axes into scalars
            new = Parameter(*(np.asarray(end + log) for end in ends))
            return eqx.tree_at(lambda tree: tree.parameters[OUTPUT], inner, new)
        own = {OUTPUT: Parameter.of(self.std, 1e-2, 1e2)}
        return ScaledCovariance({**inner.parameters, **own}, inner)


class ScaledCovariance(AbstractCovariance):
    """The covariance of `Scale`."""

    parameters: dict[str, Parameter]
    inner: AbstractCovariance

    def gram(self, params, x1, x2=None):
        return _times(params, self.inner.gram(_without(params), x1, x2))

    def diagonal(self, params, x):
        return _times(params, self.inner.diagonal(_without(params), x))

    def at(self, x):
        return ScaledAt(self.inner.at(x))


class ScaledAt(eqx.Module):
    """The Gram matrix of a multiple at fixed inputs."""

    inner: Callable[[LogValues], Array]

    def __call__(self, params: LogValues) -> Float[Array, "N N"]:
        return _times(params, self.inner(_without(params)))


def _without(params: LogValues) -> LogValues:
    """All but the scale, which the kernel inside would take for its own."""
    return {name: value for name, value in params.items() if name != OUTPUT}


def _times(params: LogValues, values: Array) -> Array:
    return jnp.exp(2.0 * params[OUTPUT]).astype(values.dtype) * values


class ARD(AbstractNetworkKernel):
    r"""$k(x / \ell, x' / \ell)$: any kernel, with a lengthscale for each feature.

    The kernel inside keeps one scale of its inputs at its first value, since the
    lengthscales, which start at the spread of each feature, make up for it: "input
    scale", or its own "lengthscale"; of a `Sum`, that of the first part which has one.

    Args:
        kernel: any kernel.

    References:
        Neal, *Bayesian Learning for Neural Networks*, 1996 (automatic relevance
        determination).

    >>> from ntkuq.kernels import Analytic
    >>> ARD(Analytic(ard=False)).kernel.ard
    False
    """

    kernel: AbstractKernel

    def covariance(self, bnn, x, scale):
        return self._of(x, lambda z: _plain(bnn, z, scale))

    def nngp(self, bnn, x, scale):
        return self._of(x, lambda z: _nngp(bnn, z, scale))

    def ntk(self, bnn, x, scale):
        return self._of(x, lambda z: _ntk(bnn, z, scale))

    def _of(self, x: Array, maker: Callable[[Array], Make]) -> ARDCovariance:
        width = np.asarray(feature_scale(np.asarray(x), separate=True))
        # as the covariance will see them
        inner = maker(_over(jnp.asarray(np.log(width)), x))(self.kernel)
        held = [name for name in inner.parameters if _plain_name(name) in INPUT_SCALES]
        fixed = {name: inner.parameters[name].initial for name in held[:1]}
        own = {n: p for n, p in inner.parameters.items() if n not in fixed}
        return ARDCovariance(
            {"lengthscale": Parameter.of(width, 1e-3, 1e3), **own}, fixed, inner
        )


class ARDCovariance(AbstractCovariance):
    """The covariance of `ARD`."""

    parameters: dict[str, Parameter]
    fixed: dict[str, np.ndarray]
    inner: AbstractCovariance

    def gram(self, params, x1, x2=None):
        logs = params["lengthscale"]
        other = None if x2 is None else _over(logs, x2)
        return self.inner.gram(self._inner(params), _over(logs, x1), other)

    def diagonal(self, params, x):
        return self.inner.diagonal(self._inner(params), _over(params["lengthscale"], x))

    def at(self, x):
        return Gram(self, x)

    def _inner(self, params: LogValues) -> LogValues:
        like = params["lengthscale"].dtype
        own = {n: value for n, value in params.items() if n != "lengthscale"}
        return own | {n: jnp.asarray(v, like) for n, v in self.fixed.items()}


def _plain_name(name: str) -> str:
    """The name without the numbers of sums, "2: 1: lengthscale" to "lengthscale"."""
    return name.rpartition(": ")[2]


def _over(logs: Array, x: Array) -> Array:
    """Each feature over its lengthscale, in the shape of x."""
    rows = flat(x) * jnp.exp(-logs).astype(x.dtype)[None, :]
    return jnp.reshape(rows, x.shape)
