"""The verb `probe`: would a second-order step help this network?"""

from __future__ import annotations

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.data import Batches, Dataset, Split
from ntkuq.data.batches import as_data
from ntkuq.linearize import Jacobian
from ntkuq.models import BNN
from ntkuq.models.network import check_finite
from ntkuq.optimization.probe.batches import TUNING, batch_size, pairs_of
from ntkuq.optimization.probe.decide import decide
from ntkuq.optimization.probe.measure import Pair, measure, standing
from ntkuq.optimization.probe.record import Probe
from ntkuq.optimization.probe.steps import (
    AbstractStep,
    GaussNewtonStep,
    GradientStep,
    KFACStep,
)
from ntkuq.optimization.steps.objective import Objective


#: The steps that are compared; the first is what the others are held against.
STEPS: tuple[AbstractStep, ...] = (GradientStep(), KFACStep(), GaussNewtonStep())


def probe(
    bnn: BNN,
    data: Split | Dataset | Batches,
    *,
    steps: Sequence[AbstractStep] = STEPS,
    batch: int | None = None,
    batches: int = 8,
    key: Array,
) -> Probe:
    r"""Try one step of each method from where the network stands, on several batches.

    The objective is minus the log posterior, a batch of B standing for all N rows, in
    nats an example:

    $L(\theta) = -\tfrac1B \sum_n \log p(y_n | f_n) + \tfrac1{2N} \sum_l \tau_l
    |\theta_l|^2$.

    Each step gets its length by the same rule: the minimizer along its direction of the
    damped quadratic model with the exact Gauss-Newton matrix of the batch, halved until
    the objective falls. The damping of each is the one whose steps gain most on other
    batches, on batches that are used for nothing else; so the gradient step too may be
    shorter than its own batch asks for. A step is judged by what it gains on another
    batch than the one that it was made from; its seconds are those of direction and
    length, compiled, the median of repeats in turn with the other methods. The
    difference to the first step per second, over the same batches,
    decides, by an interval that holds for all steps together.

    Args:
        bnn: network, likelihood, prior, scaling. Without a trained network one is
            initialized, and the record says so.
        data: of a split the training part.
        steps: at least one; the first is what the others are held against.
        batch: rows B of a batch; up to 256 unless given, as many as disjoint batches
            allow. Above that the batches are drawn anew from the same rows, and the
            intervals are wider.
        batches: pairs of batches K that the intervals are over.
        key: chooses the batches; draws what is drawn.

    Returns:
        Numbers with intervals, and a verdict. For one key all but the seconds, and what
        follows from them, are the same in every run.

    Raises:
        ValueError: for no step, fewer than 2 batches, too few rows, or a loss or a
            weight that is not finite.

    References: Martens and Grosse 2015 (arXiv 1503.05671) for the length of a step.

    >>> import equinox as eqx, jax, numpy as np
    >>> from ntkuq.models import Gaussian
    >>> x = np.linspace(-1, 1, 60)[:, None]
    >>> line = BNN(eqx.nn.Linear(1, 1, key=jax.random.key(0)), Gaussian())
    >>> found = probe(line, Dataset(x, 2 * x[:, 0]), batches=2, key=jax.random.key(1))
    >>> [row.name for row in found.rows]
    ['gradient', 'KFAC', 'Gauss-Newton']
    """
    _check_steps(steps)
    if isinstance(data, Split):
        data = data.train
    data = as_data(data)
    bnn = bnn.prepare(data)
    choose, draw, begin = jax.random.split(key, 3)
    fresh = not bnn.trained
    if fresh:
        bnn = bnn.with_model(bnn.network.init(begin))
    check_finite(bnn.model)
    total = len(data)
    size = batch_size(total, batch, batches)
    # a stream is read no further than needed
    most = min(total, 2 * size * (batches + TUNING))
    pool = data.take_first(most) if isinstance(data, Batches) else data
    pairs = pairs_of(len(pool), size, batches, key=choose)
    objectives = _objectives(bnn, pool, pairs.rows, total)
    rounding = _check_losses(objectives)
    setting = {
        "network": "freshly initialized" if fresh else "as trained",
        "batches": _describe(len(pairs.rows) - TUNING, size, total, pairs.shared),
        "length": "the damped exact Gauss-Newton model's along each direction, halved "
        "until the loss falls",
        "damping": f"chosen for each step on {TUNING} further pairs of batches",
        "numbers": f"{bnn.dtype}, a decrease below {rounding:.1g} is rounding",
    }
    measured = measure(steps, objectives, clock=time.perf_counter, key=draw)
    return decide(measured, shared=pairs.shared, rounding=rounding, setting=setting)


def _check_steps(steps: Sequence[AbstractStep]) -> None:
    for step in steps:
        if not isinstance(step, AbstractStep):
            raise TypeError(
                f"probe: expected steps such as KFACStep(), got {type(step).__name__}"
            )
        if len(step.dampings) < 1 or not min(step.dampings) >= 0:
            raise ValueError(
                f"{type(step).__name__}: expected dampings >= 0, at least one, got "
                f"{tuple(step.dampings)}"
            )
    if not steps:
        raise ValueError("probe: expected at least one step, got none")


def _objectives(bnn: BNN, data: Dataset, rows: np.ndarray, total: int) -> list[Pair]:
    """The objective on each batch of each pair, standing for all `total` rows."""
    size = rows.shape[2]
    used = data.take(rows.reshape(-1))
    x, y = bnn.inputs(used.x), bnn.targets(used)
    jacobian = Jacobian.at(bnn.model, jax.tree.map(lambda a: a[0], x))
    precision = jax.tree.leaves(bnn.prior.precisions(bnn.parameters))
    center = [jnp.zeros(leaf.size, leaf.dtype) for leaf in jacobian.leaves]
    weight = jnp.full(size, total / size, bnn.dtype)

    def part(number: int) -> Objective:
        at = slice(number * size, (number + 1) * size)
        own_x, own_y = jax.tree.map(lambda a: a[at], (x, y))
        return Objective(
            jacobian, bnn.likelihood, own_x, own_y, weight, precision, center
        )

    return [(part(2 * n), part(2 * n + 1)) for n in range(len(rows))]


def _check_losses(pairs: Sequence[Pair]) -> float:
    """What is rounding of a decrease; raises where a loss is not finite."""
    found = [standing(one) for pair in pairs for one in pair]
    for one in found:
        if not np.isfinite(one.loss):
            raise ValueError(
                f"probe: expected a finite loss, got {one.loss} an example on a batch: "
                "the network has diverged, or an input is out of range; nothing can be "
                "said about steps from here"
            )
    return max(one.rounding for one in found)


def _describe(count: int, size: int, total: int, shared: float) -> str:
    rows = f"{size} row{'' if size == 1 else 's'}"
    if not shared:
        return f"{count} disjoint pairs of {rows} each, of {total}"
    return (
        f"{count} pairs of {rows} each, drawn anew from the same {total}; intervals "
        f"are for a correlation of {shared:.2g}"
    )
