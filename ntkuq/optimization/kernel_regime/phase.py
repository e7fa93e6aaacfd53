"""Is the step size one at which training can be lazy?"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.calibration.claims import Below, Claim, Within
from ntkuq.calibration.means import mean_score
from ntkuq.linearize import Jacobian, gram
from ntkuq.models import AbstractLikelihood
from ntkuq.optimization.kernel_regime.describe import step_size
from ntkuq.optimization.kernel_regime.drift import kernel_of
from ntkuq.optimization.kernel_regime.points import sample
from ntkuq.optimization.kernel_regime.study import (
    AbstractStudy,
    Setting,
    check_points,
    decided,
)


STEP = Claim(
    "the step size is in the lazy phase (η λ_max of the loss)",
    None,
    Below(1.0, 2.0),
    25,
)
TOP = Claim(
    "the largest eigenvalue of the kernel stays (λ_max(Θ_T) / λ_max(Θ_0))",
    None,
    Within((0.9, 1.1), (0.7, 1 / 0.7)),
    25,
)


class LazyPhase(AbstractStudy):
    r"""Claim 25: the step size is below the bound of gradient descent.

    Gradient descent on the mean loss is stable around its start where $\eta
    \lambda_{\max}(\frac1N \sum_n J_n^T H_n J_n) < 2$, with H_n the Hessian of minus the
    log-likelihood in the outputs. Above that, up to about twice as much, it is thrown
    out and lands where λ_max is smaller ("catapult"). So the second statement is that
    λ_max of the kernel is the same after training: refuted where it fell by more than
    30 %, or rose to as much as that fall undone. Of an adaptive optimizer only the
    step size is used, its preconditioner is left out.

    Args:
        points: training inputs N of a kernel; `None` for N·C ≤ 64, but
            at least 16.

    Raises:
        ValueError: for fewer than 2 points.

    References: Lewkowycz et al. 2020 (arXiv 2003.02218).

    >>> [claim.number for claim in LazyPhase().asked]
    [25, 25]
    """

    name: ClassVar[str] = "phase"
    asked: ClassVar[tuple[Claim, ...]] = (STEP, TOP)
    points: int | None = None

    def __check_init__(self):
        check_points(self, self.points)

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        found = sample(setting, self.points, key=key)
        curvatures, ratios = [], []
        with jax.enable_x64(True):
            for one in found.units:
                bnn = setting.bnn.with_model(one.run.initial)
                y = bnn.targets(one.part, np.dtype(float))
                top = curvature(one.jacobian, bnn.likelihood, one.x, y)
                curvatures.append(float(top))
                before, after = (
                    np.linalg.eigvalsh(np.asarray(kernel_of(jacobian, one.x)[1]))[-1]
                    for jacobian in (one.jacobian, one.at(one.run.final))
                )
                ratios.append(float(after / before))
        where = f"{found.words}, float64"
        stays = decided(TOP, mean_score(np.array(ratios)), note=where)
        return self._step(setting, np.array(curvatures), where), stays

    def _step(self, setting: Setting, curvatures: np.ndarray, where: str) -> Claim:
        if setting.over != "seeds":
            return decided(STEP, reason="a pair was given: its step size is not known")
        try:
            rate, plain = step_size(setting)
        except ValueError as error:
            return decided(STEP, reason=str(error))
        note = (
            f"η {rate:g}; λ_max {np.median(curvatures):.3g} of the mean loss, without "
            f"the prior, where training began; {where}"
        )
        if not plain:
            note += (
                "; the bound is that of gradient descent: this optimizer is adaptive, "
                "and its preconditioner is left out"
            )
        return decided(STEP, mean_score(rate * curvatures), note=note)


@eqx.filter_jit
def curvature(
    jacobian: Jacobian, likelihood: AbstractLikelihood, x: PyTree, y: PyTree
) -> Array:
    """λ_max of 1/N Σ_n J_nᵀ H_n J_n, from the kernel Sᵀ J Jᵀ S with H = S Sᵀ."""
    factors = jacobian.factors(x, likelihood.hessian_sqrt, y)
    ones = [jnp.ones((), leaf.dtype) for leaf in jacobian.leaves]
    count = factors.outputs.shape[0]
    side = count * factors.weighed
    kernel = gram(factors, factors, ones).reshape(side, side)
    return jnp.linalg.eigvalsh(kernel)[-1] / count
