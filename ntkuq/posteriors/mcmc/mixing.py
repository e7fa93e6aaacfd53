"""Have the chains mixed? Judged by what the network predicts, and said in words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ntkuq.posteriors.mcmc.chains import Chains


#: Function values at so many training inputs are judged.
JUDGED = 200
#: Chains agree below this R-hat, and in all have so many effective draws, both for the
#: bulk and for the tails (Vehtari et al. 2021).
LARGEST_RHAT = 1.01
LEAST_DRAWS = 400


class NotMixed(UserWarning):
    """The chains do not pass the gate: they are no reference."""


class NotAReference(ValueError):
    """Asked of draws that have not passed the gate of a reference."""


class Mixing(NamedTuple):
    """The worst of all judged function values.

    rhat: largest rank-normalized split R-hat. bulk, tail: fewest effective draws.
    """

    rhat: float
    bulk: float
    tail: float


def mixing(values: Float[np.ndarray, "S N C"], chains: int) -> Mixing:
    """R-hat and effective draws of the function at some inputs.

    Weights are not identifiable: hidden units can be exchanged, and chains that agree
    on every prediction may sit in different copies of one mode.

    Args:
        values: of all draws, those of a chain together.
        chains: their number.

    Returns:
        The worst over inputs and outputs; NaN where draws do not vary.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Burkner, *Rank-normalization, folding,
        and localization: an improved R-hat*, Bayesian Analysis 2021 (arXiv 1903.08008).

    >>> draws = np.random.default_rng(0).standard_normal((2000, 3, 1))
    >>> mixing(draws, 4).rhat < LARGEST_RHAT, mixing(draws, 4).bulk > LEAST_DRAWS
    (True, True)
    >>> mixing(draws + np.arange(2000)[:, None, None] // 500, 4).rhat > 1.1
    True
    """
    # ArviZ takes a second to import
    from arviz_stats.base.array import array_stats

    flat = values.reshape(chains, len(values) // chains, -1)
    flat = np.moveaxis(flat, -1, 0).astype(np.float64)
    # of draws that do not vary nothing can be said
    varies = np.ptp(flat, axis=(1, 2)) > 0
    if not varies.all():
        return Mixing(np.nan, np.nan, np.nan)
    return Mixing(
        float(np.max(array_stats.rhat(flat))),
        float(np.min(array_stats.ess(flat))),
        float(np.min(array_stats.ess(flat, method="tail", prob=(0.05, 0.95)))),
    )


def judged_rows(size: int) -> np.ndarray:
    """Which of the training inputs are judged: at most `JUDGED`, evenly spaced."""
    return np.linspace(0, size - 1, min(JUDGED, size)).astype(int)


def diagnose(found: Chains, mixed: Mixing, judged: int) -> dict[str, Any]:
    """What happened, in plain numbers; "converged" and "verdict" say what it means.

    Args:
        found: the draws.
        mixed: of their function values.
        judged: at how many inputs.
    """
    draws, chains = found.z.shape[:2]
    seen = found.statistics
    numbers = {
        "chains": chains,
        "draws": draws * chains,
        "R-hat": mixed.rhat,
        "bulk ESS": mixed.bulk,
        "tail ESS": mixed.tail,
        "judged inputs": judged,
        "divergences": int(np.sum(seen.divergences)),
        "saturated trees": float(np.sum(seen.saturated) / np.sum(seen.transitions)),
        "acceptance": float(np.mean(seen.acceptance)),
        "step size": float(np.mean(found.step_size)),
        "step sizes": [float(size) for size in found.step_size],
        "acceptances": [float(a) for a in np.mean(seen.acceptance, axis=0)],
    }
    wrong = failures(numbers)
    verdict = "The chains agree on the predictions: they can serve as a reference."
    if wrong:
        verdict = f"The chains are no reference: {'; '.join(wrong)}."
    return {**numbers, "converged": not wrong, "verdict": verdict}


def failures(numbers: dict[str, Any]) -> list[str]:
    """Each condition of the gate that does not hold, with its number."""
    wrong = []
    if numbers["chains"] < 2:
        wrong.append("one chain cannot be compared with another")
    if np.isnan(numbers["R-hat"]):
        wrong.append("the draws do not vary")
    # written so that NaN fails
    elif not numbers["R-hat"] < LARGEST_RHAT:
        wrong.append(
            f"R-hat of the predictions is up to {numbers['R-hat']:.3f} (below "
            f"{LARGEST_RHAT} is asked)"
        )
    for name in ("bulk", "tail"):
        found = numbers[f"{name} ESS"]
        if not np.isnan(found) and not found >= LEAST_DRAWS:
            wrong.append(
                f"of {numbers['draws']} draws down to {found:.0f} are effective in the "
                f"{name} ({LEAST_DRAWS} are asked)"
            )
    if numbers["divergences"] > 0:
        wrong.append(f"{numbers['divergences']} transitions diverged (none may)")
    return wrong


def advice(numbers: dict[str, Any], method: Any) -> str:
    """What to change, for the conditions that do not hold."""
    change = []
    if numbers["chains"] < 2:
        change.append("chains=4")
    few = min(numbers["bulk ESS"], numbers["tail ESS"])
    if not (numbers["R-hat"] < LARGEST_RHAT and few >= LEAST_DRAWS):
        change.append(f"a longer warmup= (now {method.warmup})")
        change.append(f"more samples= (now {method.samples})")
        if numbers["saturated trees"] > 0.05:
            cut = f"{100 * numbers['saturated trees']:.0f} % of the trees were cut"
            change.append(f"depth= above {method.depth} ({cut})")
        change.append(
            "a prior with more precision, or a network that mixes more easily (fewer "
            "layers, or more units a layer, or subset=LastLayer())"
        )
    if numbers["divergences"] > 0:
        change.append(f"target= nearer to 1 (now {method.target})")
        change.append("weights in float64")
    return f"try {'; '.join(change)}"
