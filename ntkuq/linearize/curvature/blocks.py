"""Block-diagonal curvature: one block a leaf, whatever its form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ntkuq.linearize.chunks import predicted_numbers
from ntkuq.linearize.curvature.base import (
    AbstractCovariance,
    AbstractCurvature,
    same_kind,
    spectral_slopes,
)
from ntkuq.linearize.curvature.forms import Block, Diag, Rotated
from ntkuq.linearize.jacobian import Factors


#: Beyond this many eigenvalues the spectrum is kept as a histogram in log scale.
SPECTRUM_BINS = 20_000
#: Width of its bins in log scale: log det is off by at most a few 1e-7 of itself, since
#: the mean of a bin is kept exactly.
BIN_WIDTH = 1e-3


class Spectrum(eqx.Module):
    """Eigenvalues with multiplicities, on the host in float64."""

    values: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(values: np.ndarray) -> Spectrum:
        """The eigenvalues, or a fine histogram of them where they are many."""
        if values.size <= SPECTRUM_BINS:
            return Spectrum(values, np.ones_like(values))
        positive = values[values > 0]
        bins = np.floor(np.log(positive) / BIN_WIDTH).astype(np.int64)
        bins -= bins.min(initial=0)
        counts = np.bincount(bins).astype(np.float64)
        sums = np.bincount(bins, weights=positive)
        seen = counts > 0
        return Spectrum(sums[seen] / counts[seen], counts[seen])


class Blocks(AbstractCurvature):
    """A block-diagonal G, one block a leaf (KFAC, EKFAC, diagonal).

    Args:
        blocks: one for each leaf.
        statistics: the sums that the blocks were made from, to which further data add;
            `None` where further data cannot be added.
        variances: the prior variance of each leaf.
        spectrum: eigenvalues of L0^-1 G.
        count: the number of examples.
    """

    blocks: tuple[Rotated | Block | Diag, ...]
    statistics: Any
    variances: list[Array]
    spectrum: Spectrum
    count: int

    @staticmethod
    def of(
        blocks: tuple[Rotated | Block | Diag, ...],
        statistics: Any,
        variances: list[Array],
        count: int,
    ) -> Blocks:
        found = []
        for block, variance in zip(blocks, variances, strict=True):
            values = np.clip(np.asarray(block.values, np.float64), 0.0, None)
            found.append(values.ravel() * float(variance))
        spectrum = Spectrum.of(np.concatenate(found))
        return Blocks(blocks, statistics, variances, spectrum, count)

    @property
    def cheap(self) -> bool:
        return True

    def log_det(self, log_t: float) -> float:
        values, counts = self.spectrum.values, self.spectrum.counts
        return float(counts @ np.log1p(np.exp(log_t) * values))

    def slopes(self, log_t: float):
        return spectral_slopes(self.spectrum.values, log_t, self.spectrum.counts)

    def covariance(self, tau: float, t: float) -> BlocksCovariance:
        scales = _scales([b.values for b in self.blocks], self.variances, tau, t)
        return BlocksCovariance(self.blocks, scales)

    def log_det_at(self, variances, scale):
        total = jnp.zeros((), scale.dtype)
        for block, variance in zip(self.blocks, variances, strict=True):
            values = jnp.clip(block.values, 0.0).astype(scale.dtype)
            total = total + jnp.sum(jnp.log1p(scale * variance * values))
        return total

    def with_variances(self, variances):
        return Blocks.of(self.blocks, self.statistics, variances, self.count)

    def merge(self, other):
        other = same_kind(self, other)
        from ntkuq.linearize.curvature.kfac import merged

        return merged(self, other)


@jax.jit
def _scales(
    values: list[Array], variances: list[Array], tau: ArrayLike, t: ArrayLike
) -> list[Array]:
    return [
        jnp.reciprocal(tau * (jnp.clip(value, 0.0) * t + 1.0 / v))
        for value, v in zip(values, variances, strict=True)
    ]


class BlocksCovariance(AbstractCovariance):
    """Block-diagonal covariance: the eigenvalues of each block in `scales`."""

    blocks: tuple[Rotated | Block | Diag, ...]
    scales: list[Array]

    def _parts(self, factors: Factors) -> Iterator[tuple]:
        return zip(self.blocks, factors.leaves, self.scales, strict=True)

    def marginal(self, factors) -> Float[Array, "N C C"]:
        return self._total([b.marginal(leaf, s) for b, leaf, s in self._parts(factors)])

    def variance(self, factors) -> Float[Array, "N C"]:
        return self._total([b.variance(leaf, s) for b, leaf, s in self._parts(factors)])

    def numbers(self, jacobian, outputs):
        return predicted_numbers(jacobian, outputs) + 2 * outputs**2

    def joint(self, factors):
        return self._total([b.joint(leaf, s) for b, leaf, s in self._parts(factors)])

    def _total(self, parts: list[Array]) -> Array:
        return jax.tree.reduce(jnp.add, parts)

    def apply(self, vector):
        return [
            block.apply(v, scale)
            for block, v, scale in zip(self.blocks, vector, self.scales, strict=True)
        ]

    def sample(self, shape, *, key):
        keys = jax.random.split(key, len(self.blocks))
        parts = []
        for block, scale, k in zip(self.blocks, self.scales, keys, strict=True):
            white = jax.random.normal(k, (*shape, scale.size), scale.dtype)
            drawn = block.sample(white.reshape(-1, scale.size), scale)
            parts.append(drawn.reshape(white.shape))
        return jnp.concatenate(parts, axis=-1)
