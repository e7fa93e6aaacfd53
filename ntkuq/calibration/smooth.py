"""Calibration error without bins: residuals smoothed at the scale of their own size."""

import numpy as np

from .binned import Chance
from .blocks import Blocks, blocks, hits_by_chance
from .records import Score
from .top_label import binary


NARROWEST = 1 / 2000  # bandwidth
FINE, CELLS = 8192, 512  # grid steps for the value, for resamples
DRAWS, STEPS = 200, 4  # of the root finding, which leave an error of 1 % at most


def smooth_calibration_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    *,
    group: np.ndarray | None = None,
) -> Score:
    r"""Smooth calibration error (smECE) at the bandwidth where it equals it.

    With residuals $r_i = y_i - c_i$ and the Gaussian kernel reflected at 0 and 1,
    $\mathrm{smECE}_\sigma = \int_0^1 \left|\frac1n \sum_i r_i K_\sigma(c_i, t)\right|
    dt$, taken at the fixed point $\mathrm{smECE}_\sigma = \sigma$ (no less than
    0.0005). Since it falls as σ grows there is just one. It is computed by the cosine
    series of the residuals, in which the reflected kernel is the factor
    $e^{-(\pi k \sigma)^2 / 2}$. It is biased upwards like every distance;
    `chance_smooth_error` tells by how much. Standard error and interval are by
    bootstrap (`distance_score`); the p-value is that of a calibrated model.

    Args:
        confidence: (n,), between 0 and 1.
        correct: (n,), booleans.
        group: points with the same value depend on each other, (n,).

    Raises:
        ValueError: for shapes that do not fit, or values outside 0 to 1.

    >>> import numpy as np
    >>> s = smooth_calibration_error(np.full(10, 0.9), np.arange(10) < 6)
    >>> print(f"{s.value:.3f}")
    0.300

    References:
        Błasiok and Nakkiran, 2023 (arXiv 2309.12236).
    """
    p, y = binary(confidence, correct)
    return smooth_error(p, y, blocks(p.size, group))[0]


def chance_smooth_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    *,
    group: np.ndarray | None = None,
) -> Score:
    """What `smooth_calibration_error` would be for a calibrated model.

    From 200 simulated test sets: outcomes drawn with the given confidences, or with
    groups, resampled groups about their mean.

    Args:
        confidence: (n,), between 0 and 1.
        correct: (n,), booleans; it matters only with groups.
        group: as there.

    Returns:
        The mean, the standard deviation, and the interval that holds 95 % of the
        values.
    """
    p, y = binary(confidence, correct)
    return smooth_error(p, y, blocks(p.size, group))[1].score


def smooth_error(p: np.ndarray, y: np.ndarray, dealt: Blocks) -> tuple[Score, Chance]:
    """The smooth calibration error and what chance would show.

    Args:
        p: probabilities, (n,).
        y: outcomes 0 and 1, (n,), floating.
        dealt: the points in blocks.
    """
    p, n = np.clip(p, 0.0, 1.0), p.size
    value = fixed_point(cosines(p, y - p) / n)
    cell = np.minimum((p * CELLS).astype(np.int64), CELLS - 1)
    by_block = dealt.sums(cell, CELLS, y - p)
    replicates = fixed_points(dealt.again(by_block, DRAWS) / n)
    if dealt.grouped:
        noise = dealt.noise(by_block, DRAWS)
    else:
        count = np.bincount(cell, minlength=CELLS)
        used = count > 0
        size = count[used]
        mean = np.clip(np.bincount(cell, p, minlength=CELLS)[used] / size, 0.0, 1.0)
        noise = np.zeros((DRAWS, CELLS))
        noise[:, used] = hits_by_chance(size, mean, DRAWS) - size * mean
    chance = Chance.of(fixed_points(noise / n), value, n)
    return dealt.distance(value, replicates, chance.p), chance


