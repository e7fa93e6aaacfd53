"""Does the uncertainty of kernel theory hold for this network? Claims 11 to 14."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.calibration.claims import Claim
from ntkuq.data import Dataset
from ntkuq.models import BNN, AbstractTune, Fixed, MarginalLikelihood, constructor
from ntkuq.optimization.kernel_regime import at_start, stand_in, wide_members
from ntkuq.optimization.kernel_regime.study import FAILURES, AbstractStudy, Setting
from ntkuq.posteriors import KFAC, MAP, NTKGP, Full, Laplace
from ntkuq.posteriors.laplace import LaplacePosterior
from ntkuq.posteriors.map import FULL_LIMIT


class Uncertainty(AbstractStudy):
    r"""Claims 11 to 14: what kernel theory says of uncertainty. Costly.

    Prior precision and noise are those that the Laplace evidence chooses at the first
    of the trainings (`tune`); the network is trained again with them, from where it
    began, and all are kept for everything that is compared:

    - 11, 12: `members` networks of `NTKGPParam`, and as many plain ones, against the
      NTK-GP of the problem's own `FanInPrior` at infinite width (`against_ensembles`);
    - 13: `wide`, which chooses hyper-parameters of its own, against Laplace: paired
      differences of NLL (nats) and CRPS (as a share of Laplace's) at the test points;
      no worse is less than 0.01 worse;
    - 14: Laplace at the trained network against the NTK-GP with the empirical kernel
      at initialization: Spearman's correlation of the standard deviations of the
      function, and the Wasserstein distance in standard deviations of the NTK-GP.

    For likelihoods that are not Gaussian only the NLL of 13 is tested.

    Args:
        members: of each ensemble.
        points: most test inputs for 11, 12 and 14, drawn at random.
        tune: `MarginalLikelihood()`, or `Fixed()` to keep prior and noise as given and
            the network as it was trained.
        wide: the infinite-width GP of claim 13.

    Raises:
        ValueError: for fewer than 2 members or 2 points.

    References: He, Lakshminarayanan, Teh 2020 (arXiv 2007.05864); Immer, Korzepa,
    Bauer 2021 (arXiv 2008.08400).

    >>> Uncertainty(members=10).name
    'uncertainty'
    """

    name: ClassVar[str] = "uncertainty"
    asked: ClassVar[tuple[Claim, ...]] = (
        *wide_members.ASKED,
        *stand_in.ASKED,
        *at_start.ASKED,
    )
    members: int = 20
    points: int = 200
    tune: AbstractTune = MarginalLikelihood()
    wide: NTKGP = NTKGP()

    def __check_init__(self):
        if self.members < 2 or self.points < 2:
            raise ValueError(
                "Uncertainty: expected members >= 2 and points >= 2, got "
                f"{self.members} and {self.points}"
            )

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        """The six statements; each that cannot be tested says why.

        Args:
            setting: the first of its runs is the trained network.
            key: random key.
        """
        first, second, third, rows = jax.random.split(key, 4)
        problem = _problem(setting, self.tune, key=first)
        bnn, data = problem.bnn, setting.data
        order = np.asarray(jax.random.permutation(rows, len(data.test)))
        part = data.test.take(order[: self.points])
        laplace = _laplace(bnn, data.train)
        return (
            *_attempt(
                wide_members.ASKED,
                lambda: wide_members.against_ensembles(
                    bnn,
                    data.train,
                    part,
                    size=self.members,
                    train=setting.train,
                    key=second,
                ),
            ),
            *_attempt(
                stand_in.ASKED,
                lambda: stand_in.against_laplace(
                    self.wide.fit(bnn, data.train, key=third),
                    constructor(self.wide),
                    laplace,
                    data.test,
                ),
            ),
            *_attempt(
                at_start.ASKED,
                lambda: at_start.against_laplace(
                    bnn.with_model(problem.initial), laplace, data.train, part
                ),
            ),
        )


class _Problem(NamedTuple):
    """The problem that all are compared on, its network trained from `initial`."""

    bnn: BNN
    initial: PyTree


def _problem(setting: Setting, tune: AbstractTune, *, key: Array) -> _Problem:
    run, train = setting.runs[0], setting.data.train
    bnn = setting.bnn.with_model(run.final)
    if isinstance(tune, Fixed):
        return _Problem(bnn, run.initial)
    # the evidence at the network as it is
    bnn = MAP(train=None, tune=tune).fit(bnn, train, key=key).bnn
    trained = setting.train.fit(bnn, run.initial, train, key=key)
    return _Problem(bnn.with_model(trained.model), run.initial)


def _laplace(bnn: BNN, data: Dataset) -> LaplacePosterior:
    side = min(bnn.size(), len(data) * bnn.outputs(data))
    structure = Full() if side <= FULL_LIMIT else KFAC()
    return Laplace(structure, tune=Fixed()).fit(bnn, data)


def _attempt(
    asked: tuple[Claim, ...], decide: Callable[[], tuple[Claim, ...]]
) -> tuple[Claim, ...]:
    """The claims, or why they could not be tested: others go on."""
    try:
        return decide()
    except FAILURES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return tuple(dataclasses.replace(claim, reason=reason) for claim in asked)
