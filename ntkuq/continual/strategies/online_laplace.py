"""Online Laplace: yesterday's posterior is today's prior."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.continual.learned import Learned
from ntkuq.continual.strategies.base import AbstractTraining, Seen
from ntkuq.continual.strategies.ewc import need_strength
from ntkuq.continual.strategies.quadratic import (
    AbstractForm,
    Quadratic,
    added,
    forms_of,
    multiply,
    raveled,
)
from ntkuq.models import BNN, AbstractLink, Gaussian, Train, parameters
from ntkuq.models.hyperparameters import AbstractTune, MarginalLikelihood
from ntkuq.models.train import Job
from ntkuq.posteriors.laplace import Laplace
from ntkuq.posteriors.laplace.method import choose
from ntkuq.posteriors.laplace.posterior import LaplacePosterior, posterior
from ntkuq.posteriors.laplace.problem import (
    Linearized,
    fit_of,
    inverse,
    linearized_problem,
    subset_precisions,
)
from ntkuq.posteriors.laplace.structures import (
    KFAC,
    AbstractStructure,
    Full,
    LowRank,
    WeightSpace,
)
from ntkuq.posteriors.laplace.subsets import All


class Precision(NamedTuple):
    """What online Laplace keeps: the posterior of all tasks so far.

    forms: the sum of the tasks' Gauss-Newton matrices.
    center: the weights, raveled leaves.
    """

    forms: tuple[AbstractForm, ...]
    center: list[Float[Array, " _"]]


class OnlineLaplace(AbstractTraining):
    r"""Laplace's posterior of the tasks so far is the prior of the next one.

    Task T is trained on $-\log p(D_T \mid \theta) + \tfrac12 (\theta - \theta_{T-1})^T
    \Lambda_{T-1} (\theta - \theta_{T-1})$, then $\Lambda_T = \tau L_0 +
    \sum_{t \le T} J_t^T H_t J_t$ with each task's Gauss-Newton matrix at its own
    $\theta_t$. On a linear network with Gaussian noise this is Bayesian regression on
    all data. Kronecker products of different tasks are kept apart in the penalty (their
    sum is none) and merged for predictions.

    Args:
        structure: `KFAC()`, `Diagonal()`, `EKFAC()` or `Full()`.
        tune: `MarginalLikelihood()` chooses the prior precision τ (and Gaussian noise)
            anew after each task, by the evidence of all tasks so far; `Fixed()` keeps
            them.
        strength: the penalty is multiplied by this; 1 is Bayes' rule.
        link: as for `Laplace`.
        train: how to train on one task.

    Raises:
        TypeError: for `LowRank`, whose matrices cannot be added.

    References: Ritter, Botev, Barber 2018 (arXiv 1805.07810); Immer et al. 2021 (arXiv
    2104.04975) on the evidence.

    >>> OnlineLaplace(structure=KFAC()).strength
    1.0
    """

    structure: AbstractStructure = KFAC()
    tune: AbstractTune = MarginalLikelihood()
    strength: float = 1.0
    link: AbstractLink | None = None
    train: Train = Train()

    def __check_init__(self):
        need_strength("OnlineLaplace", self.strength)
        if isinstance(self.structure, LowRank):
            raise TypeError(
                "OnlineLaplace: expected KFAC(), Diagonal(), EKFAC() or Full(), got "
                "LowRank, whose matrices of two tasks cannot be added"
            )

    @property
    def method(self) -> Laplace:
        """Laplace with this structure, as the posteriors have it."""
        structure = self.structure
        if isinstance(structure, Full):
            # other tasks are linearized elsewhere: there is no common function space
            structure = Full(WeightSpace(), structure.fisher)
        return Laplace(structure, All(), self.tune, self.link)

    def job(self, state, seen, *, key):
        memory, job = state.memory, Job(seen.bnn, seen.model, seen.x, seen.y, key)
        if memory is None:
            return job
        # the prior's own part pulls to where the last task ended, too
        shapes = [leaf.shape for leaf in jax.tree.leaves(parameters(seen.model))]
        pairs = zip(memory.center, shapes, strict=True)
        return dataclasses.replace(
            job,
            center=[leaf.reshape(shape) for leaf, shape in pairs],
            penalty=self.penalty(state),
        )

    def penalty(self, state: Learned) -> Quadratic:
        """What the next training adds to its loss, beside the prior's own part."""
        memory, dtype = state.memory, state.memory.center[0].dtype
        found: Any = state.posterior
        strength = self.strength / noise_factor(found) ** 2
        return Quadratic(
            jax.tree.map(
                lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a,
                memory.forms,
            ),
            memory.center,
            jnp.asarray(strength, dtype),
        )

    def learned(self, state, seen, trained, *, key):
        old = state.posterior if isinstance(state.posterior, LaplacePosterior) else None
        new, forms = _carried(self.method, old, state.memory, seen)
        return Learned.of(new, Precision(forms, raveled(seen.model)), state.tasks + 1)


