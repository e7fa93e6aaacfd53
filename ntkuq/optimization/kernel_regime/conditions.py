"""The two conditions under which natural gradient is proved to be fast."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.calibration.claims import Above, Below, Claim
from ntkuq.calibration.means import mean_score
from ntkuq.optimization.kernel_regime.descent import natural_path
from ntkuq.optimization.kernel_regime.drift import jacobian_changes
from ntkuq.optimization.kernel_regime.points import (
    Points,
    Sample,
    geometric_score,
    sample,
    squared_targets,
)
from ntkuq.optimization.kernel_regime.spectrum import (
    SAFE,
    Spectrum,
    Sure,
    kernel_spectrum,
)
from ntkuq.optimization.kernel_regime.study import (
    AbstractStudy,
    Setting,
    check_points,
    decided,
)


#: Radii of the probes around θ₀, in units of ρ.
RADII = (0.01, 0.03, 0.1, 0.3, 1.0)
DEFINITE = Claim(
    "the tangent kernel of the training inputs is positive definite",
    None,
    Above(SAFE, 1.0),
    5,
)
STABLE = Claim(
    "the Jacobian is stable where natural gradient goes (C′ < 1/2)",
    None,
    Below(0.5, 0.5),
    6,
)


class Conditions(AbstractStudy):
    r"""Claims 5 and 6: a positive definite kernel, and a stable Jacobian.

    Full-batch natural gradient of squared error converges at least as fast as
    $(1-\eta)^k$ where $\lambda_{\min}(\Theta_0) > 0$ and $\|J(\theta) - J_0\|_2 \le
    \frac{C}{3} \sqrt{\lambda_{\min}}$ with C < 1/2 for all θ closer to θ₀ than
    $\rho = 3 \|y - f_0\| / \sqrt{\lambda_{\min}}$. The smallest eigenvalue is compared
    in float64 with its floor N·ε·λ_max. C′ is the largest $3 \|J(\theta) - J_0\|_2 /
    \sqrt{\lambda_{\min}}$ at random points of the ball, at smaller radii, and where
    natural gradient and the training went. It is a lower bound of C: one probe can
    refute the condition, and no number of them proves it. The condition is sufficient,
    not necessary: where it fails nothing is said about speed.

    Args:
        points: training inputs N of a kernel; `None` for N·C ≤ 64, but
            at least 16.
        directions: random directions, each probed at radii from 0.01 ρ to ρ.
        steps: natural-gradient iterates at η = 1/2 that are probed.

    Raises:
        ValueError: for fewer than 2 points, 1 direction or 1 step.

    References: Zhang, Martens, Grosse 2019 (arXiv 1905.10961).

    >>> Conditions(points=32).name
    'conditions'
    """

    name: ClassVar[str] = "conditions"
    asked: ClassVar[tuple[Claim, ...]] = (DEFINITE, STABLE)
    points: int | None = None
    directions: int = 5
    steps: int = 12

    def __check_init__(self):
        check_points(self, self.points)
        if min(self.directions, self.steps) < 1:
            raise ValueError(
                "Conditions: expected directions and steps >= 1, got "
                f"{self.directions} and {self.steps}"
            )

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        chosen, probed = jax.random.split(key)
        found = sample(setting, self.points, key=chosen)
        with jax.enable_x64(True):
            spectra = [kernel_spectrum(one) for one in found.units]
            definite = _definite(setting, found, spectra)
            try:
                stable = self._stable(setting, found, spectra, probed)
            except ValueError as error:
                stable = decided(STABLE, reason=str(error))
        return definite, stable

    def _stable(
        self, setting: Setting, found: Sample, spectra: list[Spectrum], key: Array
    ) -> Claim:
        sure = Sure.of(setting, found, spectra)
        probes = self.directions * len(RADII) + self.steps + 2
        found.need_copies(2 * probes, "fewer directions=… or steps=…")
        keys = jax.random.split(key, len(sure.units))
        probes = [
            self._probe(setting, one, spectrum, now)
            for one, spectrum, now in zip(sure.units, sure.spectra, keys, strict=True)
        ]
        constants = np.array([max(probe.constants.values()) for probe in probes])
        largest = max(probes, key=lambda probe: max(probe.constants.values()))
        where = max(largest.constants, key=largest.constants.__getitem__)
        each = ", ".join(
            f"{kind} {np.mean([probe.constants[kind] for probe in probes]):.3g}"
            for kind in largest.constants
        )
        radius = float(np.mean([probe.radius for probe in probes]))
        left_out = sum(probe.outside for probe in probes)
        note = (
            f"{found.words}, float64; mean C′ by probe: {each}; largest {where}; the "
            f"trained weights are {radius:.3g} ρ from where they began. C′ bounds C "
            "from below: no probing confirms the condition for the whole ball"
        )
        if left_out:
            note += (
                f"; {left_out} points of these paths lie outside the ball and do not "
                "count"
            )
        note += sure.note
        # over orders of magnitude, but exactly zero for a network that is linear
        score = geometric_score if constants.min() > 0 else mean_score
        return decided(
            STABLE, score(constants), note=note, worst=float(constants.max())
        )

    def _probe(
        self, setting: Setting, one: Points, spectrum: Spectrum, key: Array
    ) -> Probe:
        start = one.jacobian.leaves
        y = squared_targets(setting.bnn.with_model(one.run.initial), one.part)
        squares, path = natural_path(
            one.jacobian, one.x, y, jnp.asarray(0.5), self.steps
        )
        root = float(np.sqrt(spectrum.least))
        rho = 3.0 * float(np.sqrt(squares[0])) / root
        random = [
            [a + rho * r * u for a, u in zip(start, unit, strict=True)]
            for unit in _units(start, self.directions, key)
            for r in RADII
        ]
        trained = one.at(one.run.final).leaves
        leaves = [
            jnp.concatenate([jnp.stack(probes), walked, last[None]])
            for *probes, walked, last in zip(*random, path, trained, strict=True)
        ]
        changes = np.asarray(jacobian_changes(one.jacobian, one.x, leaves))
        distance = np.sqrt(
            sum(
                np.sum((np.asarray(a) - np.asarray(b)) ** 2, tuple(range(1, a.ndim)))
                for a, b in zip(leaves, start, strict=True)
            )
        )
        constants = 3.0 * changes / root
        # a point that is not in the ball says nothing about it
        inside = np.isfinite(constants) & (distance <= rho * (1 + 1e-9))
        constants = np.where(inside, constants, 0.0)
        count = len(random)
        at_rho = np.arange(count) % len(RADII) == len(RADII) - 1
        return Probe(
            {
                "at random points": float(constants[:count][at_rho].max()),
                "at smaller radii": float(constants[:count][~at_rho].max()),
                "on the natural-gradient path": float(constants[count:-1].max()),
                "at the trained weights": float(constants[-1]),
            },
            float(distance[-1]) / rho if rho > 0 else 0.0,
            int(np.sum(~inside)),
        )


class Probe(NamedTuple):
    """C′ by kind of probe, ‖θ_T - θ₀‖ / ρ, and points that lay outside the ball."""

    constants: dict[str, float]
    radius: float
    outside: int


def _definite(setting: Setting, found: Sample, spectra: list[Spectrum]) -> Claim:
    # rounding may make the least eigenvalue of a singular kernel negative
    ratios = [max(one.least / one.floor, 1e-3) for one in spectra]
    size = found.units[0].jacobian.size
    relative = np.median([one.least / one.most for one in spectra])
    note = (
        f"λ_min in units of its floor N·ε·λ_max, {found.words}, float64, geometric "
        f"mean; λ_min/λ_max {relative:.2e}"
    )
    worst = None
    if size < found.side:
        worst = 0.0
        note += f"; {size} parameters, fewer than rows of the kernel: it is singular"
    if found.repeated:
        worst = 0.0
        note += (
            f"; {found.repeated} of {len(setting.data.train)} training inputs repeat "
            "an earlier one: their kernel is singular whatever the network. The other "
            "numbers are of different inputs"
        )
    return decided(DEFINITE, geometric_score(np.array(ratios)), note=note, worst=worst)


def _units(like: list[Array], count: int, key: Array) -> list[list[Array]]:
    """Random directions of unit length over all leaves."""
    found = []
    for now in jax.random.split(key, count):
        keys = jax.random.split(now, len(like))
        leaves = [
            jax.random.normal(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, like, strict=True)
        ]
        length = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves))
        found.append([leaf / length for leaf in leaves])
    return found
