"""The energy score of several outputs together."""

from collections.abc import Iterator

import numpy as np
from numpyro import distributions as dist

from .draws import SampleLaw
from .laws import AbstractLaw, NormalLaw
from .mixtures import MixtureLaw
from .proper import drawn


BUDGET = 200_000_000  # differences of samples to form before pairs are left out
BLOCK = 500_000  # numbers held at once
STEP = 0.4  # of the integral, in log t


def energy_score(
    law: AbstractLaw, y: np.ndarray, observed: dist.Distribution
) -> np.ndarray:
    r"""The energy score of each point: the CRPS of several outputs jointly.

    $E\|X - y\| - \tfrac12 E\|X - X'\|$ with Euclidean norms over the C outputs, all in
    their own units: standardize outputs of different units first. Samples are joint
    draws of all outputs and get the fair estimator (`energy_samples`). Normals and
    mixtures are marginals, taken as independent, and integrated in closed form up to
    rounding (`energy_mixture`). Any other distribution is drawn from, output by output
    (200 draws, fixed key).

    Args:
        law: the predictions, batch (N, C).
        y: observations, (N, C).
        observed: the same predictions in NumPyro, for those that are drawn from.

    Returns:
        (N,), in the units of the data; zero for a sure and right prediction.

    Raises:
        NotImplementedError: for a single sample per point.

    References:
        Gneiting and Raftery, 2007, JASA 102, 359-378, section 4.2.
    """
    if isinstance(law, SampleLaw):
        return energy_samples(law.values, y)
    if isinstance(law, NormalLaw):
        loc, scale = law.loc[..., None], law.scale[..., None]
        return energy_mixture(np.ones_like(loc), loc, scale, y)
    if isinstance(law, MixtureLaw):
        return energy_mixture(law.weights, law.loc, law.scale, y)
    return energy_samples(drawn(observed), y)


def energy_samples(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    r"""The fair estimator, unbiased for the distribution that the draws come from.

    $\frac1S \sum_s \|x_s - y\| - \frac{1}{2 S (S - 1)} \sum_{st} \|x_s - x_t\|$.
    For many points and draws the double sum runs over some of the distances in index
    s - t only, evenly spaced; for draws in no particular order it stays unbiased.

    Args:
        values: joint draws, (N, C, S).
        y: (N, C).

    Raises:
        NotImplementedError: when S = 1.

    >>> import numpy as np
    >>> print(energy_samples(np.array([[[3.0, -3.0], [4.0, -4.0]]]), np.zeros((1, 2))))
    [0.]
    """
    n, outputs, size = values.shape
    if size < 2:
        raise NotImplementedError("The fair estimator needs at least two samples.")
    near, apart = np.empty(n), np.empty(n)
    # Pairs at lag l and at S - l are the same; each lag 1 to S / 2 once.
    lags = np.arange(1, size // 2 + 1)
    most = max(BUDGET // max(n * outputs * size, 1), 8)
    if lags.size > most:
        lags = lags[np.linspace(0, lags.size - 1, most).round().astype(int)]
    pairs = np.where(2 * lags == size, size // 2, size)
    step = max(BLOCK // (outputs * size), 1)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        draws = np.ascontiguousarray(values[rows])
        near[rows] = _norm(draws - y[rows][:, :, None]).mean(axis=-1)
        total = np.zeros(draws.shape[0])
        for lag, count in zip(lags, pairs, strict=True):
            moved = np.roll(draws, -lag, axis=-1) - draws
            total += _norm(moved).sum(axis=-1) * (count / size)
        apart[rows] = total / pairs.sum()
    return near - apart / 2


def energy_mixture(
    weights: np.ndarray, loc: np.ndarray, scale: np.ndarray, y: np.ndarray
) -> np.ndarray:
    r"""The score of independent mixtures of Normals, one for each output.

    For a sum of squares $Q \ge 0$ with mean m,
    $E\sqrt Q = \sqrt m - \frac{1}{2\sqrt\pi} \int_0^\infty
    (E e^{-tQ} - e^{-tm})\,t^{-3/2}\,dt$. The transform is a product over outputs of
    $\sum_i w_i (1 + 2 t \sigma_i^2)^{-1/2} \exp(-t \delta_i^2 / (1 + 2 t \sigma_i^2))$;
    the integral is a trapezoidal sum in log t, which converges geometrically.

    Args:
        weights: (N, C, M), summing to one.
        loc: (N, C, M).
        scale: standard deviations, (N, C, M).
        y: (N, C).

    References:
        Gneiting and Raftery, 2007, JASA 102, 359-378.
    """
    n, _, size = loc.shape
    first, second = np.triu_indices(size)
    out = np.empty(n)
    for rows in _blocks(n, loc.shape[1] * first.size):
        w, m, v = weights[rows], loc[rows], scale[rows] ** 2
        near = _mean_root(w, (m - y[rows][..., None]) ** 2, v)
        twice = np.where(first == second, 1.0, 2.0)
        apart = _mean_root(
            twice * w[..., first] * w[..., second],
            (m[..., first] - m[..., second]) ** 2,
            v[..., first] + v[..., second],
        )
        out[rows] = near - apart / 2
    return out


def _mean_root(
    weights: np.ndarray, squares: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """The mean norm of independent mixtures with these squared means, (R,)."""
    mean = np.sum(weights * (squares + variance), axis=(1, 2))
    squares, variance = (a / mean[:, None, None] for a in (squares, variance))
    # t = exp(x) / m. To the left the integrand falls like exp(3x/2), to the right
    # like exp(-x/2) and, from 1 / variance of the widest output on, like exp(-x).
    smallest = float(np.min(variance.min(axis=2).max(axis=1)))
    right = min(26.0 - np.log(smallest) / 2, 52.0)
    total = np.zeros(mean.size)
    for x in np.arange(-18.0, right, STEP):
        t = np.exp(x)
        shrink = 1 / (1 + 2 * t * variance)
        each = weights * np.sqrt(shrink) * np.exp(-t * squares * shrink)
        transform = np.prod(each.sum(axis=2), axis=1)
        total += (transform - np.exp(-t)) * np.exp(-x / 2)
    return np.sqrt(mean) * (1 - total * STEP / (2 * np.sqrt(np.pi)))


def _norm(a: np.ndarray) -> np.ndarray:
    """Euclidean norms over the outputs of (N, C, S)."""
    return np.sqrt(np.einsum("ncs,ncs->ns", a, a))


def _blocks(n: int, each: int) -> Iterator[slice]:
    step = max(BLOCK // 8 // each, 1)
    for start in range(0, n, step):
        yield slice(start, start + step)