def cosines(p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    r"""$\sum_i w_i \cos(\pi k p_i)$ for k = 0 to 8192, (8193,).

    Weights are shared between neighbors on a grid. That replaces the cosine by its
    chord, which falls short by $\tfrac12 (\pi k)^2 \delta (h - \delta) \cos$ at the
    distance δ from a grid point with step h; the second sum puts it back.

    Args:
        p: (n,), from 0 to 1.
        weight: (n,).
    """
    from scipy import fft

    at = p * FINE
    low = np.minimum(at.astype(np.int64), FINE - 1)
    part = at - low

    def series(a: np.ndarray) -> np.ndarray:
        sums = np.bincount(low, a * (1 - part), minlength=FINE + 1)
        sums += np.bincount(low + 1, a * part, minlength=FINE + 1)
        sums[1:-1] /= 2  # the transform counts inner points twice
        return np.asarray(fft.dct(sums, type=1))

    order = np.pi * np.arange(FINE + 1) / FINE
    chord = np.minimum(0.5 * order**2, 0.5)  # high orders are damped away anyhow
    return series(weight) + chord * series(weight * part * (1 - part))


def smoothed(coefficients: np.ndarray, sigma: float) -> float:
    r"""The error at a bandwidth, $\int_0^1 |g(t)|\,dt$.

    $g(t) = a_0 + 2 \sum_k a_k e^{-(\pi k \sigma)^2 / 2} \cos(\pi k t)$.

    Args:
        coefficients: $a_k$, (K + 1,).
        sigma: bandwidth.
    """
    from scipy import fft

    half = coefficients.size // 2
    k = np.arange(half + 1)
    kept = coefficients[: half + 1] * np.exp(-0.5 * (np.pi * k * sigma) ** 2)
    kept[-1] = 0.0
    g = np.asarray(fft.dct(kept, type=1))
    # Trapezoids, where the line crosses 0 two triangles.
    a, b = np.abs(g[:-1]), np.abs(g[1:])
    crossing = (g[:-1] * g[1:] < 0) & (a + b > 0)
    width = np.where(crossing, a + b, 1.0)
    area = np.where(crossing, (a**2 + b**2) / (2 * width), (a + b) / 2)
    return float(area.mean())


def fixed_point(coefficients: np.ndarray) -> float:
    """The bandwidth that equals the error at that bandwidth; see `smoothed`."""
    from scipy import optimize

    def excess(sigma: float) -> float:
        return smoothed(coefficients, sigma) - sigma

    if excess(NARROWEST) <= 0:
        return smoothed(coefficients, NARROWEST)
    if excess(1.0) >= 0:
        return smoothed(coefficients, 1.0)
    found = optimize.root_scalar(excess, bracket=(NARROWEST, 1.0), xtol=1e-12)
    return float(found.root)


def fixed_points(residuals: np.ndarray) -> np.ndarray:
    """Fixed points of many sums of residuals at once, to about 1 %, (draws,).

    Args:
        residuals: sums by cell of equal width, over n, (draws, cells).
    """
    from scipy import fft

    draws, cells = residuals.shape
    a = np.asarray(fft.dct(residuals, type=2, axis=1)) / 2
    order = np.pi * np.arange(cells)

    def log_error(u: np.ndarray) -> np.ndarray:
        damped = a * np.exp(-0.5 * (np.exp(u)[:, None] * order) ** 2)
        curves = np.asarray(fft.dct(damped, type=3, axis=1, overwrite_x=True))
        error = np.abs(curves).mean(axis=1)
        return np.log(np.maximum(error, 1e-300))

    # The Illinois method on log smECE - log sigma, which is nearly a line.
    low = np.full(draws, np.log(NARROWEST))
    high = np.zeros(draws)
    at_low, at_high = log_error(low) - low, np.log(np.abs(a[:, 0]) + 1e-300)
    floor, below = np.exp(at_low + low), at_low <= 0
    at_low, at_high = np.maximum(at_low, 1e-12), np.minimum(at_high, -1e-12)
    last = np.zeros(draws)
    for step in range(STEPS):
        u = (low * at_high - high * at_low) / (at_high - at_low)
        if step == STEPS - 1:
            return np.where(below, floor, np.exp(u))
        now = log_error(u) - u
        up = now > 0
        at_high = np.where(up & (last > 0), at_high / 2, at_high)
        at_low = np.where(~up & (last < 0), at_low / 2, at_low)
        low, at_low = np.where(up, u, low), np.where(up, now, at_low)
        high, at_high = np.where(up, high, u), np.where(up, at_high, now)
        at_high = np.minimum(at_high, -1e-12)
        last = np.where(up, 1.0, -1.0)
    raise AssertionError("not reached")
