"""Claims 11 and 12: trained ensembles against the NTK-GP posterior, their limit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.calibration import Score
from ntkuq.calibration.claims import AbstractRule, Below, Claim
from ntkuq.calibration.coverage import share
from ntkuq.data import Dataset
from ntkuq.kernels import Cholesky, PriorKernel
from ntkuq.models import BNN, Gaussian, Train
from ntkuq.optimization.kernel_regime.normal_laws import (
    Normals,
    differing,
    exceeding,
    floor,
    rejected,
    wasserstein,
)
from ntkuq.posteriors import DeepEnsemble, NTKGPParam
from ntkuq.posteriors.ensemble import EnsemblePosterior
from ntkuq.posteriors.gp.posteriors import GaussianPosterior, condition
from ntkuq.posteriors.push import network_outputs


@dataclass(frozen=True)
class AtFloor(AbstractRule):
    """A ratio to what chance alone gives: confirmed where the interval reaches 1.

    It has to lie below `least` as a whole as well; refuted where it lies above that.

    >>> AtFloor(2.0).decide(0.9, 1.4), AtFloor(2.0).decide(2.5, 4.0)
    ('confirmed', 'refuted')
    """

    least: float

    def decide(self, low, high):
        if low > self.least:
            return "refuted"
        return "confirmed" if low <= 1.0 and high < self.least else "undecided"

    @property
    def confirm(self):
        return f"reaching 1 and below {self.least:g}"

    @property
    def refute(self):
        return f"above {self.least:g}"


ASKED = (
    Claim(
        "an ensemble of NTKGPParam members is the NTK-GP posterior",
        None,
        AtFloor(2.0),
        11,
    ),
    Claim(
        "a deep ensemble varies at most as much as the NTK-GP posterior",
        None,
        Below(0.05, 0.2),
        12,
    ),
)


def against_ensembles(
    bnn: BNN, data: Dataset, part: Dataset, *, size: int, train: Train, key: Array
) -> tuple[Claim, ...]:
    r"""Claims 11 and 12, on one problem with its prior and noise fixed.

    11: the Wasserstein distance of M members to the NTK-GP, averaged over points,
    divided by that of M exact draws. The interval is $(W / F_{0.95}, W / F_{0.05})$
    with quantiles of the distance F of exact draws, so that it reaches 1 just where W
    is no greater than what exact draws show in 95 % of cases.

    12: the share of points where the variance of the plain members is larger than that
    of the NTK-GP beyond the variance-ratio test, Holm-adjusted over points.

    Args:
        bnn: prepared, with a builder, a Gaussian likelihood and a `FanInPrior`.
        data: what is trained on.
        part: where laws are compared.
        size: members M of each ensemble.
        train: how a member is trained.
        key: random key.

    Raises:
        TypeError: for another prior or likelihood.
        TrainingError: where training diverges.

    References: He, Lakshminarayanan, Teh 2020 (arXiv 2007.05864).
    """
    first, second = jax.random.split(key)
    joint = wide_posterior(bnn, data).joint(part.x)
    mean, covariance = np.asarray(joint.mean), np.asarray(joint.covariance)
    std = np.sqrt(np.diagonal(covariance)).reshape(mean.shape)
    limit, outputs = Normals(mean, std), mean.shape[1]
    lowest = floor(covariance, outputs, size)

    fitted = DeepEnsemble(size, train, NTKGPParam()).fit(bnn, data, key=first)
    law = Normals.of_draws(member_outputs(fitted, part.x))
    found = float(wasserstein(law, limit).mean())
    ends = found / np.quantile(lowest, [0.95, 0.05])
    many = rejected(differing(law, limit, len(fitted.members)))
    corrected = dataclasses.replace(
        ASKED[0],
        statistic=Score(
            found / float(lowest.mean()), None, size, (float(ends[0]), float(ends[1]))
        ),
        note=(
            f"mean Wasserstein distance {found:.3g} standard deviations over "
            f"{len(part)} test inputs, {lowest.mean():.3g} for {size} exact draws; "
            f"variance ratio {_ratio(law, limit):.3g} (median), different at {many} "
            "inputs (Holm)"
        ),
    )

    fitted = DeepEnsemble(size, train).fit(bnn, data, key=second)
    law = Normals.of_draws(member_outputs(fitted, part.x))
    many = rejected(exceeding(law, limit, len(fitted.members)))
    plain = dataclasses.replace(
        ASKED[1],
        statistic=share(many, len(part)),
        note=(
            f"share of {len(part)} test inputs with a larger variance (Holm), {size} "
            f"members; variance ratio {_ratio(law, limit):.3g} (median); the interval "
            "is over test inputs, for this ensemble"
        ),
    )
    return corrected, plain


def _ratio(p: Normals, reference: Normals) -> float:
    return float(np.median((p.std / reference.std) ** 2))


def wide_posterior(bnn: BNN, data: Dataset) -> GaussianPosterior:
    """The NTK-GP with the problem's own prior and noise, and prior mean zero.

    `NTKGP` has the mean of the targets as its prior mean, which networks do not know.

    Raises:
        TypeError: for a prior that is no `FanInPrior`, or noise that is not Gaussian.
        NotEnoughMemory: for too many rows.
    """
    if not isinstance(bnn.likelihood, Gaussian):
        raise TypeError(
            "expected a Gaussian likelihood, whose posterior is a Gaussian process, "
            f"got {type(bnn.likelihood).__name__}"
        )
    if bnn.network.build is None:
        raise ValueError(
            "expected a builder, since ensembles train from scratch, got a trained "
            "network only"
        )
    outputs = bnn.outputs(data)
    Cholesky().need_memory(len(data), outputs)
    with jax.enable_x64(True):
        x = bnn.inputs(data.x, np.float64)
        covariance = PriorKernel().ntk(bnn, x, 1.0)
        return condition(
            bnn,
            data,
            covariance,
            covariance.initial(),
            (),
            {},
            solver=Cholesky(),
            # the Cholesky factor is not random
            key=jax.random.key(0),
            center=jnp.zeros((1, outputs)),
        )


def member_outputs(fitted: EnsemblePosterior, x: PyTree) -> Float[np.ndarray, "M N C"]:
    """The functions of the members at x, in the units of the data."""
    bnn = fitted.bnn
    inputs = bnn.with_model(fitted.members[0]).inputs(x)
    values = [np.asarray(network_outputs(one, inputs)) for one in fitted.members]
    scale, loc = np.asarray(bnn.scaling.scale()), np.asarray(bnn.scaling.loc())
    return np.stack(values).astype(np.float64) * scale + loc
