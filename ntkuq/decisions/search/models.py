"""Fit the surrogate of a search: one program for all rounds where that is possible."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.data import Dataset
from ntkuq.decisions.search.box import Box
from ntkuq.decisions.search.fitted import FittedPosterior, strip
from ntkuq.decisions.search.gp import features, fit_gp
from ntkuq.decisions.search.surrogate import AbstractSurrogate
from ntkuq.kernels import AbstractCovariance, Analytic, Cholesky, Empirical
from ntkuq.models import BNN, Gaussian
from ntkuq.models.hyperparameters import MarginalLikelihood
from ntkuq.posteriors.base import AbstractMethod
from ntkuq.posteriors.gp import GP, NNGP, NTKGP


#: Reference points whose spread the kernels take for that of the inputs.
REFERENCE = 64


class Model(NamedTuple):
    """A surrogate, its hyper-parameters (or none), and whether gradients may flow."""

    surrogate: AbstractSurrogate
    theta: Float[np.ndarray, " P"]


def padded_covariance(method: AbstractMethod, bnn: BNN, box: Box, *, key: Array):
    """The covariance of a method that the padded GP can do, else `None`.

    These are `GP`, and `NNGP` and `NTKGP` with `Analytic(ard=...)` of one depth, with
    `Cholesky()`, `MarginalLikelihood()` and a Gaussian likelihood of one scale.
    """
    if not isinstance(method, GP | NNGP | NTKGP):
        return None
    plain = isinstance(method.solver, Cholesky)
    plain &= isinstance(method.tune, MarginalLikelihood)
    plain &= isinstance(bnn.likelihood, Gaussian)
    plain &= getattr(method, "time", None) is None
    if not plain or isinstance(method.kernel, Empirical):
        return None
    if isinstance(method.kernel, Analytic) and _many_depths(method.kernel):
        return None
    u = box.spread(REFERENCE, key=key)
    with jax.enable_x64(True):
        x = features(jnp.asarray(u))
        if isinstance(method, GP):
            made: AbstractCovariance = method.kernel.covariance(bnn, x, 1.0)
            return made
        y = np.linspace(-1.0, 1.0, REFERENCE)
        bnn = bnn.prepare(Dataset(np.asarray(x), y))
        if isinstance(method, NNGP):
            return method.kernel.nngp(bnn, x, 1.0)
        return method.kernel.ntk(bnn, x, 1.0)


def _many_depths(kernel: Analytic) -> bool:
    return isinstance(kernel.depth, tuple)


def fit(
    method: AbstractMethod,
    covariance: AbstractCovariance | None,
    bnn: BNN,
    box: Box,
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, " N"],
    *,
    sign: float,
    exact: bool,
    rows: int,
    theta: Float[np.ndarray, " P"] | None,
    tuned: bool,
    key: Array,
) -> Model:
    """The surrogate of `sign * y`.

    Args:
        method, covariance: the second where the padded GP does the first.
        bnn, box, x, y: the problem and all observations, finite.
        sign: of the direction.
        exact: no noise.
        rows: rows that are needed.
        theta, tuned: the last hyper-parameters, and whether they are to stay.
        key: for the fit.
    """
    if covariance is not None:
        surrogate = fit_gp(
            covariance,
            box.unit(x),
            sign * y,
            exact=exact,
            rows=rows,
            theta=theta,
            tuned=tuned,
            key=key,
        )
        return Model(surrogate, np.asarray(surrogate.theta))
    width = np.zeros(()).astype(bnn.dtype if bnn.trained else np.float32).dtype
    posterior = method.fit(bnn, Dataset(x.astype(width), y.astype(width)), key=key)
    lower = np.asarray(box.lower)
    return Model(
        FittedPosterior(
            posterior=strip(posterior),
            lower=jnp.asarray(lower.astype(width)),
            side=jnp.asarray(box.side.astype(width)),
            sign=jnp.asarray(np.asarray(sign, width)),
        ),
        np.zeros(0),
    )
