"""Calibration in the worst of many random groups, beside what chance makes of it."""

import functools as ft
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from ntkuq.calibration.bootstrap import SEED
from ntkuq.calibration.exact import matched, need_regression
from ntkuq.calibration.pit import pit_values
from ntkuq.calibration.records import finite
from ntkuq.calibration.regression import squeeze
from ntkuq.posteriors.predictive import Predictive


LEVELS = np.linspace(0, 1, 100)

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

SETS = 100  # simulated test sets of a calibrated model


@dataclass(frozen=True)
class AdversarialGroups:
    """The calibration error of the worst random group, by the size of the groups.

    Args:
        n: number of points.
        draws: groups among which the worst is taken.
        trials: repetitions whose mean is shown.
        columns: `share` of the points in a group, `size` in points, `error` (mean over
            the trials of the worst error), `se` of that mean, and of a calibrated model
            on as many points `expected`, `lower`, `upper` (pointwise, 95 %).
    """

    n: int
    draws: int
    trials: int
    columns: Mapping[str, np.ndarray] = field(repr=False)

    def to_dict(self) -> dict:
        """As plain numbers for JSON."""
        return {
            "n": self.n,
            "draws": self.draws,
            "trials": self.trials,
            "columns": {
                name: [finite(v) for v in column.tolist()]
                for name, column in self.columns.items()
            },
        }


def adversarial_groups(
    p: Predictive,
    y: ArrayLike,
    *,
    share: float | Sequence[float] | np.ndarray = SHARES,
    draws: int = 20,
    trials: int = 5,
    key: PRNGKeyArray,
) -> AdversarialGroups:
    r"""Adversarial group calibration: the worst of random groups of each size.

    The error of a group is the mean of $|\hat c(L) - L|$ over 100 levels from 0 to 1
    of central intervals, as in uncertainty-toolbox ("mean_abs", "interval"). Groups
    are drawn without replacement. Since only the counts between neighboring levels
    matter, they are drawn as such (multivariate hypergeometric): the cost does not
    depend on N.

    Small groups have large errors by chance alone, so the number says something only
    beside `expected`, which comes from 100 simulated test sets of a calibrated model.

    Args:
        p: predictions of one output at N points.
        y: (N,), in the units of the data.
        share: parts of the points, in (0, 1], one number or (K,); a group has at least
            2 points.
        draws: groups among which the worst is taken.
        trials: repetitions, at least 2.
        key: random key for the groups.

    Raises:
        TypeError: for classes.
        ValueError: for several outputs, fewer than 2 points, or a share outside (0, 1].

    >>> rng = np.random.default_rng(0)
    >>> p, y = Predictive.normal(np.zeros(500), np.ones(500)), rng.normal(size=500)
    >>> table = adversarial_groups(p, y, share=[0.1, 1.0], key=jax.random.key(0))
    >>> c = table.columns
    >>> bool(np.all((c["lower"] <= c["error"]) & (c["error"] <= c["upper"])))
    True

    References:
        Zhao, Ma and Ermon, 2020, ICML (arXiv 2006.10288). Chung, Char, Guo, Schneider
        and Neiswanger, 2021 (arXiv 2109.10254).
    """
    need_regression(p, "adversarial_groups", "reliability_by_group")
    shares = np.atleast_1d(np.asarray(share, np.float64))
    if shares.ndim != 1 or not ((shares > 0) & (shares <= 1)).all():
        raise ValueError(f"expected shares above 0 and at most 1, got {shares}")
    if draws < 1 or trials < 2:
        raise ValueError(
            f"expected draws >= 1 and trials >= 2, got {draws} and {trials}"
        )
    with jax.enable_x64(True):
        double, outcome = matched(p, y)
        pit = squeeze(pit_values(double, outcome))
    if pit.ndim > 1:
        raise ValueError(
            f"expected predictions of one output, got {pit.shape[1]}; give "
            "one at a time"
        )
    n = pit.size
    if n < 2:
        raise ValueError(f"expected at least 2 points, got {n}")
    sizes = np.maximum(np.rint(shares * n), 2).astype(np.int64)
    # Cell k holds what the interval at level k adds to the one before it.
    centered = np.minimum(np.abs(2 * pit - 1), 1.0)
    counts = np.bincount(np.searchsorted(LEVELS, centered), minlength=LEVELS.size)

    rng = np.random.default_rng(np.ravel(jax.random.key_data(key)).tolist())
    worst = worst_errors(rng, counts[None], tuple(sizes.tolist()), draws, trials)[:, 0]
    chance = _by_chance(n, tuple(sizes.tolist()), draws, trials)
    return AdversarialGroups(
        n=n,
        draws=draws,
        trials=trials,
        columns={
            "share": shares,
            "size": sizes,
            "error": worst.mean(axis=1),
            "se": worst.std(axis=1, ddof=1) / np.sqrt(trials),
            "expected": chance.mean(axis=1),
            "lower": np.quantile(chance, 0.025, axis=1),
            "upper": np.quantile(chance, 0.975, axis=1),
        },
    )


def worst_errors(
    rng: np.random.Generator,
    counts: np.ndarray,
    sizes: tuple[int, ...],
    draws: int,
    trials: int,
) -> np.ndarray:
    """The worst error of each trial, (sizes, sets, trials), from counts (sets, K)."""
    sets, cells = counts.shape
    out = np.empty((len(sizes), sets, trials))
    for place, size in enumerate(sizes):
        shape = sets, trials * draws
        left = np.full(shape, size, np.int64)
        rest = np.broadcast_to(counts.sum(axis=1)[:, None], shape)
        error = np.zeros(shape)
        for cell in range(cells):
            here = np.broadcast_to(counts[:, cell, None], shape)
            rest = rest - here
            left = left - rng.hypergeometric(here, rest, left)
            error += np.abs((size - left) / size - LEVELS[cell])
        error = error.reshape(sets, trials, draws) / cells
        out[place] = error.max(axis=2)
    return out


@ft.lru_cache(maxsize=32)
def _by_chance(n: int, sizes: tuple[int, ...], draws: int, trials: int) -> np.ndarray:
    """The number on test sets of a calibrated model, (sizes, sets)."""
    rng = np.random.default_rng(SEED)
    counts = rng.multinomial(n, np.diff(LEVELS, prepend=0.0), size=SETS)
    out = worst_errors(rng, counts, sizes, draws, trials).mean(axis=2)
    out.setflags(write=False)
    return out
