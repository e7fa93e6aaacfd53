"""The record of kernel-regime diagnostics: numbers, claims, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ntkuq.calibration import Score


@dataclass(frozen=True)
class Claim:
    """A statement of kernel theory about one network, decided by its interval.

    Args:
        statement: what the theory says.
        statistic: the number that decides, with its 95 % interval.
        confirm: confirmed where the whole interval lies below this.
        refute: refuted where the whole interval lies above this.

    >>> from ntkuq.calibration import Score
    >>> Claim("the kernel is frozen", Score(0.7, 0.02, 5, (0.64, 0.76)), 0.1, 0.5).word
    'refuted'
    """

    statement: str
    statistic: Score
    confirm: float
    refute: float

    @property
    def word(self) -> str:
        """The decision: "confirmed", "refuted", or "undecided"."""
        ends = self.statistic.interval
        if ends is not None and ends[1] < self.confirm:
            return "confirmed"
        if ends is not None and ends[0] > self.refute:
            return "refuted"
        return "undecided"

    def __str__(self) -> str:
        return (
            f"{self.statement}: {self.word} ({_text(self.statistic)}; confirmed below "
            f"{self.confirm:g}, refuted above {self.refute:g})"
        )


@dataclass(frozen=True)
class Regime:
    r"""Does the network train as its linearization at initialization says?

    With f₀, Θ₀ the network and its tangent kernel at initialization, f_T, Θ_T after
    training, and $f^{lin} = f_0 + J_0(\theta_T - \theta_0)$, at held-out inputs:

    Args:
        linearization_error: root mean square of (f_T − f^lin) / s, in posterior
            standard deviations s of the function value (linearized Laplace at θ_T).
        relative_error: ‖f_T − f^lin‖ / ‖f_T − f₀‖, a pure number.
        kernel_change: ‖Θ_T − Θ₀‖_F / ‖Θ₀‖_F, a pure number.
        alignment: centered kernel-target alignment of Θ_T, from −1 to 1; NaN where
            the targets of a subset do not vary.
        initial_alignment: the same of Θ₀.
        over: what the intervals are over: "seeds" (trainings) or "subsets" (of the
            held-out data, one training).

    References: Chizat, Oyallon, Bach 2019 (arXiv 1812.07956); Lee et al. 2019 (arXiv
    1902.06720); Cortes, Mohri, Rostamizadeh 2012 (arXiv 1203.0550).

    >>> from ntkuq.calibration import Score
    >>> def score(v):
    ...     return Score(v, 0.01, 5, (v - 0.03, v + 0.03))
    >>> lazy = Regime(
    ...     score(0.1), score(0.04), score(0.05), score(0.3), score(0.3), "seeds"
    ... )
    >>> [claim.word for claim in lazy.claims]
    ['confirmed', 'confirmed']
    """

    linearization_error: Score
    relative_error: Score
    kernel_change: Score
    alignment: Score
    initial_alignment: Score
    over: str

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The statements that the numbers decide."""
        return (
            Claim("training stays in its linearization", self.relative_error, 0.1, 0.3),
            Claim("the tangent kernel is frozen", self.kernel_change, 0.1, 0.5),
        )

    @property
    def verdict(self) -> str:
        """What it means, in plain words.

        It says nothing about speed: a network outside the kernel regime may well
        train at the rate that kernel theory predicts.
        """
        words = [claim.word for claim in self.claims]
        error, change = _text(self.relative_error), _text(self.kernel_change)
        numbers = (
            f"The linearization at initialization misses {error} of what training "
            f"changed in the outputs; the tangent kernel changed by {change} of its "
            f"norm ({self.relative_error.n} {self.over})."
        )
        if "refuted" in words:
            return (
                f"Not in the kernel regime. {numbers} Kernels at initialization "
                "(NTK-GP, NNGP) do not describe this network; methods that linearize "
                "at the trained weights do not rest on this."
            )
        if all(word == "confirmed" for word in words):
            return (
                f"In the kernel regime. {numbers} The tangent kernel at initialization "
                "describes this network at the measured inputs."
            )
        return (
            f"Undecided. {numbers} An interval reaches across a threshold: more "
            f"{self.over} would narrow it."
        )

    def __str__(self) -> str:
        names = {
            "linearization error [posterior std]": self.linearization_error,
            "linearization error [relative]": self.relative_error,
            "kernel change": self.kernel_change,
            "alignment": self.alignment,
            "alignment at initialization": self.initial_alignment,
        }
        width = max(len(name) for name in names)
        lines = [f"{name.ljust(width)}  {_text(s)}" for name, s in names.items()]
        return "\n".join([*lines, *map(str, self.claims), self.verdict])


def _text(score: Score) -> str:
    if score.interval is None:
        return f"{score.value:.3g} (no interval)"
    low, high = score.interval
    return f"{score.value:.3g} ({low:.3g} to {high:.3g})"
