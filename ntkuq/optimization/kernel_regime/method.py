"""The verb `regime`: is the network lazy, and what follows?"""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.calibration.means import mean_score
from ntkuq.data import Split
from ntkuq.models import BNN, Job, Train, TrainingError
from ntkuq.models.train import diverged
from ntkuq.optimization.kernel_regime.alike import alike
from ntkuq.optimization.kernel_regime.conditions import Conditions
from ntkuq.optimization.kernel_regime.describe import describe
from ntkuq.optimization.kernel_regime.early import Early, remembering
from ntkuq.optimization.kernel_regime.layers import LayerFisher
from ntkuq.optimization.kernel_regime.limit import Limit
from ntkuq.optimization.kernel_regime.measure import (
    TRAIN,
    check_pair,
    measure,
    need_kernels,
    subsets_of,
)
from ntkuq.optimization.kernel_regime.phase import LazyPhase
from ntkuq.optimization.kernel_regime.rates import NaturalGradientRate
from ntkuq.optimization.kernel_regime.records import Regime
from ntkuq.optimization.kernel_regime.settling import SHARE, Settling
from ntkuq.optimization.kernel_regime.study import (
    AbstractStudy,
    Run,
    Setting,
    decide,
)


#: The studies of optimization, which are cheap beside the trainings.
STUDIES: tuple[AbstractStudy, ...] = (
    Conditions(),
    NaturalGradientRate(),
    LayerFisher(),
    Settling(),
    LazyPhase(),
    Limit(),
)


def regime(
    bnn: BNN,
    data: Split,
    *,
    initial: PyTree | None = None,
    train: Train = TRAIN,
    seeds: int = 5,
    studies: Sequence[AbstractStudy] = STUDIES,
    key: Array,
) -> Regime:
    """Compare the trained network with its linearization where training began.

    With `initial` the pair (initial, the trained network of `bnn`) is measured, and the
    intervals say how far the numbers vary over subsets of the test inputs. Without, the
    network is built and trained anew for each seed, and they say how far it varies over
    initialization and training. Up to 8 subsets of 8 to 64 test inputs are used, in
    float64. Then every study decides its claims for the same trainings, at training
    inputs; one that cannot be done says why its claims are not tested.

    Args:
        bnn: network, likelihood, prior, scaling.
        data: `data.train` is what it trains on; the comparison is at `data.test`.
        initial: the module at which training of `bnn`'s network began.
        train: how to train, where `initial` is not given.
        seeds: number of trainings, where `initial` is not given.
        studies: what else is decided; `()` for the two claims of the numbers alone.
        key: chooses the subsets; initializes and trains.

    Returns:
        Numbers with intervals, claims, a verdict, and its consequences.

    Raises:
        ValueError: for fewer than 16 test inputs or 2 seeds; without `initial`, for a
            network without a builder; with it, for an untrained network, or one whose
            parameters have other shapes.
        TrainingError: where training diverges.
        MemoryError: for kernels of so many outputs that they do not fit.

    >>> import equinox as eqx, jax, numpy as np
    >>> from ntkuq.data import Dataset, Split
    >>> from ntkuq.models import Gaussian
    >>> x = np.linspace(-1, 1, 40)[:, None]
    >>> data = Dataset(x, 2 * x[:, 0])
    >>> start = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> end = eqx.tree_at(lambda m: m.weight, start, 2.0 * np.ones((1, 1), np.float32))
    >>> split = Split(data.take(range(20)), None, data.take(range(20, 40)))
    >>> found = regime(
    ...     BNN(end, Gaussian()),
    ...     split,
    ...     initial=start,
    ...     studies=(),
    ...     key=jax.random.key(1),
    ... )
    >>> round(found.kernel_change.value, 6), found.verdict[:21]
    (0.0, 'In the kernel regime.')
    """
    bnn = bnn.prepare(data.train)
    bnn.need_common_noise("regime")
    choose, *keys = jax.random.split(key, 1 + seeds)
    subsets = subsets_of(data.test, choose)
    need_kernels(bnn, subsets)
    if initial is not None:
        check_pair(initial, bnn)
        runs = [Run(initial, bnn.model)]
    elif seeds < 2:
        raise ValueError(f"regime: expected seeds >= 2 for an interval, got {seeds}")
    else:
        runs = _runs(bnn, data, train, keys)
    rows = [
        measure(bnn.with_model(run.final), run.initial, data.train, subsets)
        for run in runs
    ]
    values = rows[0] if len(runs) == 1 else np.mean(rows, axis=1)
    setting = Setting(bnn, data, train, tuple(runs))
    claims = [
        claim
        for number, study in enumerate(studies)
        for claim in decide(study, setting, key=jax.random.fold_in(choose, number))
    ]
    *scores, angle = map(mean_score, values.T)
    return Regime(
        *scores,
        over=setting.over,
        more=tuple(claims),
        setting=describe(setting),
        kernel_angle=angle,
    )


def _runs(bnn: BNN, data: Split, train: Train, keys: list[Array]) -> list[Run]:
    """One training for each key."""
    firsts, steps = zip(*map(jax.random.split, keys), strict=True)
    models = alike([bnn.network.init(first) for first in firsts])
    # the network's dtype is known once there is one
    begun = bnn.with_model(models[0])
    x, y = begun.inputs(data.train.x), begun.targets(data.train)
    jobs = [
        Job(bnn.with_model(model), model, x, y, now)
        for model, now in zip(models, steps, strict=True)
    ]
    trained = remembering(train, len(data.train), SHARE).run_many(jobs)
    planned = train.updates(len(data.train))
    runs = []
    for model, found in zip(models, trained, strict=True):
        if found.diverged is not None:
            raise TrainingError(diverged(found.diverged, planned))
        early = None
        if isinstance(found.record, Early) and found.steps > SHARE * planned:
            early = eqx.combine(found.record.parameters, found.model)
        runs.append(Run(model, found.model, early))
    return runs
