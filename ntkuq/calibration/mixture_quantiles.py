"""Many quantiles of many mixtures of Normals at once, in float64."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


BLOCK = 200_000  # components handled at once
TRIES = 3

# Rational approximation of the upper tail over exp(-z^2 / 2), from Hart et al., 1968,
# Computer Approximations, number 5666; its error is below 1e-15.
_ABOVE = (
    *(0.0352624965998911, 0.700383064443688, 6.37396220353165, 33.912866078383),
    *(112.079291497871, 221.213596169931, 220.206867912376),
)
_BELOW = (
    *(0.0883883476483184, 1.75566716318264, 16.064177579207, 86.7807322029461),
    *(296.564248779674, 637.333633378831, 793.826512519948, 440.413735824752),
)


@dataclass(frozen=True)
class Rows:
    """Mixtures in rows.

    Args:
        weights: (R, M), summing to one.
        loc: means, (R, M).
        scale: standard deviations, (R, M).

    >>> import numpy as np
    >>> rows = Rows(np.full((1, 2), 0.5), np.array([[-1.0, 1.0]]), np.ones((1, 2)))
    >>> print(abs(rows.quantiles(np.array([0.5]))[0, 0]) < 1e-12)
    True
    """

    weights: np.ndarray = field(repr=False)
    loc: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)

    def blocks(self) -> Iterator[slice]:
        """Slices of rows of nearly equal size that fit the memory."""
        total, parts = self.loc.shape
        count = -(-total * parts // BLOCK)
        step = max(-(-total // count), 1)
        for start in range(0, total, step):
            yield slice(start, start + step)

    def part(self, rows: slice | np.ndarray) -> "Rows":
        """Some of the rows."""
        return Rows(self.weights[rows], self.loc[rows], self.scale[rows])

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        """Quantiles at levels (Q,), (Q, R).

        From one level to the next by the series of `_step`, in increasing order; what
        it does not reach, between modes far apart, is found by `solve`.
        """
        from scipy import special

        total, order = self.loc.shape[0], np.argsort(q)
        out, before = np.empty((q.size, total)), -1.0
        with jax.enable_x64(True):
            columns = self._columns()
            at = columns[-2] + columns[-1] * special.ndtri(q[order[0]])
            for k, after in zip(order, [*order[1:], order[-1]], strict=True):
                level, following = float(q[k]), float(q[after])
                far = level - before > 0.22 * min(level, 1 - level)
                found, good, ahead = _step(columns, at, level, following)
                for _ in range(TRIES if far and not bool(good.all()) else 0):
                    found, good, ahead = _step(columns, found, level, following)
                good = np.asarray(good)
                if not good.all():
                    fixed, bad = np.array(found), np.nonzero(~good[:total])[0]
                    fixed[bad] = self.part(bad).solve(np.full(bad.size, level))
                    found = jnp.asarray(fixed)
                    ahead = _step(columns, found, level, following)[2]
                out[k] = np.asarray(found)[:total]
                at, before = ahead, level
        return out

    def _columns(self) -> tuple[jax.Array, ...]:
        """What `_step` needs, with the components first and rows added at the end.

        Few row counts keep compilations few.
        """
        total = self.loc.shape[0]
        unit = max(2 ** (total.bit_length() - 4), 64)
        more = -total % unit
        weights, loc, scale = (
            np.pad(a, ((0, more), (0, 0)), mode="edge").T
            for a in (self.weights, self.loc, self.scale)
        )
        mean = np.sum(weights * loc, axis=0)
        std = np.sqrt(np.sum(weights * ((loc - mean) ** 2 + scale**2), axis=0))
        density = weights / scale / np.sqrt(2 * np.pi)
        columns = (weights, loc, 1 / scale, density, mean, std)
        return tuple(jnp.asarray(a, jnp.float64) for a in columns)

    def solve(self, q: np.ndarray) -> np.ndarray:
        """One quantile of each row at its own level (R,), by a bracketed Newton search.

        A quantile of a mixture lies between the smallest and the largest quantile of
        its components.
        """
        from scipy import special

        parts = self.loc + self.scale * special.ndtri(q)[:, None]
        low, high = parts.min(axis=1), parts.max(axis=1)
        at, rows = (low + high) / 2, np.arange(q.size)
        out, last = at.copy(), np.full(q.size, np.inf)
        for _ in range(200):
            here, level = self.part(rows), q[rows]
            z = (at[:, None] - here.loc) / here.scale
            excess = np.sum(here.weights * special.ndtr(z), axis=1) - level
            f = np.sum(here.weights / here.scale * np.exp(-0.5 * z**2), axis=1)
            f /= np.sqrt(2 * np.pi)
            low, high = np.where(excess < 0, at, low), np.where(excess < 0, high, at)
            with np.errstate(over="ignore"):
                newton = at - excess / np.where(f > 0, f, 1.0)
            good = (f > 0) & (newton >= low) & (newton <= high)
            good &= np.abs(newton - at) <= last / 2
            new = np.where(good, newton, (low + high) / 2)
            last = np.abs(new - at)
            out[rows] = new
            done = last <= 4 * np.finfo(float).eps * np.maximum(
                np.abs(low), np.abs(high)
            )
            done |= good & (last <= 1e-9 * here.scale.min(axis=1))
            keep = ~done
            if not keep.any():
                break
            rows, at, last = rows[keep], new[keep], last[keep]
            low, high = low[keep], high[keep]
        return out


@jax.jit
def _step(
    columns: tuple[jax.Array, ...],
    at: jax.Array,
    level: ArrayLike,
    following: ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Quantiles at a level from guesses, whether they hold, guesses for the next one.

    By the series of the inverse function at x, with $u = (q - F(x)) / f$:
    $Q(q) = x + u - \frac{f'}{2f} u^2 + \frac{3 f'^2 - f f''}{6 f^2} u^3 + \dots$
    """
    weights, loc, inverse, density, mean, std = columns
    z = (at - loc) * inverse
    square = z * z
    bell = jnp.exp(-0.5 * square)
    each = density * bell
    tail = bell * _polynomial(_ABOVE, jnp.abs(z)) / _polynomial(_BELOW, jnp.abs(z))
    below = jnp.sum(weights * jnp.where(z > 0, 1 - tail, tail), axis=0)
    f = jnp.sum(each, axis=0)
    first = -jnp.sum(each * inverse * z, axis=0) / f
    second = jnp.sum(each * inverse**2 * (square - 1), axis=0) / f
    bend, twist = -first / 2, (3 * first**2 - second) / 6

    u = (level - below) / f
    third = twist * u**3
    found = at + (u + bend * u**2 + third)
    # What the series leaves out is of the order of the next term, and of the third
    # power of the step over the narrowest component with density on the way.
    rest = jnp.abs(third) * jnp.maximum(jnp.abs(bend * u), jnp.abs(twist * u**2))
    reach = jnp.abs(u) * inverse
    reach = jnp.max(jnp.where(jnp.abs(z) - reach < 8, reach, 0.0), axis=0)
    rest = jnp.maximum(rest, jnp.abs(u) * reach**3)
    good = rest <= 1e-13 * std
    u = (following - below) / f
    ahead = at + (u + bend * u**2 + twist * u**3)
    found = jnp.where(jnp.isfinite(found), found, mean)
    return found, good, jnp.where(jnp.isfinite(ahead), ahead, mean)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    value = coefficients[0] * x
    for one in coefficients[1:-1]:
        value = (value + one) * x
    return value + coefficients[-1]
