"""Predictive distributions on the host: all that the regression scores ask of them."""

import abc
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpyro import distributions as dist

from ntkuq.posteriors.distributions import Empirical, QuantileTable, first_bad
from ntkuq.posteriors.predictive import Predictive

from .bootstrap import SEED
from .interval_score import QUANTILES, pinball, pinball_normal
from .proper import crps_normal, crps_samples, drawn


class AbstractLaw(abc.ABC):
    """A predictive distribution for each point and output, in NumPy float64.

    A method that a kind of prediction does not allow raises NotImplementedError with
    the reason.
    """

    @property
    @abc.abstractmethod
    def mean(self) -> np.ndarray:
        """Expected observations, shape of the batch."""

    @property
    @abc.abstractmethod
    def variance(self) -> np.ndarray:
        """Variances of observations, shape of the batch."""

    @property
    @abc.abstractmethod
    def reach(self) -> float:
        """The largest central level that the predictions speak about."""

    @abc.abstractmethod
    def nll(self, y: np.ndarray) -> np.ndarray:
        """Negative log density, (N,): outputs of a point are added up."""

    @abc.abstractmethod
    def crps(self, y: np.ndarray) -> np.ndarray:
        """Continuous ranked probability score, shape of y."""

    @abc.abstractmethod
    def quantiles(self, q: np.ndarray) -> np.ndarray:
        """Quantiles at levels (Q,), shape (Q, ...)."""

    @abc.abstractmethod
    def pinball(self, y: np.ndarray) -> np.ndarray:
        """Mean pinball loss over levels, shape of y."""

    @abc.abstractmethod
    def pit(self, y: np.ndarray) -> np.ndarray:
        """F(y), drawn uniformly within a jump, shape of y."""


@dataclass(frozen=True)
class NormalLaw(AbstractLaw):
    """Normals in closed form.

    Args:
        loc: means, shape of the batch.
        scale: standard deviations, same shape.
    """

    loc: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)

    @property
    def mean(self) -> np.ndarray:
        return self.loc

    @property
    def variance(self) -> np.ndarray:
        return self.scale**2

    @property
    def reach(self) -> float:
        return 1.0

    def nll(self, y: np.ndarray) -> np.ndarray:
        z = (y - self.loc) / self.scale
        return summed(0.5 * z**2 + np.log(self.scale) + 0.5 * np.log(2 * np.pi))

    def crps(self, y: np.ndarray) -> np.ndarray:
        return crps_normal(self.loc, self.scale, y)

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        from scipy import special

        return np.stack([self.loc + z * self.scale for z in special.ndtri(q)])

    def pinball(self, y: np.ndarray) -> np.ndarray:
        return self.scale * pinball_normal((y - self.loc) / self.scale)

    def pit(self, y: np.ndarray) -> np.ndarray:
        from scipy import special

        return special.ndtr((y - self.loc) / self.scale)


@dataclass(frozen=True)
class OtherLaw(AbstractLaw):
    """Any other distribution, by what NumPyro knows about it.

    Args:
        predictive: the predictions.
    """

    predictive: Predictive

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.predictive.mean)

    @property
    def variance(self) -> np.ndarray:
        return np.asarray(self.predictive.observed.variance)

    @property
    def reach(self) -> float:
        return 1.0

    def nll(self, y: np.ndarray) -> np.ndarray:
        return -np.asarray(self.predictive.log_prob(y))

    def crps(self, y: np.ndarray) -> np.ndarray:
        return crps_samples(drawn(self.predictive.observed), y)

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        kind = type(self.predictive.observed).__name__
        try:
            return np.asarray(self.predictive.quantile(q))
        except NotImplementedError as reason:
            # what the distribution itself says, such as what it would need
            message = str(reason) or f"{kind} has no quantile function."
            raise NotImplementedError(message) from None
        except ImportError as missing:
            # NumPyro leaves some special functions to TensorFlow Probability.
            message = f"The quantile function of {kind} is not available: {missing}"
            raise NotImplementedError(message) from missing

    def pinball(self, y: np.ndarray) -> np.ndarray:
        return pinball(self.quantiles(QUANTILES), y, QUANTILES)

    def pit(self, y: np.ndarray) -> np.ndarray:
        upper = np.asarray(self.predictive.cdf(y))
        if not self.predictive.observed.is_discrete:
            return upper
        # NumPyro's distribution functions are not defined below the support.
        least = getattr(self.predictive.observed.support, "lower_bound", -np.inf)
        before = np.asarray(self.predictive.cdf(np.maximum(y - 1, least)))
        before = np.where(y - 1 < least, 0.0, before)
        return before + uniform(y.shape) * (upper - before)


def law(predictive: Predictive) -> AbstractLaw:
    """The predictions as a law on the host.

    Args:
        predictive: predictions with float64 NumPy parameters.

    Raises:
        ValueError: for a parameter that is not finite or a scale that is not positive;
            the first such row is named.
    """
    from .draws import SampleLaw
    from .mixtures import MixtureLaw
    from .student import StudentLaw
    from .tables import TableLaw

    observed = predictive.observed
    if isinstance(observed, dist.Normal):
        loc, scale = _host(observed.loc), _host(observed.scale)
        shape = observed.batch_shape
        _need_normal(loc, scale)
        return NormalLaw(np.broadcast_to(loc, shape), np.broadcast_to(scale, shape))
    if isinstance(observed, dist.MixtureSameFamily) and isinstance(
        observed.component_distribution, dist.Normal
    ):
        parts = observed.component_distribution
        loc, scale = _host(parts.loc), _host(parts.scale)
        _need_normal(loc, scale)
        weights = _host(observed.mixing_distribution.probs)
        arrays = np.broadcast_arrays(weights, loc, scale)
        return MixtureLaw(*arrays)
    if isinstance(observed, dist.StudentT):
        df, loc, scale = (_host(a) for a in (observed.df, observed.loc, observed.scale))
        _need_normal(loc, scale)
        shape = observed.batch_shape
        return StudentLaw(*(np.broadcast_to(a, shape) for a in (df, loc, scale)))
    if isinstance(observed, Empirical):
        return SampleLaw(_host(observed.values))
    if isinstance(observed, QuantileTable):
        return TableLaw(_host(observed.levels), _host(observed.values))
    return OtherLaw(predictive)


def uniform(shape: tuple[int, ...]) -> np.ndarray:
    """Uniform values, the same on every run."""
    return np.random.default_rng(SEED).uniform(size=shape)


def summed(values: np.ndarray) -> np.ndarray:
    """The sum over the outputs of each point, (N,)."""
    return values if values.ndim == 1 else values.reshape(len(values), -1).sum(axis=1)


def _host(a: Any) -> np.ndarray:
    return np.asarray(a, np.float64)


def _need_normal(loc: np.ndarray, scale: np.ndarray) -> None:
    for name, what, values, good in (
        ("means", "finite", loc, np.isfinite(loc)),
        ("stds", "finite and positive", scale, np.isfinite(scale) & (scale > 0)),
    ):
        if not good.all():
            row = first_bad(good)
            got = values[row] if values.ndim else values
            raise ValueError(f"expected {what} {name}, got {got} at row {row}")
