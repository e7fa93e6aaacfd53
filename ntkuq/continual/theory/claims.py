"""Claims 18 to 23: what width, laziness and overlap have to do with forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkuq.calibration import Score
from ntkuq.calibration.claims import Above, Below, Claim
from ntkuq.calibration.means import mean_score
from ntkuq.continual.theory.drift import Drift


#: Slopes that are as good as none (claims 18 and 19).
FLAT = 0.02
#: Fewest widths of a slope, and the factor between the ends.
FEWEST, FACTOR = 3, 4
#: Correlations nearer to one are taken for this one: Fisher's z is infinite there.
ONE = 1 - 1e-12
#: Fewest pairs of tasks of a rank correlation (claim 22).
PAIRS = 10


@dataclass(frozen=True)
class Arm:
    """Forgetting over widths under one way of training.

    Args:
        widths: W of them.
        forgetting: average forgetting, (S, W), seeds by widths.
        distance: of the weights from initialization, over their norm there, (S, W).
        learned: mean accuracy right after learning, (S, W).
        note: parametrization, optimizer, stopping rule, learning rate.
    """

    widths: tuple[int, ...]
    forgetting: np.ndarray
    distance: np.ndarray
    learned: np.ndarray
    note: str = ""


def forgetting_claims(
    arms: Mapping[str, Arm], *, early: str | None = None, converged: str | None = None
) -> tuple[Claim, ...]:
    """Claims 18, 19, 20 and 23, decided over seeds.

    Args:
        arms: name -> forgetting over widths under one way of training.
        early, converged: which arms stop early and train to the end (claim 19).

    Returns:
        Of each arm claim 18 (forgetting and relative forgetting), 20 and 23; claim 19
        where both arms are named. The sign of no slope is assumed.

    References: Mirzadeh et al. 2022; Wenger, Dangel, Kristiadi 2023 (arXiv 2310.00137);
    Graldi et al. 2025 (arXiv 2506.16884); Guha and Lakshman 2024.
    """
    found: list[Claim] = []
    for name, arm in arms.items():
        found += [
            _width(name, arm, arm.forgetting, "forgetting"),
            _width(name, arm, arm.forgetting / arm.learned, "relative forgetting"),
            _laziness(name, arm),
            _distance(name, arm),
        ]
    if early is not None and converged is not None:
        found.insert(0, _stopping(arms[early], arms[converged], early, converged))
    return tuple(found)


def slopes(arm: Arm, values: np.ndarray) -> np.ndarray:
    """The exponent of the width of each seed, by least squares on logarithms, (S,)."""
    x = np.log(np.asarray(arm.widths, float))
    x = x - x.mean()
    # forgetting of zero has no logarithm: such a seed has no slope
    logs = np.log(np.where(values > 0, values, np.nan))
    return logs @ x / np.sum(x**2)


def _reason(arm: Arm, values: np.ndarray) -> str | None:
    widths = arm.widths
    if len(widths) < FEWEST or max(widths) < FACTOR * min(widths):
        return f"needs {FEWEST} widths or more, the largest {FACTOR} times the smallest"
    if np.any(~(values > 0)):
        return "forgetting was 0 or negative at some width: it has no logarithm"
    return "needs two seeds or more" if len(values) < 2 else None


def _width(name: str, arm: Arm, values: np.ndarray, what: str) -> Claim:
    reason = _reason(arm, values)
    score = None if reason else mean_score(slopes(arm, values))
    return Claim(
        f"width reduces {what} ({name})",
        score,
        Below(0.0, -FLAT),
        18,
        note=f"exponent of the width over {_shown(arm)}; {arm.note}",
        reason=reason,
    )


def _stopping(one: Arm, two: Arm, early: str, converged: str) -> Claim:
    statement = f"width helps only where training stops early ({early}, {converged})"
    reason = _reason(one, one.forgetting) or _reason(two, two.forgetting)
    if reason is None and len(one.forgetting) != len(two.forgetting):
        reason = "needs the same seeds in both arms"
    score = None
    if reason is None:
        gap = slopes(two, two.forgetting) - slopes(one, one.forgetting)
        score = mean_score(gap)
    note = "exponent when converged minus when stopped early, in pairs of seeds"
    return Claim(statement, score, Above(0.0, 0.0), 19, note=note, reason=reason)


def _laziness(name: str, arm: Arm) -> Claim:
    statement = f"width acts through laziness alone ({name})"
    reason = _reason(arm, arm.forgetting) or _reason(arm, arm.distance)
    if reason is None and len(arm.forgetting) < FEWEST:
        reason = f"needs {FEWEST} seeds or more"
    score = None
    if reason is None:
        rows = np.arange(len(arm.forgetting))
        whole = _partial(arm, rows)
        # jackknife: pseudo-values of leaving out one seed
        left = np.array([_partial(arm, rows[rows != s]) for s in rows])
        # on Fisher's scale, so that no end lies beyond 1
        z, apart = (np.arctanh(np.clip(r, -ONE, ONE)) for r in (whole, left))
        found = mean_score(len(rows) * z - (len(rows) - 1) * apart)
        ends = None if found.interval is None else np.tanh(found.interval)
        score = Score(
            float(np.tanh(found.value)),
            None,
            found.n,
            None if ends is None else (float(ends[0]), float(ends[1])),
        )
    note = (
        "partial correlation of forgetting and log width given the log distance of the "
        "weights from initialization, over all seeds and widths; jackknife over seeds "
        "on Fisher's scale"
    )
    return Claim(statement, score, Above(-0.2, 0.0), 20, note=note, reason=reason)


def _partial(arm: Arm, rows: np.ndarray) -> float:
    """The correlation of forgetting and log width without what laziness explains."""
    given = np.log(arm.distance[rows]).ravel()
    design = np.stack([np.ones_like(given), given], axis=1)

    def left(values: np.ndarray) -> np.ndarray:
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    width = np.broadcast_to(np.log(arm.widths), arm.distance[rows].shape).ravel()
    one, two = left(arm.forgetting[rows].ravel()), left(width)
    size = np.linalg.norm(one) * np.linalg.norm(two)
    return float(one @ two / size) if size > 1e-12 else float("nan")


def _distance(name: str, arm: Arm) -> Claim:
    reason = _reason(arm, arm.distance)
    score = None if reason else mean_score(slopes(arm, arm.distance))
    return Claim(
        f"wider networks move less from initialization ({name})",
        score,
        Below(0.0, 0.0),
        23,
        note=f"exponent of the width over {_shown(arm)} of the relative distance",
        reason=reason,
    )


def drift_claim(found: Sequence[Drift], note: str = "") -> Claim:
    """Claim 21: the kernel before a task predicts what is forgotten while learning it.

    Args:
        found: of several seeds or pairs of tasks.
        note: the setting.
    """
    each = np.array([one.r2 for one in found])
    reason = None if len(each) > 1 else "needs two drifts or more for an interval"
    over = np.array([one.slope for one in found])
    return Claim(
        "the NTK predicts what is forgotten",
        None if reason else mean_score(each),
        Above(0.8, 0.3),
        21,
        note=f"R² of the predicted change of old outputs, as it stands; {note}",
        reason=reason,
        values={"slope": float(np.mean(over))},
    )


def overlap_claim(
    overlap: Sequence[float] | np.ndarray,
    forgetting: Sequence[float] | np.ndarray,
    note: str = "",
) -> Claim:
    """Claim 22: tasks whose tangent spaces overlap more are forgotten more.

    Args:
        overlap: of pairs of tasks.
        forgetting: of the first of each pair while the second was learned.
        note: the setting.
    """
    reason = None
    if len(overlap) < PAIRS:
        reason = f"needs {PAIRS} pairs of tasks or more, got {len(overlap)}"
    score = None if reason else _rank(np.asarray(overlap), np.asarray(forgetting))
    return Claim(
        "overlap of tangent spaces ranks what is forgotten",
        score,
        Above(0.7, 0.0),
        22,
        note=f"rank correlation over {len(overlap)} pairs of tasks; {note}",
        reason=reason,
    )


def _rank(x: np.ndarray, y: np.ndarray) -> Score:
    """Spearman's correlation with a 95 % interval by Fisher's z."""
    from scipy.stats import spearmanr

    found: Any = spearmanr(x, y)
    rho, n = float(found.statistic), len(x)
    # the variance of z for ranks: Fieller, Hartley, Pearson 1957
    half = 1.959964 * np.sqrt(1.06 / (n - 3))
    z = np.arctanh(np.clip(rho, -ONE, ONE))
    return Score(rho, None, n, (float(np.tanh(z - half)), float(np.tanh(z + half))))


def _shown(arm: Arm) -> str:
    return f"widths {min(arm.widths)} to {max(arm.widths)}"
