"""How fast natural gradient and gradient descent are, measured."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.calibration.claims import Above, Claim, Within
from ntkuq.calibration.means import mean_score
from ntkuq.optimization.kernel_regime.descent import (
    contraction,
    descent_steps,
    lazy_steps,
    natural_path,
    natural_steps,
)
from ntkuq.optimization.kernel_regime.drift import kernel_of
from ntkuq.optimization.kernel_regime.points import (
    Points,
    geometric_score,
    sample,
    squared_targets,
)
from ntkuq.optimization.kernel_regime.spectrum import Spectrum, Sure, kernel_spectrum
from ntkuq.optimization.kernel_regime.study import (
    AbstractStudy,
    Setting,
    check_points,
    decided,
)


#: Step sizes of natural gradient, and how close to the lazy rate confirms.
RATES, CLOSE = (0.25, 0.5, 1.0), 0.05
#: Share of the first residual at which iterations are counted.
GOAL = 1e-3
#: How many times the steps of a study natural gradient has to get there.
PATIENCE = 10
FASTER = Claim(
    "natural gradient takes far fewer iterations than gradient descent (times as many)",
    None,
    Above(10.0, 1.5),
    8,
)
LINKED = Claim(
    "the stability of the Jacobian predicts the rate",
    None,
    # the least area that is called acceptable (Hosmer and Lemeshow 2000, §5.2.4)
    Above(0.8, 0.7),
    9,
    reason="needs several networks: `link` decides it",
)


def lazy_rate(rate: float) -> Claim:
    r"""Claim 7 for one η: ‖r‖² shrinks by (1-η)² a step.

    Refuted beyond the factor 1-η, which is proved under the conditions; where that
    asks for more than the lazy rate does, as for η = 1, beyond what confirms.
    """
    lazy = (1 - rate) ** 2
    # no contraction is below 0, but rounding may put the end of its interval there
    least = lazy - CLOSE if lazy > CLOSE else -np.inf
    return Claim(
        f"natural gradient with step {rate:g} contracts by {lazy:.4g} a step",
        None,
        Within(
            (least, lazy + CLOSE),
            (-np.inf, max(1 - rate, lazy + CLOSE)),
        ),
        7,
    )


class NaturalGradientRate(AbstractStudy):
    r"""Claims 7 to 9: natural gradient at the rate of the kernel, and against descent.

    Squared error of some training inputs (scaled targets, or one-hot codes of classes)
    is minimized where training began, full batch, without noise or prior, in float64.
    Exact natural gradient with step η would shrink ‖r‖² by (1-η)² in every step if the
    kernel stayed. Gradient descent is run with 2/(λ_max + λ_min) and 1/λ_max, and the
    better counts: iterations until ‖r‖ is a thousandth, up to a cap, so that the ratio
    to natural gradient is at least what is reported. Natural gradient has ten times
    `steps` to get there; where it does not, the ratio is at most what is reported, and
    cannot confirm that it is faster.

    Args:
        points: training inputs N of a kernel; `None` for N·C ≤ 64, but
            at least 16.
        steps: natural-gradient steps.
        cap: most iterations of gradient descent.

    Raises:
        ValueError: for fewer than 2 points or 10 steps, or a cap below 1.

    References: Zhang, Martens, Grosse 2019 (arXiv 1905.10961); Amari 1998.

    >>> [claim.number for claim in NaturalGradientRate().asked]
    [7, 7, 7, 8, 9]
    """

    name: ClassVar[str] = "rate"
    asked: ClassVar[tuple[Claim, ...]] = (*map(lazy_rate, RATES), FASTER, LINKED)
    points: int | None = None
    steps: int = 12
    cap: int = 500

    def __check_init__(self):
        check_points(self, self.points)
        if self.steps < 10 or self.cap < 1:
            raise ValueError(
                "NaturalGradientRate: expected steps >= 10, after which η = 1/2 has "
                f"reached a thousandth, and cap >= 1, got {self.steps} and {self.cap}"
            )

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        found = sample(setting, self.points, key=key)
        with jax.enable_x64(True):
            spectra = [kernel_spectrum(one) for one in found.units]
            sure = Sure.of(setting, found, spectra)
            found.need_copies(self.steps + 4, "fewer steps=…")
            measured = [
                self._measure(setting, one, spectrum)
                for one, spectrum in zip(sure.units, sure.spectra, strict=True)
            ]
        error = "one-hot codes" if setting.bnn.likelihood.classes else "scaled targets"
        where = f"squared error of {error}, full batch, {found.words}, float64"
        where += sure.note
        return (
            *(
                self._rate(claim, [one.contractions[n] for one in measured], where)
                for n, claim in enumerate(self.asked[: len(RATES)])
            ),
            self._ratio(measured, where),
            LINKED,
        )

    def _measure(self, setting: Setting, one: Points, spectrum: Spectrum) -> Measured:
        outputs, kernel = kernel_of(one.jacobian, one.x)
        y = squared_targets(setting.bnn.with_model(one.run.initial), one.part)
        squares = [
            np.asarray(
                natural_path(one.jacobian, one.x, y, jnp.asarray(rate), self.steps)[0]
            )
            for rate in RATES
        ]
        values, vectors = np.linalg.eigh(np.asarray(kernel))
        weights = (vectors.T @ np.asarray(outputs - y).reshape(-1)) ** 2
        steps = (2 / (spectrum.most + spectrum.least), 1 / spectrum.most)
        counts = [
            float(
                descent_steps(
                    one.jacobian,
                    one.x,
                    y,
                    jnp.asarray(step),
                    jnp.asarray(GOAL),
                    self.cap,
                )
            )
            for step in steps
        ]
        natural = min(map(_reached, squares))
        if not np.isfinite(natural):
            rates = [jnp.asarray(rate) for rate in RATES]
            goal, cap = jnp.asarray(GOAL), PATIENCE * self.steps
            natural = min(
                float(natural_steps(one.jacobian, one.x, y, rate, goal, cap))
                for rate in rates
            )
        return Measured(
            [contraction(each) for each in squares],
            natural,
            min(counts),
            min(lazy_steps(values, weights, step, GOAL) for step in steps),
            spectrum.most / spectrum.least,
        )

    def _rate(self, claim: Claim, values: list[float], where: str) -> Claim:
        lost = sum(not value < 1.0 for value in values)
        note = f"(‖r_k‖²/‖r_0‖²)^(1/k) after up to {self.steps} steps; {where}"
        if lost:
            note += f"; did not decrease in {lost} of {len(values)}"
        # one that diverged refutes alone
        worst = max(values) if max(values) > 1.0 else None
        return decided(claim, mean_score(np.array(values)), note=note, worst=worst)

    def _ratio(self, measured: list[Measured], where: str) -> Claim:
        descent = np.array([min(one.descent, self.cap) for one in measured], float)
        natural = np.array([one.natural for one in measured])
        predicted = np.median([one.predicted for one in measured])
        condition = np.median([one.condition for one in measured])
        capped = sum(one.descent > self.cap for one in measured)
        note = (
            f"iterations to {GOAL:g} of the first residual; κ(K) {condition:.3g}, with "
            f"which gradient descent would take {predicted:.3g} if the kernel stayed; "
            f"{where}"
        )
        if capped:
            note += (
                f"; {capped} of {len(measured)} had not arrived after {self.cap} "
                "iterations, which are counted: the ratio is larger"
            )
        late = ~np.isfinite(natural)
        most = PATIENCE * self.steps
        sizes = ", ".join(f"{rate:g}" for rate in RATES)
        neither = late & np.array([one.descent > self.cap for one in measured])
        if neither.any():
            reason = (
                f"in {neither.sum()} of {len(measured)} neither natural gradient (in "
                f"{most} steps of size {sizes}) nor gradient descent (in {self.cap}) "
                f"reached {GOAL:g} of the first residual"
            )
            return decided(FASTER, note=note, reason=reason)
        score = geometric_score(descent / np.where(late, most, natural))
        values = {"condition": float(condition)}
        if late.any():
            note += (
                f"; in {late.sum()} of {len(measured)} natural gradient had not "
                f"arrived after {most} steps of any size ({sizes}), which are counted: "
                "the ratio is smaller"
            )
            # it may be anything down to 0
            if score.interval is not None:
                score = dataclasses.replace(score, interval=(0.0, score.interval[1]))
        else:
            values |= {"ratio": score.value, "bound": float(capped > 0)}
        if (
            capped
            and score.interval
            and FASTER.rule.decide(*score.interval) == "refuted"
        ):
            reason = (
                f"gradient descent was stopped after {self.cap} iterations in {capped} "
                f"of {len(measured)}, too early to tell: take a larger cap=…"
            )
            return decided(FASTER, note=note, reason=reason)
        return decided(FASTER, score, note=note, values=values)


class Measured(NamedTuple):
    """Of one unit.

    contractions: observed rate for each η. natural, descent: iterations to the goal,
    the fewest over step sizes, infinite where it was not reached. predicted: those of
    descent if the kernel stayed. condition: λ_max/λ_min.
    """

    contractions: list[float]
    natural: float
    descent: float
    predicted: float
    condition: float


def _reached(squares: np.ndarray) -> float:
    """The first step at which the residual is small enough."""
    arrived = squares <= GOAL**2 * squares[0]
    return float(np.argmax(arrived)) if arrived.any() else float("inf")
