"""How far predictions are from those of a reference, and how far that can be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.join import flattened
from ntkuq.posteriors.mcmc.posterior import NUTSPosterior
from ntkuq.posteriors.predictive import Predictive, current

from .coverage import share
from .exact import exact
from .means import mean_score
from .records import Score, decimals, finite


#: Draws of each distribution that say where its distribution function is looked at.
NODES = 256
#: Nodes on either side beyond the outermost draws, over as far as the draws reach.
OUTER = 16
#: Two-sided normal quantile of 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Distance:
    """How far predictions are from a reference.

    Args:
        task: "regression" or "classification".
        n: number of points.
        values: distances by name.
        floor: the same between two halves of the reference's chains; a method at its
            floor cannot be told from the reference. Empty where the reference came as
            predictions.
        pointwise: by name, the distance at each point, (n,).
    """

    task: str
    n: int
    values: Mapping[str, Score]
    floor: Mapping[str, Score]
    pointwise: Mapping[str, np.ndarray] = field(repr=False)

    def __getitem__(self, name: str) -> Score:
        if name not in self.values:
            known = ", ".join(self.values)
            raise KeyError(f"there is no distance {name!r}; there are {known}")
        return self.values[name]

    def __str__(self) -> str:
        head = ("distance", "value", "se", "95 % interval", "floor", "n")
        rows = [head, *(self._row(name, score) for name, score in self.values.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            row[0].ljust(widths[0])
            + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))
            for row in rows
        )

    def _row(self, name: str, score: Score) -> tuple[str, ...]:
        places = decimals(score.se)
        se = "-" if score.se is None else f"{score.se:.{places}f}"
        interval = "-"
        if score.interval is not None:
            low, high = score.interval
            interval = f"{low:.{places}f} to {high:.{places}f}"
        floor = "-"
        if name in self.floor:
            floor = f"{self.floor[name].value:.{places}f}"
        return name, f"{score.value:.{places}f}", se, interval, floor, str(score.n)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers for JSON, without the per-point values."""
        return {
            "task": self.task,
            "n": finite(self.n),
            "distances": {name: s.to_dict() for name, s in self.values.items()},
            "floor": {name: s.to_dict() for name, s in self.floor.items()},
        }


def distance(
    p: Predictive | AbstractPosterior,
    reference: Predictive | Sequence[Predictive] | AbstractPosterior,
    x: Any = None,
) -> Distance:
    r"""How far predictions are from those of a reference.

    Classes: `agreement`, the share of points with the same most probable class, and
    `total_variation`, the mean of $\tfrac12 \sum_c |p_c - r_c|$. Regression:
    `wasserstein`, the mean over points of the Wasserstein-1 distance of the two
    distributions of a new observation, $\int |F_p(y) - F_r(y)|\,dy$, in the units of
    the data, and `relative_wasserstein`, in standard deviations of the reference's
    prediction at that point. Several outputs or positions of a point are averaged.

    Standard errors count the points as drawn at random, and, where the reference is
    made of chains, their Monte-Carlo error too (leaving out one chain at a time). A
    distance to finitely many draws is never zero: `floor` is the distance between the
    predictions of the first and of the second half of the chains. A reference has
    twice the draws of a half, so that an exact method is found below its floor.

    Args:
        p: predictions at x, or a posterior that makes them.
        reference: the posterior of `NUTS`, or any predictions at the same points; those
            of several chains, a list, are one reference, which nobody has checked for
            mixing: compare the distances with `floor`, which says how far the chains
            are apart (it needs two).
        x: the inputs (N, …); only where a posterior is given.

    Raises:
        NotAReference: for chains that have not mixed.
        TypeError: for a reference that is neither chains nor predictions.
        ValueError: where shapes or kinds differ, or x is missing.

    References:
        Izmailov, Vikram, Hoffman and Wilson 2021 (arXiv 2104.14421); Wilson et al.,
        *Evaluating approximate inference in Bayesian deep learning*, NeurIPS 2021
        competition, PMLR 176 (there the Wasserstein distance is called "W2").

    >>> one = Predictive.normal(np.zeros(3), np.ones(3))
    >>> two = Predictive.normal(0.5 * np.ones(3), np.ones(3))
    >>> print(f"{distance(one, two)['wasserstein'].value:.3f}")
    0.500
    """
    if isinstance(reference, NUTSPosterior):
        reference.check()
    elif not _are_predictions(reference):
        raise TypeError(
            "distance: expected the posterior of NUTS or a Predictive as reference, or "
            f"a list of the Predictives of chains, got {type(reference).__name__}: for "
            "another posterior give its predictions, posterior.predict(x)"
        )
    if x is None and any(isinstance(one, AbstractPosterior) for one in (p, reference)):
        raise ValueError(
            "distance: expected the inputs x where to compare, since a posterior was "
            "given: distance(p, reference, x)"
        )
    if isinstance(p, AbstractPosterior):
        p = p.predict(x)
    if isinstance(reference, NUTSPosterior):
        parts = reference.predict_chains(x)
    else:
        parts = [reference] if isinstance(reference, Predictive) else list(reference)
    with jax.enable_x64(True):
        return _distance(_flat(p), [_flat(part) for part in parts])


