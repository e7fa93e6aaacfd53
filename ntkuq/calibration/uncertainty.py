"""One number a point that says how uncertain a prediction is."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import numpy as np

from ntkuq.posteriors.predictive import Predictive, current

from .exact import exact


class AbstractUncertainty(eqx.Module):
    """A rule that turns predictions into one number a point; larger is less certain.

    With several outputs or positions it is the mean over them.
    """

    name: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def values(self, p: Predictive) -> np.ndarray:
        """The uncertainty at each point, (N,), in float64.

        Raises:
            TypeError: for a kind of prediction that has no such number.
            ValueError: where the predictions lack it, or it is NaN.
        """


class TotalVariance(AbstractUncertainty):
    r"""The variance of a new observation, $\mathrm{Var}(y \mid x)$, in squared units.

    >>> p = Predictive.normal(np.zeros(2), np.array([1.0, 3.0]))
    >>> TotalVariance().values(p).tolist()
    [1.0, 9.0]
    """

    name: ClassVar[str] = "total variance"

    def values(self, p: Predictive) -> np.ndarray:
        """The variance of a new observation at each point, (N,)."""
        if p.is_classification:
            raise TypeError(
                "TotalVariance expects observations on a scale, got class "
                "probabilities; use MaxProbability() or Entropy()"
            )
        with jax.enable_x64(True):
            variance = np.asarray(current(exact(p).observed).variance)
        return _by_point(self.name, variance)


class Epistemic(AbstractUncertainty):
    r"""What more data would take away: `Predictive.epistemic`.

    The variance of the function value for regression, in squared units; for classes
    the mutual information of label and weights, in nats.
    """

    name: ClassVar[str] = "epistemic"

    def values(self, p: Predictive) -> np.ndarray:
        """The epistemic part at each point, (N,)."""
        if p.epistemic is None:
            instead = (
                "MaxProbability() or Entropy()"
                if p.is_classification
                else "TotalVariance()"
            )
            raise ValueError(
                "expected predictions with an epistemic part, got none: they come from "
                f"outside or from one network; use {instead}"
            )
        return _by_point(self.name, np.asarray(p.epistemic, np.float64))


class MutualInformation(AbstractUncertainty):
    r"""The mutual information of label and weights, in nats (BALD).

    $H[\mathbb E\, p(y \mid x, \theta)] - \mathbb E\, H[p(y \mid x, \theta)]$: for
    classes the same as `Epistemic`, under the name that the literature uses.
    """

    name: ClassVar[str] = "mutual information"

    def values(self, p: Predictive) -> np.ndarray:
        """The mutual information at each point, (N,)."""
        _need_classes(p, "MutualInformation")
        return Epistemic().values(p)


class Entropy(AbstractUncertainty):
    r"""The entropy of the predicted class, $-\sum_c p_c \log p_c$, in nats.

    >>> p = Predictive.probabilities(np.array([[0.5, 0.5], [1.0, 0.0]]))
    >>> Entropy().values(p).round(3).tolist()
    [0.693, 0.0]
    """

    name: ClassVar[str] = "entropy"

    def values(self, p: Predictive) -> np.ndarray:
        """The entropy at each point, (N,)."""
        from scipy import special

        _need_classes(p, "Entropy")
        return _by_point(self.name, special.entr(_probabilities(p)).sum(axis=-1))


class MaxProbability(AbstractUncertainty):
    r"""One less the largest class probability, $1 - \max_c p_c$.

    >>> p = Predictive.probabilities(np.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> MaxProbability().values(p).tolist()
    [0.25, 0.5]

    References:
        Hendrycks and Gimpel, 2017, ICLR (arXiv 1610.02136).
    """

    name: ClassVar[str] = "1 - max probability"

    def values(self, p: Predictive) -> np.ndarray:
        """One less the confidence at each point, (N,)."""
        _need_classes(p, "MaxProbability")
        return _by_point(self.name, 1.0 - _probabilities(p).max(axis=-1))


def _probabilities(p: Predictive) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(exact(p).mean)


def _need_classes(p: Predictive, name: str) -> None:
    if not p.is_classification:
        raise TypeError(
            f"{name} expects class probabilities, got observations on a scale; use "
            "TotalVariance() or Epistemic()"
        )


def _by_point(name: str, values: np.ndarray) -> np.ndarray:
    out = values.reshape(values.shape[0], -1).mean(axis=1)
    if np.isnan(out).any():
        raise ValueError(
            f"expected a number for the {name} of every point, got NaN at row "
            f"{int(np.argmax(np.isnan(out)))}"
        )
    return out
