"""Claim 14: is Laplace at the trained network the NTK-GP at initialization?"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import PyTree

from ntkuq.calibration.claims import Above, Below, Claim
from ntkuq.calibration.means import mean_score
from ntkuq.data import Dataset
from ntkuq.kernels import Empirical
from ntkuq.models import BNN, Fixed, Gaussian, constructor
from ntkuq.optimization.kernel_regime.normal_laws import (
    Normals,
    rank_correlation,
    wasserstein,
)
from ntkuq.posteriors import NTKGP, AbstractPosterior
from ntkuq.posteriors.laplace import LaplacePosterior


ASKED = (
    Claim(
        "Laplace at the trained network ranks inputs by uncertainty as the NTK-GP at "
        "initialization does",
        None,
        Above(0.9, 0.5),
        14,
    ),
    Claim(
        "Laplace at the trained network predicts what the NTK-GP at initialization "
        "does",
        None,
        Below(0.2, 1.0),
        14,
    ),
)


def against_laplace(
    bnn: BNN, laplace: LaplacePosterior, train: Dataset, part: Dataset
) -> tuple[Claim, ...]:
    """The function at some inputs by Laplace, and by the NTK-GP.

    Args:
        bnn: the problem with the network where its training began.
        laplace: at the trained network, with the same prior and noise.
        train: what it was trained on.
        part: where laws are compared.

    Raises:
        TypeError: for a likelihood that is not Gaussian.
    """
    if not isinstance(bnn.likelihood, Gaussian):
        raise TypeError(
            "expected a Gaussian likelihood, for which both are normal laws of the "
            f"function in the units of the data, got {type(bnn.likelihood).__name__}"
        )
    method = NTKGP(kernel=Empirical(), tune=Fixed())
    start = method.fit(bnn, train, key=jax.random.key(0))
    laws = [_function(one, part.x) for one in (laplace, start)]
    note = (
        f"standard deviations of the function at {len(part)} test inputs; prior and "
        f"noise the same; {constructor(laplace.method)}"
    )
    apart = mean_score(wasserstein(*laws))
    ranks = rank_correlation(*(law.spread for law in laws))
    return (
        dataclasses.replace(ASKED[0], statistic=ranks, note=note),
        dataclasses.replace(
            ASKED[1],
            statistic=apart,
            note=note.replace(
                "standard deviations of the function",
                "Wasserstein distance of the function's laws, in standard deviations "
                "of the NTK-GP,",
            ),
        ),
    )


def _function(posterior: AbstractPosterior, x: PyTree) -> Normals:
    p = posterior.predict(x)
    mean = np.asarray(p.mean, np.float64)
    std = np.sqrt(np.asarray(p.epistemic, np.float64))
    return Normals(mean.reshape(len(mean), -1), std.reshape(len(mean), -1))
