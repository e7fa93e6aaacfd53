"""What is left of the error when the least certain predictions are set aside."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.predictive import Predictive

from .areas import area_under_risk, influence_of_generalized, influence_of_risk, ordered
from .coverage import exact_interval
from .exact import matched, need_finite
from .means import mean_score
from .records import Score, finite
from .regression import by_point
from .risk_curve import risk_curve
from .top_label import top_label
from .uncertainty import AbstractUncertainty, MaxProbability, TotalVariance


@dataclass(frozen=True)
class Selective:
    r"""How well an uncertainty sorts predictions from good to bad.

    Args:
        uncertainty: name of the number by which points are sorted.
        loss: "0/1 loss", or "squared error" in squared units of the data.
        n: number of points.
        risk: mean loss of all points.
        aurc: area under the risk-coverage curve.
        augrc: area under the generalized risk-coverage curve; for 0/1 loss the
            probability that a point is wrong and that a second one is kept with it.
        excess_aurc: `aurc` less that of an order by the loss itself; 0 is the best.
        curve: columns `coverage`, `risk`, `lower`, `upper`, at most 200 points; the
            band is pointwise, 95 %, by bootstrap.
        pointwise: for `aurc`, `augrc`, `excess_aurc` one value a point, (n,), whose
            mean is the number; `paired` compares methods by them.
    """

    uncertainty: str
    loss: str
    n: int
    risk: Score
    aurc: Score
    augrc: Score
    excess_aurc: Score
    curve: Mapping[str, np.ndarray] = field(repr=False)
    pointwise: Mapping[str, np.ndarray] = field(repr=False)

    def to_dict(self) -> dict:
        """As plain numbers for JSON, without the per-point values."""
        names = ("risk", "aurc", "augrc", "excess_aurc")
        return {
            "uncertainty": self.uncertainty,
            "loss": self.loss,
            "n": self.n,
            **{name: getattr(self, name).to_dict() for name in names},
            "curve": {
                name: [finite(v) for v in column.tolist()]
                for name, column in self.curve.items()
            },
        }


def selective(
    p: Predictive,
    y: ArrayLike,
    *,
    uncertainty: AbstractUncertainty | ArrayLike | None = None,
) -> Selective:
    r"""Risk against coverage when the least certain points are set aside.

    With the points sorted by uncertainty, smallest first, and $R_i$ the mean loss of
    the first i: $\mathrm{AURC} = \frac1n \sum_i R_i$, and with the generalized risk
    $\frac in R_i$, the share of points that are kept and wrong, $\mathrm{AUGRC} =
    \int_0^1 \frac{i}{n} R\, \mathrm d\frac{i}{n}$ by the trapezoidal rule. For 0/1 loss
    and accuracy a it is $(1 - \mathrm{AUROC})\, a (1 - a) + \frac12 (1 - a)^2$. Points
    of equal uncertainty have no order: all numbers are means over their orders.

    Standard errors are by the infinitesimal jackknife, the limit of the bootstrap for
    the small changes that n points allow; intervals are on the scale of the logarithm.
    Where nothing is wrong the interval is that of the error rate.

    Args:
        p: predictions at N points.
        y: shape of the predictions; in the units of the data, or class codes.
        uncertainty: what to sort by, or (N,) numbers, larger is less certain; by
            default `MaxProbability()` for classes and `TotalVariance()` else. Any
            increasing function of it, as the standard deviation, gives the same.

    Raises:
        ValueError: when shapes do not fit or values are not finite.
        TypeError: for an uncertainty that the predictions do not have.

    >>> p = Predictive.probabilities(np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]))
    >>> s = selective(p, np.array([0, 0, 0]))
    >>> print(f"{s.aurc.value:.4f} {s.augrc.value:.4f} {s.excess_aurc.value:.4f}")
    0.1111 0.0556 0.0000

    References:
        Geifman and El-Yaniv, 2017, NeurIPS (arXiv 1705.08500). Geifman, Uziel and
        El-Yaniv, 2019, ICLR (arXiv 1805.08206). Traub, Bungert, Lüth, Baumgartner,
        Maier-Hein, Maier-Hein and Jaeger, 2024, NeurIPS (arXiv 2407.01032). Efron,
        1982, The Jackknife, the Bootstrap and Other Resampling Plans, SIAM.
    """
    losses, loss = _losses(p, y)
    n = losses.size
    name, values = _uncertainty(p, uncertainty, n)
    numbers = risk_areas(values, losses)
    scores = {
        key: area_interval(value, change, losses, loss)
        for key, (value, change) in numbers.items()
    }
    return Selective(
        uncertainty=name,
        loss=loss,
        n=n,
        risk=mean_score(losses),
        curve=risk_curve(values, losses),
        pointwise={key: value + change for key, (value, change) in numbers.items()},
        **scores,
    )


def risk_areas(
    values: np.ndarray, losses: np.ndarray
) -> dict[str, tuple[float, np.ndarray]]:
    """AURC, AUGRC and excess AURC, each with its derivative in each point, (n,).

    Args:
        values: larger is less certain, (n,).
        losses: (n,).
    """
    kept, best = ordered(values, losses), ordered(losses, losses)
    aurc, augrc = area_under_risk(kept)
    change = influence_of_risk(kept)
    excess = max(aurc - area_under_risk(best)[0], 0.0)
    return {
        "aurc": (aurc, change),
        "augrc": (augrc, influence_of_generalized(kept)),
        "excess_aurc": (excess, change - influence_of_risk(best)),
    }


def _losses(p: Predictive, y: ArrayLike) -> tuple[np.ndarray, str]:
    with jax.enable_x64(True):
        double, outcome = matched(p, y)
        mean = np.asarray(double.mean)
    if double.is_classification:
        wrong = ~top_label(mean.reshape(-1, mean.shape[-1]), outcome.reshape(-1))[1]
        wrong = wrong.astype(np.float64).reshape(outcome.shape[0], -1)
        return wrong.mean(axis=1), "0/1 loss"
    need_finite("mean", mean)
    return by_point((outcome - mean) ** 2), "squared error"


def _uncertainty(
    p: Predictive, rule: AbstractUncertainty | ArrayLike | None, n: int
) -> tuple[str, np.ndarray]:
    if rule is None:
        rule = MaxProbability() if p.is_classification else TotalVariance()
    if isinstance(rule, AbstractUncertainty):
        return rule.name, rule.values(p)
    values = np.asarray(rule, np.float64)
    if values.shape != (n,):
        raise ValueError(f"expected uncertainty of shape ({n},), got {values.shape}")
    if np.isnan(values).any():
        raise ValueError(
            "expected a number for the uncertainty of every point, got NaN at row "
            f"{int(np.argmax(np.isnan(values)))}"
        )
    return "given", values


def area_interval(
    value: float, change: np.ndarray, losses: np.ndarray, loss: str
) -> Score:
    """An area with its standard error and interval, as `selective` describes them."""
    n = losses.size
    if n < 2:
        return Score(value, None, n, None)
    if loss == "0/1 loss" and not losses.any():
        return Score(value, None, n, exact_interval(0, n))
    from scipy import special

    se = float(np.sqrt(np.mean(change**2) / (n - 1)))
    if value <= 0:
        half = float(special.stdtrit(n - 1, 0.975)) * se
        return Score(value, se, n, (0.0, value + half))
    factor = float(np.exp(special.stdtrit(n - 1, 0.975) * se / value))
    return Score(value, se, n, (value / factor, value * factor))
