"""When in the training the kernel moves."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.calibration.claims import Above, Claim
from ntkuq.calibration.means import mean_score
from ntkuq.optimization.kernel_regime.drift import kernel_of
from ntkuq.optimization.kernel_regime.points import sample
from ntkuq.optimization.kernel_regime.study import (
    AbstractStudy,
    Setting,
    check_points,
    decided,
)


#: The part of the updates that counts as early.
SHARE = 0.1
#: A kernel that moves by less than this share of its norm does not move.
ROUNDING = 1e-9
EARLY = Claim(
    "the kernel settles early (share of its drift in the first tenth of the updates)",
    None,
    Above(0.8, 0.4),
    24,
)


class Settling(AbstractStudy):
    r"""Claim 24: the kernel does most of its moving early in the training.

    $\|\Theta_{10\,\%} - \Theta_0\|_F / (\|\Theta_{10\,\%} - \Theta_0\|_F + \|\Theta_T -
    \Theta_{10\,\%}\|_F)$ at training inputs, in float64: the share of the first tenth
    of the planned updates in the way from Θ₀ to Θ_T. Fort et al. saw kernels settle
    within a few epochs, Vyas et al. saw them move through most of the training.

    Args:
        points: training inputs N of a kernel; `None` for N·C ≤ 64, but
            at least 16.

    Raises:
        ValueError: for fewer than 2 points.

    References: Fort et al. 2020 (arXiv 2010.15110); Vyas, Bansal, Nakkiran 2022 (arXiv
    2206.10012).

    >>> Settling().name
    'settling'
    """

    name: ClassVar[str] = "settling"
    asked: ClassVar[tuple[Claim, ...]] = (EARLY,)
    points: int | None = None

    def __check_init__(self):
        check_points(self, self.points)

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        if any(run.early is None for run in setting.runs):
            return self.untested(
                "the parameters early in the training are not known: a pair was given, "
                "or it stopped within a tenth of the planned updates"
            )
        found = sample(setting, self.points, key=key)
        shares = []
        with jax.enable_x64(True):
            for one in found.units:
                first, early, last = (
                    kernel_of(jacobian, one.x)[1]
                    for jacobian in (
                        one.jacobian,
                        one.at(one.run.early),
                        one.at(one.run.final),
                    )
                )
                before = float(jnp.linalg.norm(early - first))
                after = float(jnp.linalg.norm(last - early))
                if before + after <= ROUNDING * float(jnp.linalg.norm(first)):
                    return self.untested("the kernel does not move")
                shares.append(before / (before + after))
        steps = setting.train.updates(len(setting.data.train))
        note = (
            f"after {max(round(SHARE * steps), 1)} of {steps} updates; {found.words}, "
            "float64"
        )
        return (decided(EARLY, mean_score(np.array(shares)), note=note),)
