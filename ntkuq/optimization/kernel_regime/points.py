"""The training inputs at which kernels are taken, in float64."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.calibration import Score
from ntkuq.calibration.means import mean_score, student
from ntkuq.data import Dataset
from ntkuq.kernels.solvers.memory import need_memory
from ntkuq.linearize import Jacobian
from ntkuq.models import BNN, Categorical, NoisyTargets, parameters
from ntkuq.optimization.kernel_regime.study import Run, Setting


#: Sides N·C of the kernels where nothing else is said; one pair is measured on so many
#: disjoint subsets, each of at least so many inputs.
SIDE, SUBSETS, LEAST = 64, 5, 16


class Points(NamedTuple):
    """Some training inputs and the networks at them.

    Args:
        run: the networks.
        jacobian: where training began, in float64.
        x: network inputs, (N, …).
        part: the data, in their own units.
    """

    run: Run
    jacobian: Jacobian
    x: PyTree
    part: Dataset

    def at(self, model: PyTree) -> Jacobian:
        """The Jacobian of this network instead."""
        leaves = [
            leaf.astype(jnp.float64) for leaf in jax.tree.leaves(parameters(model))
        ]
        return Jacobian(
            self.jacobian.replace(leaves), self.jacobian.plan, self.jacobian.subset
        )


class Sample(NamedTuple):
    """Points for each unit over which an interval is: a seed, or a subset.

    Args:
        units: at least two.
        repeated: rows of the training data whose inputs stand in an earlier row too.
        outputs: C.
    """

    units: tuple[Points, ...]
    repeated: int
    outputs: int

    @property
    def inputs(self) -> int:
        """Inputs in a unit, N."""
        return len(self.units[0].part)

    @property
    def side(self) -> int:
        """The side of a kernel, N·C."""
        return self.inputs * self.outputs

    @property
    def words(self) -> str:
        """How many points, for a note."""
        return f"{self.inputs} training inputs × {self.outputs} outputs"

    def need_copies(self, count: int, fewer: str) -> None:
        """Refuse where so many copies of the parameters do not fit into memory.

        Raises:
            MemoryError: then; `fewer` says what to take.
        """
        size = self.units[0].jacobian.size
        need_memory(
            8.0 * count * size,
            f"{count} copies of {size} parameters in float64",
            f"take {fewer}",
        )


def sample(setting: Setting, points: int | None, *, key: Array) -> Sample:
    """Random distinct training inputs, others for each seed.

    Args:
        setting: with at least one run.
        points: inputs N of a kernel; `None` for N·C ≤ 64, but 16 at least.
        key: chooses them.

    Raises:
        ValueError: with fewer than 2 inputs for a kernel, or for one pair too few for
            two subsets.
        MemoryError: where a kernel does not fit into memory.
    """
    data, runs = setting.data.train, setting.runs
    bnn = setting.bnn.with_model(runs[0].initial)
    outputs = bnn.outputs(data)
    rows = first_rows(data.x)
    limit = max(SIDE // outputs, LEAST) if points is None else points
    if len(runs) == 1:
        parts = min(SUBSETS, len(rows) // LEAST)
        if parts < 2:
            raise ValueError(
                f"expected at least {2 * LEAST} different training inputs for an "
                f"interval over subsets, got {len(rows)}"
            )
        size = min(limit, len(rows) // parts)
        order = np.asarray(jax.random.permutation(key, len(rows)))
        chosen = [order[n * size : (n + 1) * size] for n in range(parts)]
    else:
        size = min(limit, len(rows))
        chosen = [
            np.asarray(jax.random.permutation(one, len(rows)))[:size]
            for one in jax.random.split(key, len(runs))
        ]
    if size < 2:
        raise ValueError(f"expected at least 2 different training inputs, got {size}")
    need_memory(
        # kernel, factor, eigenvectors, work space, float64
        6 * 8.0 * (size * outputs) ** 2,
        f"a kernel of {size} inputs × {outputs} outputs",
        "take fewer points=…; the smallest eigenvalue then is that of fewer inputs, "
        "which is larger",
    )
    example = jax.tree.map(lambda a: a[0], bnn.inputs(data.take([0]).x))
    units = []
    with jax.enable_x64(True):
        base = Jacobian.at(eqx.nn.inference_mode(runs[0].initial), example)
        base = base.cast(np.dtype(float))
        for number, now in enumerate(chosen):
            run = runs[min(number, len(runs) - 1)]
            part = data.take(rows[now])
            one = Points(run, base, bnn.inputs(part.x, np.dtype(float)), part)
            units.append(one._replace(jacobian=_begun(base, run.initial)))
    return Sample(tuple(units), len(data) - len(rows), outputs)


def _begun(base: Jacobian, model: PyTree) -> Jacobian:
    """The Jacobian of another network of this architecture.

    Its static part is that of the first, so that programs compile once.
    """
    arrays, _ = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)
    _, static = eqx.partition(base.model, eqx.is_array)
    model = eqx.combine(arrays, static)
    return Jacobian(model, base.plan, base.subset).cast(np.dtype(float))


def first_rows(x: PyTree) -> Int[np.ndarray, " M"]:
    """The first row of each different input, in increasing order.

    Rows are the same where their bytes are (0 and -0 count as one).

    >>> first_rows(np.array([[1.0], [0.0], [1.0], [-0.0]])).tolist()
    [0, 1]
    """
    columns = []
    for leaf in jax.tree.leaves(x):
        values = np.ascontiguousarray(np.asarray(leaf) + 0)
        values = values.reshape(len(values), -1).view(np.uint8)
        columns.append(values)
    rows = np.ascontiguousarray(np.concatenate(columns, axis=1))
    whole = rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]
    return np.sort(np.unique(whole, return_index=True)[1])


def squared_targets(bnn: BNN, part: Dataset) -> Float[Array, "N C"]:
    """The targets of squared error: scaled values, or one-hot codes of classes.

    Raises:
        ValueError: where the outputs of the network are not those of squared error.
    """
    likelihood = bnn.likelihood
    outputs = bnn.outputs(part)
    if isinstance(likelihood, Categorical):
        return jnp.eye(outputs, dtype=jnp.float64)[np.asarray(part.y)]
    if likelihood.classes and outputs == 1 and np.ndim(part.y) == 1:
        return jnp.asarray(np.asarray(part.y, float))[:, None]
    if likelihood.continuous:
        y = bnn.targets(part, np.dtype(float))
        if not isinstance(y, NoisyTargets) and y.shape[-1] == outputs:
            return y
    raise ValueError(
        "the theory is about squared error: expected one output for each real target, "
        f"or one label for each example, got {type(likelihood).__name__} with "
        f"{outputs} outputs"
    )


def geometric_score(values: np.ndarray) -> Score:
    """The geometric mean of positive numbers, with a t interval of its logarithm."""
    logs = np.log(values)
    mean = mean_score(logs)
    if mean.interval is None or mean.se is None:
        return Score(float(np.exp(mean.value)), None, mean.n, None)
    value, half = float(np.exp(mean.value)), student(mean.n) * mean.se
    ends = float(np.exp(mean.value - half)), float(np.exp(mean.value + half))
    return Score(value, value * mean.se, mean.n, ends)
