"""The record of kernel-regime diagnostics: numbers, claims, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ntkuq.calibration import Score
from ntkuq.calibration.claims import Below, Claim, in_words
from ntkuq.optimization.kernel_regime.consequences import consequences


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
        more: further claims, by the studies that were asked for.
        setting: what every statement about width depends on: parametrization, output
            scale, step size, stopping rule.
        kernel_angle: 1 − ⟨Θ_T, Θ₀⟩ / (‖Θ_T‖_F ‖Θ₀‖_F), the cosine distance of the
            kernels, which does not see their size; `None` where it was not measured.

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
    more: tuple[Claim, ...] = ()
    setting: Mapping[str, str] = field(default_factory=dict)
    kernel_angle: Score | None = None

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The statements that the numbers decide, those of the studies last."""
        angle = self.kernel_angle
        turned = Claim(
            "the tangent kernel keeps its direction (cosine distance)",
            angle,
            Below(0.1, 0.5),
            2,
        )
        return (
            Claim(
                "training stays in its linearization",
                self.relative_error,
                Below(0.1, 0.3),
                1,
            ),
            Claim(
                "the tangent kernel is frozen", self.kernel_change, Below(0.1, 0.5), 2
            ),
            *(() if angle is None else (turned,)),
            *self.more,
        )

    @property
    def verdict(self) -> str:
        """What it means, in plain words.

        It says nothing about speed: a network outside the kernel regime may well
        train at the rate that kernel theory predicts.
        """
        words = [claim.word for claim in self.claims[:2]]
        error, change = in_words(self.relative_error), in_words(self.kernel_change)
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

    @property
    def consequences(self) -> tuple[str, str, str]:
        """What it means for uncertainty, optimization and continual learning.

        One sentence or two for each, from the words of the claims. Whether training is
        fast is said from measured rates only, never from C′.
        """
        return consequences(self.claims)

    def __str__(self) -> str:
        names = {
            "linearization error [posterior std]": self.linearization_error,
            "linearization error [relative]": self.relative_error,
            "kernel change": self.kernel_change,
            "alignment": self.alignment,
            "alignment at initialization": self.initial_alignment,
        }
        if self.kernel_angle is not None:
            names["kernel change [cosine distance]"] = self.kernel_angle
        width = max(len(name) for name in names)
        lines = [f"{name.ljust(width)}  {in_words(s)}" for name, s in names.items()]
        claims = map(str, self.claims)
        return "\n".join([*lines, *claims, self.verdict, *self.consequences])
