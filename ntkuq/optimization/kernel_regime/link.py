"""Across networks: does the condition say how fast natural gradient is?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ntkuq.calibration import Score
from ntkuq.calibration.claims import Above, Claim
from ntkuq.calibration.ranking import area_score
from ntkuq.optimization.kernel_regime.rates import LINKED
from ntkuq.optimization.kernel_regime.records import Regime
from ntkuq.optimization.kernel_regime.study import decided


#: Networks below which no correlation has an interval.
LEAST = 4
CORRELATED = Claim(
    "natural gradient gains most where the kernel is worst conditioned (rank "
    "concordance of κ and the ratio of iterations)",
    None,
    # 0.6 is what a Spearman correlation of 0.8 is for normal pairs
    Above(0.6, 0.0),
    8,
)


class Outcome(NamedTuple):
    """What was found for one network.

    Args:
        constant: C′.
        kept: did natural gradient contract at the lazy rate?
        condition: κ(K) = λ_max/λ_min; NaN where it is not known.
        ratio: iterations of gradient descent over those of natural gradient; NaN where
            it is not known.
        bound: is that ratio a lower bound, as gradient descent was cut off?
    """

    constant: float
    kept: bool
    condition: float = math.nan
    ratio: float = math.nan
    bound: bool = False

    @staticmethod
    def of(found: Regime) -> Outcome | None:
        """From a regime; `None` where C′ or the rate was not tested.

        The rate is kept where every claim 7 that was tested is confirmed.
        """
        rates = [c for c in found.claims if c.number == 7 and c.word != "not tested"]
        stable = [c for c in found.claims if c.number == 6 and c.statistic is not None]
        if not rates or not stable:
            return None
        (first, *_) = stable
        ratio = next((c for c in found.claims if c.number == 8), None)
        assert first.statistic is not None  # noqa: S101
        largest = first.statistic.value if first.worst is None else first.worst
        values = {} if ratio is None else ratio.values
        return Outcome(
            float(largest),
            all(claim.word == "confirmed" for claim in rates),
            values.get("condition", math.nan),
            values.get("ratio", math.nan),
            values.get("bound", 0.0) > 0,
        )


def link(found: Iterable[Regime | Outcome]) -> tuple[Claim, Claim]:
    r"""Claims 9 and 8 over several networks.

    Claim 9 is the link that is implied where C′ is computed to judge second-order
    training: that C′ < 1/2 tells the networks on which natural gradient keeps the lazy
    rate from the others. Its statistic is the area under the ROC curve of this yes or
    no, 1/2 by chance, with DeLong's interval; the area of C′ itself is in the note.
    Where all networks keep the rate, or none, it is undecided. Claim 8 is the rank
    concordance of κ(K) with how many times as many iterations gradient descent needs,
    over the pairs of networks whose order is known where descent was cut off.

    Args:
        found: regimes of several networks, measured with `Conditions` and
            `NaturalGradientRate`, or their outcomes.

    Returns:
        Both claims.

    >>> seen = [Outcome(0.1, True), Outcome(0.3, True), Outcome(9.0, True)]
    >>> [claim.word for claim in link(seen)]
    ['undecided', 'not tested']
    """
    rows = [Outcome.of(one) if isinstance(one, Regime) else one for one in found]
    known = [row for row in rows if row is not None]
    missing = len(rows) - len(known)
    note = f"{len(known)} networks"
    if missing:
        note += f"; {missing} more have no C′ or no rate"
    return _predicts(known, note), _correlates(known, note)


def _predicts(rows: Sequence[Outcome], note: str) -> Claim:
    if not rows:
        return decided(LINKED, note=note, reason="no network has both C′ and a rate")
    kept = np.array([row.kept for row in rows])
    constants = np.array([row.constant for row in rows])
    if kept.all() or not kept.any():
        group = "all" if kept.all() else "none"
        note += (
            f"; {group} of them keep the rate, {int((constants < 0.5).sum())} have "
            "C′ < 1/2: there is nothing to predict"
        )
        return decided(LINKED, Score(math.nan, None, len(rows), None), note=note)
    says = (constants < 0.5).astype(float)
    score = area_score(says[~kept], says[kept])
    ranks = area_score(-constants[~kept], -constants[kept])
    note += f"; {int(kept.sum())} keep the rate; area of -C′ itself {ranks.value:.3g}"
    return decided(LINKED, score, note=note)


def _correlates(rows: Sequence[Outcome], note: str) -> Claim:
    pairs = np.array([(row.condition, row.ratio, row.bound) for row in rows])
    pairs = pairs.reshape(-1, 3)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < LEAST:
        reason = (
            f"needs at least {LEAST} networks with κ and a ratio of iterations, got "
            f"{len(pairs)}"
        )
        return decided(CORRELATED, note=note, reason=reason)
    x, y, bounds = pairs[:, 0], pairs[:, 1], pairs[:, 2] > 0
    known = _known(y, bounds)
    note += (
        f"; {len(pairs)} have κ and a ratio, {int((~bounds).sum())} of these are exact "
        f"and the others lower bounds; {int(known.sum())} pairs can be compared"
    )
    return decided(CORRELATED, concordance(x, y, bounds), note=note)


def _known(y: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(n, n) whether the ratio of a row is known to be below that of a column."""
    return (y[:, None] < y[None]) & ~bounds[:, None]


def concordance(x: np.ndarray, y: np.ndarray, bounds: np.ndarray) -> Score:
    r"""Somers' D of x given y, some of which are lower bounds; 95 % by the jackknife.

    $D = 2C - 1$ with the index C of Harrell et al. 1982: over the pairs of which it is
    known that $y_i < y_j$ (the smaller one is no bound), the share with $x_i < x_j$,
    ties one half. The interval is that of $\operatorname{artanh} D$ with one network
    left out at a time (Newson 2002). Where every pair is in order nothing changes then:
    the end is that of Clopper and Pearson for as many disjoint pairs as there can be.

    Args:
        x, y: (n,).
        bounds: (n,) whether y is a lower bound.

    Returns:
        D; NaN without an interval where no pair can be compared.

    References: Harrell, Califf, Pryor, Lee, Rosati 1982
    (doi 10.1001/jama.1982.03320430047030); Newson 2002 (Stata Journal 2, 45-64).

    >>> x, y = np.arange(4.0), np.array([1.0, 2.0, 9.0, 3.0])
    >>> concordance(x, y, np.array([False, False, False, True])).value
    1.0
    """
    from scipy import stats

    n = len(x)
    known = _known(y, bounds).astype(float)
    order = known * np.sign(x[None] - x[:, None])
    pairs, total = known.sum(), order.sum()
    if pairs == 0:
        return Score(math.nan, None, n, None)
    value = float(total / pairs)
    if abs(value) == 1.0:
        apart = int((known + known.T).any(axis=1).sum()) // 2
        end = 2 * 0.025 ** (1 / apart) - 1
        return Score(value, None, n, (end, 1.0) if value > 0 else (-1.0, -end))
    fewer = pairs - known.sum(axis=0) - known.sum(axis=1)
    if (fewer <= 0).any():
        return Score(value, None, n, None)
    others = (total - order.sum(axis=0) - order.sum(axis=1)) / fewer

    def far(d):
        return np.arctanh(np.clip(d, -1 + 1e-6, 1 - 1e-6))

    z = far(others)
    se = math.sqrt((n - 1) / n * np.sum((z - z.mean()) ** 2))
    half = stats.t.ppf(0.975, n - 1) * se
    ends = float(np.tanh(far(value) - half)), float(np.tanh(far(value) + half))
    return Score(value, (1 - value**2) * se, n, ends)
