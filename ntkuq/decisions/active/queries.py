"""Queries: which points of a pool to label next, several at a time."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.decisions.acquisition import BALD, AbstractAcquisition, Random
from ntkuq.decisions.active import classes, gaussian
from ntkuq.decisions.pool import Selection, select
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.predictive import Predictive


class AbstractQuery(eqx.Module):
    """A choice of points to label."""

    @abc.abstractmethod
    def __call__(
        self,
        posterior: AbstractPosterior,
        pool_x: PyTree,
        n: int,
        *,
        labeled_x: PyTree | None = None,
        key: Array,
    ) -> Selection:
        """n points of the pool, the first chosen first.

        Args:
            posterior: given the labels so far.
            pool_x: candidates, leading axis N.
            n: how many, 1 to N.
            labeled_x: inputs with labels; used by `CoreSet` only.
            key: random key for what draws.

        Returns:
            Rows of the pool, and what each was worth when it was chosen.

        Raises:
            ValueError: for n outside 1 to N.
            TypeError: where posterior or task do not fit.
        """


class Top(AbstractQuery):
    """The n points of largest acquisition, scored one by one.

    Args:
        acquisition: such as `BALD()` or `Random()`.

    >>> Top().acquisition
    BALD()
    """

    acquisition: AbstractAcquisition = BALD()

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        return select(self.acquisition, posterior, pool_x, n, key=key)


class Uniform(AbstractQuery):
    """Points at random: the control.

    >>> Uniform()
    Uniform()
    """

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        return select(Random(), posterior, pool_x, n, key=key)


class MaxEntropy(AbstractQuery):
    """The n points whose observation is most uncertain, noise included.

    References: Lewis and Gale 1994.

    >>> MaxEntropy()
    MaxEntropy()
    """

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        _need_number(n, _rows(pool_x))
        p = posterior.predict(pool_x)
        if p.is_classification:
            return _best(classes.entropy(p.mean), n)
        variance = jnp.asarray(p.observed.variance)
        return _best(0.5 * jnp.log(2 * jnp.pi * jnp.e * variance), n)


class BatchBALD(AbstractQuery):
    r"""The n points whose labels together tell most of the function.

    Greedy in $I(y_1, \ldots, y_n; f)$. For regression exact for Gaussian posteriors:
    $\frac12\log|I + \Sigma/\sigma^2|$, from `joint`. For classes by functions drawn
    from the posterior, exact in the labels of small batches.

    Args:
        draws: functions, for classes.
        configurations: joint labels that are enumerated or else drawn.

    References: Kirsch, van Amersfoort, Gal 2019 (arXiv 1906.08158).

    >>> BatchBALD().draws
    200
    """

    draws: int = 200
    configurations: int = 1000

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        _need_number(n, _rows(pool_x))
        p = posterior.predict(_few(pool_x, 1))
        if not p.is_classification:
            with jax.enable_x64(True):
                c = conditioned(posterior, pool_x, None)
                return _selection(*gaussian.greedy(gaussian.information, c, n))
        drawn, key = jax.random.split(key)
        q = drawn_probabilities(posterior, pool_x, self.draws, key=drawn)
        return _selection(*classes.batch_information(q, n, self.configurations, key))


class VarianceReduction(AbstractQuery):
    r"""The points whose observation lowers the variance at target inputs most.

    Greedy in $\frac1T \sum_* \Sigma_{x*}^2 / (\Sigma_{xx} + \sigma^2)$, exact for
    Gaussian posteriors, whose covariances come from `joint`.

    Args:
        targets: inputs (T, …) where predictions will be needed; `None` for the pool.

    References: Cohn 1996 (ALC); Gorodetsky and Marzouk 2016 (IVR).

    >>> VarianceReduction().targets is None
    True
    """

    targets: PyTree | None = None

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        _need_number(n, _rows(pool_x))
        with jax.enable_x64(True):
            c = conditioned(posterior, pool_x, self.targets)
            return _selection(*gaussian.greedy(gaussian.reduction, c, n))


class EPIG(AbstractQuery):
    r"""Expected predictive information gain: of target labels, not of the function.

    $E_*[I(y_x; y_*)]$. Regression: closed form for Gaussian posteriors, greedy in a
    batch. Classes: by functions drawn from the posterior, points one by one.

    Args:
        targets: inputs (T, …) where predictions will be needed; `None` for the pool.
        draws: functions, for classes.
        most: for classes, target inputs that are used of those given, at random.

    References: Bickford Smith et al. 2023 (arXiv 2304.08151).

    >>> EPIG().draws
    200
    """

    targets: PyTree | None = None
    draws: int = 200
    most: int = 100

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        _need_number(n, _rows(pool_x))
        p = posterior.predict(_few(pool_x, 1))
        if not p.is_classification:
            with jax.enable_x64(True):
                c = conditioned(posterior, pool_x, self.targets)
                gain = gaussian.predictive_information
                return _selection(*gaussian.greedy(gain, c, n))
        first, second = jax.random.split(key)
        targets = pool_x if self.targets is None else self.targets
        rows = np.asarray(jax.random.permutation(first, _rows(targets)))[: self.most]
        targets = jax.tree.map(lambda a: np.asarray(a)[rows], targets)
        # the same functions at both
        both = jax.tree.map(
            lambda a, b: np.concatenate([np.asarray(a), b]), pool_x, targets
        )
        q = drawn_probabilities(posterior, both, self.draws, key=second)
        size = _rows(pool_x)
        return _best(classes.predictive_information(q[:, :size], q[:, size:]), n)


class CoreSet(AbstractQuery):
    """Points that cover the pool: each the farthest from all points with labels.

    k-center greedy in the inputs, scaled as the problem scales them.

    References: Sener and Savarese 2018 (arXiv 1708.00489).

    >>> CoreSet()
    CoreSet()
    """

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        size = _rows(pool_x)
        _need_number(n, size)
        scaled = posterior.bnn.inputs
        pool = jnp.reshape(jax.tree.leaves(scaled(pool_x))[0], (size, -1))
        if labeled_x is None or _rows(labeled_x) == 0:
            distance = jnp.linalg.norm(pool - pool.mean(axis=0), axis=1)
        else:
            known = jax.tree.leaves(scaled(labeled_x))[0]
            known = jnp.reshape(known, (known.shape[0], -1))
            distance = jnp.min(_distances(pool, known), axis=1)
        return _selection(*_centers(pool, distance, n))


def _distances(a: Array, b: Array) -> Array:
    square = jnp.sum(a**2, 1)[:, None] + jnp.sum(b**2, 1) - 2.0 * a @ b.T
    return jnp.sqrt(jnp.maximum(square, 0.0))


@eqx.filter_jit
def _centers(pool: Array, distance: Array, n: int):
    def step(carry, _):
        row = jnp.argmax(carry)
        new = jnp.linalg.norm(pool - pool[row], axis=1)
        # -1: not to be chosen twice
        least = jnp.minimum(carry, new).at[row].set(-1.0)
        return least, (row, carry[row])

    return jax.lax.scan(step, distance, None, length=n)[1]


def conditioned(
    posterior: Any, pool_x: PyTree, targets: PyTree | None
) -> gaussian.Conditioned:
    """Joint covariances of pool and targets in float64; `None` repeats the pool.

    Raises:
        TypeError: for posteriors without `joint`, classes, or several outputs.
    """
    if not hasattr(posterior, "joint"):
        raise TypeError(
            "query: expected a posterior with joint covariances (GP, NTKGP, Laplace), "
            f"got {type(posterior).__name__}: use Top(BALD()) or CoreSet()"
        )
    size = _rows(pool_x)
    both = pool_x
    if targets is not None:
        both = jax.tree.map(
            lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]),
            pool_x,
            targets,
        )
    p: Predictive = posterior.predict(both)
    if p.is_classification or p.aleatoric is None or np.ndim(p.aleatoric) != 1:
        raise TypeError(
            "query: expected predictions of one outcome on a scale with its noise, got "
            "others: use Top(BALD()), BatchBALD() or EPIG() for classes"
        )
    covariance = jnp.asarray(np.asarray(posterior.joint(both).covariance, np.float64))
    noise = jnp.asarray(np.asarray(p.aleatoric, np.float64))
    if targets is None:
        covariance = jnp.concatenate([covariance, covariance], axis=1)
        noise = jnp.concatenate([noise, noise])
        variance = jnp.tile(jnp.diagonal(covariance), 2)
    else:
        variance = jnp.diagonal(covariance)
    return gaussian.Conditioned(covariance[:size], variance, noise)


def drawn_probabilities(
    posterior: Any, x: PyTree, draws: int, *, key: Array
) -> Float[Array, "S N C"]:
    """Class probabilities at x of functions drawn from the posterior.

    Raises:
        TypeError: for posteriors without `sample_functions`.
    """
    if not hasattr(posterior, "sample_functions"):
        raise TypeError(
            "query: expected a posterior with sample_functions (Laplace, DeepEnsemble, "
            f"NUTS, ...), got {type(posterior).__name__}: use Top(BALD())"
        )
    logits = jnp.asarray(posterior.sample_functions(key, draws)(x))
    if logits.ndim == 2:
        # one logit: Bernoulli
        logits = jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
    return jax.nn.softmax(logits, axis=-1)


def _rows(x: PyTree) -> int:
    return jax.tree.leaves(x)[0].shape[0]


def _few(x: PyTree, n: int) -> PyTree:
    return jax.tree.map(lambda a: a[:n], x)


def _need_number(n: int, total: int) -> None:
    if not 1 <= n <= total:
        raise ValueError(f"query: expected n from 1 to {total} points, got {n}")


def _best(values: Array, n: int) -> Selection:
    found = np.asarray(values)
    if np.isnan(found).any():
        raise ValueError(
            f"query: expected values, got NaN at row {int(np.isnan(found).argmax())}: "
            "look for inputs there that are not finite"
        )
    order = np.argsort(-found, kind="stable")[:n]
    return Selection(order, found[order])


def _selection(rows: Array, values: Array) -> Selection:
    return Selection(np.asarray(rows), np.asarray(values))