def noise_factor(found: LaplacePosterior) -> float:
    """Tuned noise scale over the one that the sums refer to; 1 without noise."""
    now, then = found.bnn.likelihood, found.first.likelihood
    if not isinstance(now, Gaussian) or not isinstance(then, Gaussian):
        return 1.0
    return float(np.mean(np.asarray(now.scale) / np.asarray(then.scale)))


def _carried(
    method: Laplace, old: LaplacePosterior | None, memory: Precision | None, seen: Seen
) -> tuple[LaplacePosterior, tuple[AbstractForm, ...]]:
    """The posterior of all tasks around the network as it is now."""
    # sums refer to the noise and the prior that were given, before tuning
    first = (seen.bnn if old is None else old.first).with_model(seen.model)
    structure = method.structure
    if old is not None:
        structure = structure.after(old.problem.fit.count // first.outputs(seen.data))
    new = linearized_problem(first, seen.data, structure, All())
    with jax.enable_x64(new.double):
        forms = forms_of(new.curvature, inverse(new.precisions))
        problem = new
        if old is not None and memory is not None:
            problem = _merged(first, old, memory, new)
            forms = added(memory.forms, forms)
    tuned = choose(method.tune, problem)
    return posterior(method, method.link, first, problem, tuned, seen.data.units), forms


def _merged(
    bnn: BNN, old: LaplacePosterior, memory: Precision, new: Linearized
) -> Linearized:
    """Curvatures and sums of all tasks, at the network as it is now.

    The earlier tasks and the prior are their quadratic around the earlier network: in
    the gradient of the log joint the prior stands as if it were centered at zero.
    """
    curvature = old.problem.curvature
    if isinstance(old.method, Laplace) and _per_layer(old.method.tune):
        curvature = curvature.with_variances(inverse(new.precisions))
    dtype = new.precisions[0].dtype
    theta = [leaf.reshape(-1).astype(dtype) for leaf in new.jacobian.leaves]
    center = [leaf.astype(dtype) for leaf in memory.center]
    pull = multiply(memory.forms, jax.tree.map(jnp.subtract, theta, center))
    prior = subset_precisions(old.bnn.prior, new.jacobian)
    noise = jnp.asarray(noise_factor(old) ** 2, dtype)
    gradient = [
        g.astype(dtype) - p + noise * jnp.asarray(precision, dtype) * c
        for g, p, precision, c in zip(
            new.summary.gradient, pull, prior, center, strict=True
        )
    ]
    summary = jax.tree.map(jnp.add, old.problem.summary, new.summary)
    summary = summary._replace(gradient=gradient)
    count = old.problem.fit.count + new.fit.count
    fit = fit_of(bnn, new.jacobian, new.precisions, summary, count)
    merged = curvature.merge(new.curvature)
    return new._replace(curvature=merged, summary=summary, fit=fit)


def _per_layer(tune: AbstractTune) -> bool:
    return isinstance(tune, MarginalLikelihood) and tune.per_layer
