"""What the claims mean for uncertainty, optimization and continual learning."""

from __future__ import annotations

from collections.abc import Sequence

from ntkuq.calibration.claims import Claim


def consequences(claims: Sequence[Claim]) -> tuple[str, str, str]:
    """Three sentences, from the words of the claims alone.

    About speed only measured rates count. That the Jacobian is unstable (C′ ≥ 1/2)
    fails a condition that is sufficient, not necessary, and says nothing about it.
    """
    return _uncertainty(claims), _optimization(claims), _forgetting(claims)


def _words(claims: Sequence[Claim], *numbers: int) -> list[str]:
    """The words of the claims of these numbers that were tested."""
    found = [claim.word for claim in claims if claim.number in numbers]
    return [word for word in found if word != "not tested"]


def _together(words: list[str]) -> str:
    """One word for several statements that are needed together."""
    if not words:
        return "not tested"
    if "refuted" in words:
        return "refuted"
    return "confirmed" if set(words) == {"confirmed"} else "undecided"


def _uncertainty(claims: Sequence[Claim]) -> str:
    text = {
        "confirmed": "Uncertainty: kernels at initialization (NTK-GP) describe how "
        "this network is trained, and may be compared with it.",
        "refuted": "Uncertainty: kernels at initialization (NTK-GP, NNGP) are those of "
        "another model; use methods around the trained weights (Laplace) or of "
        "several trainings (ensembles).",
        "undecided": "Uncertainty: it is open whether kernels at initialization "
        "describe this network; methods around the trained weights (Laplace) do not "
        "depend on it.",
        "not tested": "Uncertainty: nothing was measured about kernels at "
        "initialization.",
    }[_together(_words(claims, 1, 2))]
    stand_in = _together(_words(claims, 13))
    if stand_in == "confirmed":
        text += " On test data, the kernel predicts no worse than the network."
    elif stand_in == "refuted":
        text += " On test data, the kernel predicts worse than the network."
    return text


def _optimization(claims: Sequence[Claim]) -> str:
    rate = _together(_words(claims, 7))
    faster = _together(_words(claims, 8))
    if rate == "not tested" and faster == "not tested":
        return (
            "Optimization: no natural-gradient step was run, so nothing is known of "
            "its speed."
        )
    if rate == "confirmed":
        text = "Optimization: natural gradient kept the rate that theory predicts"
    elif rate == "refuted":
        text = (
            "Optimization: natural gradient did not keep the rate that theory predicts "
            "at every step size, take smaller or damped steps"
        )
    else:
        text = (
            "Optimization: it is open whether natural gradient keeps the rate that "
            "theory predicts"
        )
    text += {
        "confirmed": ", and it took far fewer iterations than gradient descent: a "
        "second-order step is worth trying",
        "refuted": ", and it took about as many iterations as gradient descent: there "
        "is nothing to gain by it",
        "undecided": "; how many iterations it saves is open",
        "not tested": "; how many iterations it saves could not be told",
    }[faster]
    text += " (full batch, squared error, some training inputs)."
    if "refuted" in _words(claims, 6) and rate == "confirmed":
        text += (
            " The sufficient condition C′ < 1/2 fails, but it is not needed for that."
        )
    return text


def _forgetting(claims: Sequence[Claim]) -> str:
    text = {
        "confirmed": "Continual learning: the kernel stays, so one kernel at "
        "initialization tells which tasks overlap and what a new one will overwrite.",
        "refuted": "Continual learning: the kernel moves, so predictions of forgetting "
        "from the kernel at initialization do not hold; take it at the trained "
        "weights, anew after each task.",
        "undecided": "Continual learning: it is open whether the kernel stays; take it "
        "at the trained weights to predict forgetting.",
        "not tested": "Continual learning: nothing was measured about the kernel.",
    }[_together(_words(claims, 2))]
    early = _together(_words(claims, 24))
    if early == "confirmed":
        text += " Most of its drift was in the first tenth of the training."
    elif early == "refuted":
        text += " It moved through most of the training."
    return text
