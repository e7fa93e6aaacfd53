"""Queries that ask what points tell together, or of target inputs."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import PyTree

from ntkuq.decisions.active import classes, gaussian
from ntkuq.decisions.active.base import (
    AbstractQuery,
    best,
    few,
    need_number,
    rows,
    selection,
)
from ntkuq.decisions.active.joint import conditioned, drawn_probabilities


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
        need_number(n, rows(pool_x))
        p = posterior.predict(few(pool_x, 1))
        if not p.is_classification:
            with jax.enable_x64(True):
                c = conditioned(posterior, pool_x, None)
                return selection(*gaussian.greedy(gaussian.information, c, n))
        drawn, key = jax.random.split(key)
        q = drawn_probabilities(posterior, pool_x, self.draws, key=drawn)
        return selection(*classes.batch_information(q, n, self.configurations, key))


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
        need_number(n, rows(pool_x))
        with jax.enable_x64(True):
            c = conditioned(posterior, pool_x, self.targets)
            return selection(*gaussian.greedy(gaussian.reduction, c, n))


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
        need_number(n, rows(pool_x))
        p = posterior.predict(few(pool_x, 1))
        if not p.is_classification:
            with jax.enable_x64(True):
                c = conditioned(posterior, pool_x, self.targets)
                gain = gaussian.predictive_information
                return selection(*gaussian.greedy(gain, c, n))
        first, second = jax.random.split(key)
        targets = pool_x if self.targets is None else self.targets
        some = np.asarray(jax.random.permutation(first, rows(targets)))[: self.most]
        targets = jax.tree.map(lambda a: np.asarray(a)[some], targets)
        # the same functions at both
        both = jax.tree.map(
            lambda a, b: np.concatenate([np.asarray(a), b]), pool_x, targets
        )
        q = drawn_probabilities(posterior, both, self.draws, key=second)
        size = rows(pool_x)
        return best(classes.predictive_information(q[:, :size], q[:, size:]), n)
