"""The document of a bandit run, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntkuq.decisions.bandits import BanditResult
from ntkuq.decisions.bandits.result import SCHEMA as SCHEMA


#: An exponent of the regret below this is said to be sublinear, from 1 on linear.
SUBLINEAR = 0.9
#: Coverage of 90 % intervals in here is said to be honest.
HONEST = (0.85, 0.95)


def bandit_document(
    found: BanditResult,
    uniform: BanditResult,
    *,
    environment: str,
    policy: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run found, beside random arms on the same contexts, with its verdict.

    Args:
        found: of the policy.
        uniform: of `Uniform()` with the same keys and rounds.
        environment, policy: as given.
        provenance: versions, command, seed.

    Returns:
        Plain numbers and text, to be written as JSON.
    """
    document = {
        **found.to_dict(),
        "random": uniform.regret.to_dict(),
        "minus_random": found.difference(uniform).to_dict(),
        "environment": environment,
        "policy": policy,
        "provenance": dict(provenance),
    }
    return document | {"verdict": verdict(document)}


def verdict(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to say of the regret and of the calibration, by whole intervals."""
    return [_better(document), _growth(document), _calibration(document)]


def _ends(interval: Mapping[str, float | None]) -> tuple[float, float] | None:
    low, high = interval["lower"], interval["upper"]
    return None if low is None or high is None else (low, high)


def _word(yes: bool, no: bool) -> str:
    return "Yes" if yes else "No" if no else "Unknown"


ONE = "one seed gives no interval: use --seeds 2 or more"


def _better(document: Mapping[str, Any]) -> dict[str, Any]:
    gap, ends = document["minus_random"], _ends(document["minus_random"])
    said = (
        f"it regrets {document['regret']['mean']:.1f} in {document['rounds']} rounds, "
        f"random arms {document['random']['mean']:.1f}"
    )
    answer, more = "Unknown", ONE
    if ends is not None:
        answer = _word(ends[1] < 0, ends[0] > 0)
        more = (
            f"paired difference {gap['mean']:.1f}, 95 % interval {ends[0]:.1f} to "
            f"{ends[1]:.1f} over {document['seeds']} seeds"
        )
    return {
        "code": "better than chance",
        "answer": answer,
        "sentence": f"{said} ({more}).",
        "section": "regret",
        "rule": "Yes where the whole interval of its regret minus that of random arms "
        "with the same seeds lies below 0, No where above.",
    }


def _growth(document: Mapping[str, Any]) -> dict[str, Any]:
    score, ends = document["exponent"], _ends(document["exponent"])
    answer, more = "Unknown", ONE
    if score["mean"] is None:
        said, more = "the regret has no exponent", "too few rounds with regret"
    else:
        said = f"the regret grows like t to the power {score['mean']:.2f}"
        if ends is not None:
            answer = _word(ends[1] < SUBLINEAR, ends[0] >= 1)
            more = f"95 % interval {ends[0]:.2f} to {ends[1]:.2f}"
    return {
        "code": "still learning",
        "answer": answer,
        "sentence": f"{said} ({more}).",
        "section": "regret",
        "rule": f"Yes where the whole interval of the exponent, by least squares over "
        f"the last nine tenths, lies below {SUBLINEAR:g}, No where from 1 on.",
    }


def _calibration(document: Mapping[str, Any]) -> dict[str, Any]:
    blocks = [block for block in document["calibration"] if block["count"]]
    if not blocks:
        answer, said = "Unknown", "no reward was predicted before it came"
    else:
        last = blocks[-1]
        score, ends = last["coverage_90"], _ends(last["coverage_90"])
        said = (
            f"90 % intervals for the rewards of the chosen arms hold "
            f"{score['mean']:.3f} of them in rounds {last['from'] + 1} to {last['to']}"
        )
        answer, more = "Unknown", ONE
        if ends is not None:
            low, high = HONEST
            answer = _word(
                low <= ends[0] and ends[1] <= high, ends[1] < low or ends[0] > high
            )
            more = f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}"
        said = f"{said} ({more})"
    return {
        "code": "honest where it chose",
        "answer": answer,
        "sentence": f"{said}.",
        "section": "calibration",
        "rule": "Yes where the whole interval of the coverage lies in "
        f"{HONEST[0]:g} to {HONEST[1]:g}, No where outside. Rewards of 0 and 1 are not "
        "normal: sure of its arms, a policy covers more than it says.",
    }