def _are_predictions(
    reference: object,
) -> TypeGuard[Predictive | Sequence[Predictive]]:
    if isinstance(reference, Predictive):
        return True
    return (
        isinstance(reference, list | tuple)
        and len(reference) > 0
        and all(isinstance(one, Predictive) for one in reference)
    )


def _distance(p: Predictive, parts: list[Predictive]) -> Distance:
    """The distance of p to the equal mixture of the parts (one for each chain)."""
    for one in parts:
        shapes = [tuple(current(q.observed).batch_shape) for q in (p, one)]
        if p.is_classification != one.is_classification or shapes[0] != shapes[1]:
            kinds = ["classes" if q.is_classification else "numbers" for q in (p, one)]
            raise ValueError(
                "distance: expected predictions at the same points, got "
                f"{kinds[0]} of shape {shapes[0]} and a reference of {kinds[1]} of "
                f"shape {shapes[1]}"
            )
    compare = _Classes.of(p, parts) if p.is_classification else _Numbers.of(p, parts)
    count = len(parts)
    every = list(range(count))
    found = compare(None, every)
    values = {name: _score(name, each) for name, each in found.items()}
    floor: dict[str, Score] = {}
    if count > 1:
        rest = [[k for k in every if k != out] for out in every]
        without = [compare(None, chosen) for chosen in rest]
        for name, score in values.items():
            means = np.array([np.mean(one[name]) for one in without])
            # the jackknife over chains
            spread = np.sqrt((count - 1) * np.mean((means - means.mean()) ** 2))
            values[name] = _widened(score, float(spread))
        halves = compare(every[: count // 2], every[count // 2 :])
        floor = {name: _score(name, each) for name, each in halves.items()}
    return Distance(
        task="classification" if p.is_classification else "regression",
        n=current(p.observed).batch_shape[0],
        values=values,
        floor=floor,
        pointwise=found,
    )


class _Classes(NamedTuple):
    """Probabilities of p and of each chain, (N, C) or (N, T, C)."""

    p: np.ndarray
    parts: np.ndarray

    @staticmethod
    def of(p: Predictive, parts: list[Predictive]) -> "_Classes":
        probs = np.asarray(p.mean)
        others = np.stack([np.asarray(part.mean) for part in parts])
        if probs.shape != others.shape[1:]:
            raise ValueError(
                f"distance: expected the {others.shape[-1]} classes of the reference, "
                f"got {probs.shape[-1]}"
            )
        return _Classes(probs, others)

    def __call__(self, own: list[int] | None, chosen: list[int]):
        """p, or the mean of its own chains, against the mean of the chosen ones."""
        p = self.p if own is None else self.parts[own].mean(axis=0)
        r = self.parts[chosen].mean(axis=0)
        same = (p.argmax(axis=-1) == r.argmax(axis=-1)).astype(np.float64)
        apart = 0.5 * np.abs(p - r).sum(axis=-1)
        return {"agreement": _by_point(same), "total_variation": _by_point(apart)}


class _Numbers(NamedTuple):
    """Distribution functions between nodes (M, N, …), their widths, and moments."""

    p: np.ndarray
    parts: np.ndarray
    widths: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @staticmethod
    def of(p: Predictive, parts: list[Predictive]) -> "_Numbers":
        laws = [current(q.observed) for q in (p, *parts)]
        nodes = _nodes(laws)
        middle = jnp.asarray((nodes[1:] + nodes[:-1]) / 2)
        values = [np.asarray(_cdf(law, middle)) for law in laws]
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError(
                "distance: expected finite distribution functions, got others: check "
                "that the predictions have finite means and positive spreads"
            )
        return _Numbers(
            p=values[0],
            parts=np.stack(values[1:]),
            widths=np.diff(nodes, axis=0),
            means=np.stack([np.asarray(law.mean) for law in laws[1:]]),
            variances=np.stack([np.asarray(law.variance) for law in laws[1:]]),
        )

    def __call__(self, own: list[int] | None, chosen: list[int]):
        p = self.p if own is None else self.parts[own].mean(axis=0)
        apart = np.abs(p - self.parts[chosen].mean(axis=0))
        found = np.sum(apart * self.widths, axis=0)
        # of the whole reference: law of total variance over its chains
        spread = np.sqrt(self.variances.mean(axis=0) + self.means.var(axis=0))
        return {
            "wasserstein": _by_point(found),
            "relative_wasserstein": _by_point(found / spread),
        }


def _nodes(laws: list[dist.Distribution]) -> np.ndarray:
    """Where distribution functions are looked at between, increasing, (M, N, …).

    Draws (by a fixed key) are dense where a distribution function bends, and its jumps
    are nodes, so that the midpoint rule is exact for steps.
    """
    found = []
    for number, law in enumerate(laws):
        if isinstance(law, Empirical | QuantileTable):
            found.append(np.moveaxis(np.asarray(law.values), -1, 0))
            continue
        # chains see nearly the same: together they have as many as p
        size = NODES if number == 0 else max(NODES // (len(laws) - 1), 32)
        drawn = law.sample(jax.random.key(number), (size,))
        found.append(np.asarray(drawn, np.float64))
    nodes = np.concatenate(found)
    low, high = nodes.min(axis=0), nodes.max(axis=0)
    if any(_discrete(law) for law in laws):
        # counts: every step within the draws' reach
        steps = np.arange(np.floor(low.min()), np.ceil(high.max()) + 1)
        rows = steps.reshape(-1, *(1,) * low.ndim)
        nodes = np.concatenate([nodes, np.broadcast_to(rows, (len(steps), *low.shape))])
    share = np.linspace(0, 1, OUTER + 1)[1:].reshape(-1, *(1,) * low.ndim)
    reach = share * (high - low)
    return np.sort(np.concatenate([low - reach, nodes, high + reach]), axis=0)


@eqx.filter_jit
def _cdf(law: dist.Distribution, y: jax.Array) -> jax.Array:
    def one(row: jax.Array) -> jax.Array:
        if not _discrete(law):
            return jnp.asarray(law.cdf(row))
        # NumPyro's are not defined below zero counts
        return jnp.where(row < 0, 0.0, law.cdf(jnp.maximum(row, 0.0)))

    return jax.lax.map(one, y)


def _discrete(law: dist.Distribution) -> bool:
    return bool(getattr(law.support, "is_discrete", False))


def _flat(p: Predictive) -> Predictive:
    """In float64; images and sequences of numbers as columns."""
    double = exact(p)
    if double.is_classification or current(double.observed).batch_shape[2:] == ():
        return double
    return flattened(double)


def _by_point(a: np.ndarray) -> np.ndarray:
    return a.reshape(len(a), -1).mean(axis=1)


def _score(name: str, each: np.ndarray) -> Score:
    """The mean over points; a distance is not negative, a share not above 1."""
    if name == "agreement" and np.isin(each, (0.0, 1.0)).all():
        return share(int(each.sum()), each.size)
    score = mean_score(each)
    if score.interval is None:
        return score
    top = 1.0 if name in ("agreement", "total_variation") else np.inf
    low, high = score.interval
    return _with(score, score.se, (max(low, 0.0), min(high, top)))


def _widened(score: Score, error: float) -> Score:
    """With a Monte-Carlo error that is independent of the choice of points."""
    if score.se is None or score.interval is None:
        return score
    value, (low, high) = score.value, score.interval
    low = value - float(np.hypot(value - low, _Z * error))
    high = value + float(np.hypot(high - value, _Z * error))
    return _with(score, float(np.hypot(score.se, error)), (low, high))


def _with(score: Score, se: float | None, interval: tuple[float, float]) -> Score:
    return Score(score.value, se, score.n, interval, hits=score.hits)
