"""What kernel theory promises of exploration, decided by runs with the same seeds."""

from __future__ import annotations

import numpy as np

from ntkuq.calibration.claims import Above, Below, Claim
from ntkuq.calibration.means import mean_score
from ntkuq.decisions.bandits.result import BanditResult


def bandit_claims(
    evidence: BanditResult,
    *,
    theory: BanditResult,
    greedy: BanditResult,
    uniform: BanditResult,
    note: str = "",
) -> tuple[Claim, Claim, Claim]:
    """Claims 15 to 17, from four policies that saw the same contexts.

    Args:
        evidence: uncertainty scaled by the marginal likelihood.
        theory: uncertainty scaled by the coefficient of NeuralUCB's theorem, or by its
            limit of infinite width.
        greedy: no uncertainty.
        uniform: random arms.
        note: the setting.

    Returns:
        Whether the coefficient of the theory explores well, whether uncertainty is
        needed at all, and whether the regret of the theory's policy is sublinear.

    Raises:
        ValueError: for runs of other seeds or rounds.
    """
    _paired(evidence, theory, greedy, uniform)
    pairs = "paired difference of total regrets"
    chance = theory.totals / uniform.totals
    return (
        Claim(
            "the coefficient of the theory explores as well as the evidence",
            mean_score(theory.totals - evidence.totals),
            Below(0.0, 0.0),
            15,
            note=f"{pairs}, theory minus evidence; {note}",
            values={"share of the regret of random arms": float(np.mean(chance))},
        ),
        Claim(
            "uncertainty is needed: greedy regrets more than the evidence",
            mean_score(greedy.totals - evidence.totals),
            Above(0.0, 0.0),
            16,
            note=f"{pairs}, greedy minus evidence; {note}",
        ),
        Claim(
            "the regret of the theory's policy grows more slowly than linearly",
            mean_score(theory.exponents),
            Below(0.9, 1.0),
            17,
            note=f"exponent of the regret over the last nine tenths; {note}",
        ),
    )


def _paired(first: BanditResult, *others: BanditResult) -> None:
    for other in others:
        if other.regrets.shape != first.regrets.shape:
            raise ValueError(
                f"expected runs of (seeds, rounds) {first.regrets.shape}, got "
                f"{other.regrets.shape}: run all policies with the same keys"
            )
