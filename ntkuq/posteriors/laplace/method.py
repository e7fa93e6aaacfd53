"""Linearized Laplace: a Gaussian posterior around the trained network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.data import Batches, DataLike, Dataset, as_data
from ntkuq.linearize import Jacobian
from ntkuq.models import BNN, AbstractLink, KnownNoise, Positions
from ntkuq.models.checks import need
from ntkuq.models.hyperparameters import AbstractTune, Fixed, MarginalLikelihood
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.laplace.evidence import Tuned, keep, maximize
from ntkuq.posteriors.laplace.layers import maximize_layers
from ntkuq.posteriors.laplace.posterior import (
    LaplacePosterior,
    posterior,
    warn_unless_at_map,
)
from ntkuq.posteriors.laplace.problem import (
    Linearized,
    fit_of,
    inverse,
    linearized_problem,
)
from ntkuq.posteriors.laplace.search import AbstractSearch, Fits, search
from ntkuq.posteriors.laplace.structures import AbstractStructure, Full, Size
from ntkuq.posteriors.laplace.subsets import AbstractSubset, All
from ntkuq.posteriors.predictive import Predictive


class Laplace(AbstractMethod):
    """Linearized Laplace at the trained network.

    q(theta) = N(theta*, (tau L0 + J^T H J)^-1), and predictions from the linearized
    network f(x, theta*) + J(x) (theta - theta*): mean f(x, theta*), covariance
    J(x) (tau L0 + J^T H J)^-1 J(x)^T.

    Args:
        structure: `Full()`, `KFAC()`, `EKFAC()`, `Diagonal()`, `LowRank(rank)`.
        subset: `All()`, `LastLayer()`, `Select(where)`.
        tune: `MarginalLikelihood()` fits a factor on the prior precision (or, with
            `per_layer=True`, a precision for each parameter array) by the Laplace
            evidence, and the noise scale where all parameters are uncertain (a subset
            keeps the noise of the `BNN`); `GridSearch(validation)` and
            `CrossValidation()` take the factor with the best score; `Fixed()` keeps
            precision and noise.
        link: how class probabilities follow from Gaussian logits, `MonteCarlo()`,
            `Probit()`, `MeanField()`, `LaplaceBridge()`; `None` for the likelihood's
            default, numerical integration.

    References: Immer, Korzepa, Bauer 2021 (arXiv 2008.08400); Daxberger et al. 2021
    (arXiv 2106.14806).

    >>> Laplace(structure=Full()).subset
    All()
    """

    structure: AbstractStructure = Full()
    subset: AbstractSubset = All()
    tune: AbstractTune = MarginalLikelihood()
    link: AbstractLink | None = None

    def __check_init__(self):
        for field, kind, choices in (
            (
                "structure",
                AbstractStructure,
                "Full(), KFAC(), EKFAC(), Diagonal() or LowRank(rank)",
            ),
            ("subset", AbstractSubset, "All(), LastLayer() or Select(where)"),
            (
                "tune",
                AbstractTune,
                "MarginalLikelihood(), Fixed(), GridSearch(data), CrossValidation()",
            ),
            (
                "link",
                AbstractLink | None,
                "MonteCarlo(), Probit(), MeanField(), LaplaceBridge() or None",
            ),
        ):
            need(getattr(self, field), kind, f"Laplace: {field}", choices)

    def fit(
        self, bnn: BNN, data: DataLike, *, key: Array | None = None
    ) -> LaplacePosterior:
        """The posterior around `bnn`'s trained network; `key` is not used.

        Data that come in batches are seen once (twice for `EKFAC`), and only the
        factors stay in memory; `LowRank` and the function-space view of `Full` need
        them as a whole.

        Raises:
            ValueError: for an untrained network, weights that are not finite, outputs
                that do not fit the likelihood, a matrix too large to hold.

        Warns:
            NotAtMAP: where the network is far from its maximum a posteriori.
        """
        del key
        data = as_data(data)
        bnn = bnn.prepare(data)
        problem = linearized_problem(bnn, data, self.structure, self.subset)
        tuned = choose(self.tune, problem, self._fits(bnn, problem), data)
        found = posterior(self, self.link, bnn, problem, tuned, data.units)
        return warn_unless_at_map(found)

    def _fits(self, bnn: BNN, whole: Linearized) -> Fits:
        """From training data to predictions at a factor on the precision."""

        def fits(data: Dataset | None) -> Callable[[float, Any], Predictive]:
            problem = whole
            if data is not None:
                problem = linearized_problem(bnn, data, self.structure, self.subset)

            def predict(factor: float, x: Any) -> Predictive:
                tuned = Tuned(factor, 1.0, None, None, False, 0.0, math.nan)
                return posterior(*(self, self.link, bnn, problem, tuned, None)).predict(
                    x
                )

            return predict

        return fits

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        prepared = bnn.prepare(data)
        one = data.take_first(1) if isinstance(data, Batches) else data.take([0])
        example = jax.tree.map(lambda leaf: leaf[0], prepared.inputs(one.x))
        model = bnn.model if bnn.trained else bnn.network.init(jax.random.key(0))
        jacobian = Jacobian.at(model, example, self.subset)
        outputs = bnn.outputs(one)
        return self.structure.cost(
            Size(jacobian, len(data), outputs, jacobian.plan.flops)
        )


def choose(
    tune: AbstractTune,
    problem: Linearized,
    fits: Callable | None = None,
    data: Dataset | Batches | None = None,
) -> Tuned:
    """The precision and noise factors that a tuning strategy picks.

    Raises:
        TypeError: for a strategy that is not known here.
    """
    if isinstance(tune, AbstractSearch) and fits is not None and data is not None:
        return search(tune, data, problem, fits)
    if not isinstance(tune, Fixed | MarginalLikelihood):
        raise TypeError(
            "expected tune=MarginalLikelihood(), Fixed(), or for Laplace also "
            f"GridSearch(validation) or CrossValidation(), got {type(tune).__name__}"
        )
    with jax.enable_x64(problem.double):
        if isinstance(tune, Fixed):
            return keep(problem.fit, problem.curvature)
        if tune.per_layer:
            return maximize_layers(
                problem.fit, problem.curvature, problem.precisions, tune.max_steps
            )
        return maximize(problem.fit, problem.curvature)


def _check_kind(first: BNN, now: BNN) -> None:
    """Raise `ValueError` where further targets are not of the kind of the first."""
    shapes = [
        bnn.likelihood.shape
        if isinstance(bnn.likelihood, Positions)
        else bnn.target_shape
        for bnn in (first, now)
    ]
    if shapes[0] != shapes[1]:
        said = [
            "of one or two axes" if s is None else f"of shape {('N', *s)}"
            for s in shapes
        ]
        raise ValueError(
            f"update: expected targets {said[0]}, as the first data had, got targets "
            f"{said[1]}: bring them into that shape".replace("'", "")
        )
    known = isinstance(first.likelihood, KnownNoise)
    if known and not isinstance(now.likelihood, KnownNoise):
        raise ValueError(
            "update: expected data with noise_scale, as the first data had, got data "
            "without: give each example its noise scale"
        )


def updated(old: LaplacePosterior, data: DataLike) -> LaplacePosterior:
    """The posterior given further data: curvatures and sums add."""
    method = old.method
    if not isinstance(method, Laplace) or isinstance(method.tune, AbstractSearch):
        raise TypeError(
            "update: expected a posterior tuned by MarginalLikelihood() or Fixed(), "
            "got one tuned on a score: fit to all data instead"
        )
    data = as_data(data)
    # before tuning: the sums refer to the noise and the prior of the first fit
    bnn = old.first.prepare(data)
    if data.units != old.units:
        raise ValueError(
            f"update: expected targets in {old.units or 'no units'}, as those of the "
            f"first data, got {data.units or 'no units'}: convert them"
        )
    _check_kind(old.first, bnn)
    before = old.problem
    # draws of a sampled Fisher are new ones
    seen = before.fit.count // bnn.outputs(data)
    structure = method.structure.as_in(before.curvature).after(seen)
    new = linearized_problem(bnn, data, structure, method.subset)
    with jax.enable_x64(new.double):
        curvature = before.curvature
        if isinstance(method.tune, MarginalLikelihood) and method.tune.per_layer:
            curvature = curvature.with_variances(inverse(new.precisions))
        merged = curvature.merge(new.curvature)
        summary = jax.tree.map(jnp.add, before.summary, new.summary)
        count = before.fit.count + new.fit.count
        fit = fit_of(bnn, new.jacobian, new.precisions, summary, count)
    problem = Linearized(new.jacobian, merged, summary, new.precisions, fit, new.double)
    tuned = choose(method.tune, problem)
    found = posterior(method, method.link, bnn, problem, tuned, old.units)
    return warn_unless_at_map(found)
