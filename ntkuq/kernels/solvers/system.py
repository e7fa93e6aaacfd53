"""The linear system (k(X, X) + D) a = y, with or without its matrix in memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PyTree

from ntkuq.kernels.base import AbstractCovariance, LogValues, symmetric
from ntkuq.kernels.solvers.memory import available_bytes


#: Bytes of a block of rows of the kernel matrix; what makes it takes a few times that.
BLOCK_BYTES = 2**25
#: Fewer rows than this stay on one device.
SPREAD_ROWS = 512


class System(eqx.Module):
    r"""$A = k(X, X) + D$ with D diagonal: the covariance of noisy observations.

    Args:
        covariance, params: k and the logarithms of its hyper-parameters.
        x: inputs X (N, ...).
        noise: the diagonal of D, noise variances.
        matrix: k(X, X) where it is held; else products evaluate k block by block.
    """

    covariance: AbstractCovariance
    params: LogValues
    x: Array
    noise: Float[Array, " N"]
    matrix: Float[Array, "N N"] | None = None

    @property
    def size(self) -> int:
        """The number of rows N."""
        return self.x.shape[0]

    def gram(self) -> Float[Array, "N N"]:
        """k(X, X), its rows computed by all devices where there are several."""
        if self.matrix is not None:
            return self.matrix
        if devices(self.size) == 1:
            return self.covariance.gram(self.params, self.x)
        rows = _in_blocks(self, lambda k, _: k, jnp.zeros((0,), self.x.dtype))
        return symmetric(rows, self.diagonal(self.x))

    def held(self) -> System:
        """The system with k(X, X) in memory, where it takes less than half of it."""
        # while it is made there is a second one
        if self.matrix is not None or 16.0 * self.size**2 > 0.5 * available_bytes():
            return self
        return dataclasses.replace(self, matrix=_gram(self))

    def kernel_times(self, v: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """k(X, X) v."""
        if self.matrix is not None:
            return self.matrix @ v
        return _in_blocks(self, lambda k, v: k @ v, v)

    def times(self, v: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """A v."""
        return self.kernel_times(v) + self.noise[:, None] * v

    def column(self, at: Array) -> Float[Array, " N"]:
        """k(X, x_i) for one i."""
        if self.matrix is not None:
            return self.matrix[:, at]
        one = jax.lax.dynamic_slice_in_dim(self.x, at, 1)
        values = self.covariance.gram(self.params, self.x, one)[:, 0]
        return values.at[at].set(self.diagonal(one)[0])

    def cross(self, new: Array) -> Float[Array, "M N"]:
        """k(new, X)."""
        return self.covariance.gram(self.params, new, self.x)

    def prior(self, new: Array) -> Float[Array, "M M"]:
        """k(new, new)."""
        return self.covariance.gram(self.params, new)

    def diagonal(self, new: Array) -> Float[Array, " M"]:
        """k(x, x) of each new input."""
        return self.covariance.diagonal(self.params, new)


@eqx.filter_jit
def _gram(system: System) -> Array:
    return system.gram()


def devices(rows: int) -> int:
    """Over how many devices of this process so many rows are spread."""
    return 1 if rows < SPREAD_ROWS else jax.local_device_count()


def _in_blocks(system: System, function: Callable, v: Array) -> Array:
    """function(k(rows, X), v) of each block of rows, joined.

    The diagonal of k(X, X) is the exact one: between two inputs that are equal a
    recursion over layers loses half the digits.
    """
    size, spread = system.size, devices(system.size)
    count = math.ceil(8 * size * size / BLOCK_BYTES)
    count = spread * math.ceil(max(count, 1) / spread)
    per = math.ceil(size / count)
    short = count * per - size
    repeated = jnp.repeat(system.x[-1:], short, axis=0)
    rows = jnp.concatenate([system.x, repeated])
    mapped = (
        rows.reshape(count, per, *system.x.shape[1:]),
        jnp.arange(count * per).reshape(count, per),
        system.diagonal(rows).reshape(count, per),
    )

    def block(one: tuple, shared: tuple[System, Array]) -> Array:
        (rows, index, exact), (system, v) = one, shared
        k = system.cross(rows)
        k = k.at[jnp.arange(per), index].set(exact, mode="drop")
        return function(k, v)

    found = _spread(block, mapped, (system, v), spread)
    return found.reshape(count * per, *found.shape[2:])[:size]


def _spread(function: Callable, mapped: PyTree, shared: Any, spread: int) -> Array:
    """function(one, shared) of each entry of `mapped`, shared out among devices."""
    if spread == 1:
        return jax.lax.map(lambda one: function(one, shared), mapped)
    arrays, rest = eqx.partition(shared, eqx.is_array)

    def local(mapped: PyTree, arrays: PyTree) -> Array:
        whole = eqx.combine(arrays, rest)
        return jax.lax.map(lambda one: function(one, whole), mapped)

    mesh = Mesh(np.array(jax.local_devices()[:spread]), ("rows",))
    split, everywhere = PartitionSpec("rows"), PartitionSpec()
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(split, everywhere),
        out_specs=split,
        # loops inside a covariance start from constants, which are not split
        check_vma=False,
    )(mapped, arrays)
