"""Measure whether a network trains in the kernel regime."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.calibration.means import mean_score
from ntkuq.data import Dataset, Split
from ntkuq.linearize import Jacobian, gram, push
from ntkuq.models import BNN, Train, parameters
from ntkuq.optimization.records import Regime
from ntkuq.posteriors.laplace import KFAC, Full, Laplace
from ntkuq.posteriors.map import FULL_LIMIT


#: Held-out subsets on which the kernels are compared, and rows in one.
SUBSETS, LEAST, MOST = 8, 8, 64
#: How a network is trained where nothing else is said.
TRAIN = Train()


def regime(
    bnn: BNN,
    data: Split,
    *,
    initial: PyTree | None = None,
    train: Train = TRAIN,
    seeds: int = 5,
    key: Array,
) -> Regime:
    """Compare the trained network with its linearization where training began.

    With `initial` the pair (initial, the trained network of `bnn`) is measured, and the
    intervals say how far the numbers vary over subsets of the test inputs. Without, the
    network is built and trained anew for each seed, and they say how far it varies over
    initialization and training. Up to 8 subsets of 8 to 64 test inputs are used, in
    float64.

    Args:
        bnn: network, likelihood, prior, scaling.
        data: `data.train` is what it trains on; the comparison is at `data.test`.
        initial: the module at which training of `bnn`'s network began.
        train: how to train, where `initial` is not given.
        seeds: number of trainings, where `initial` is not given.
        key: chooses the subsets; initializes and trains.

    Returns:
        Numbers with intervals, claims, and a verdict.

    Raises:
        ValueError: for fewer than 16 test inputs or 2 seeds; without `initial`, for a
            network without a builder; with it, for an untrained network, or one whose
            parameters have other shapes.
        TrainingError: where training diverges.

    >>> import equinox as eqx, jax, numpy as np
    >>> from ntkuq.data import Dataset, Split
    >>> from ntkuq.models import Gaussian
    >>> x = np.linspace(-1, 1, 40)[:, None]
    >>> data = Dataset(x, 2 * x[:, 0])
    >>> start = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> end = eqx.tree_at(lambda m: m.weight, start, 2.0 * np.ones((1, 1), np.float32))
    >>> split = Split(data.take(range(20)), None, data.take(range(20, 40)))
    >>> found = regime(
    ...     BNN(end, Gaussian()), split, initial=start, key=jax.random.key(1)
    ... )
    >>> round(found.kernel_change.value, 6), found.verdict[:21]
    (0.0, 'In the kernel regime.')
    """
    bnn = bnn.prepare(data.train)
    bnn.need_common_noise("regime")
    choose, *keys = jax.random.split(key, 1 + seeds)
    subsets = _subsets(data.test, choose)
    if initial is not None:
        _check_pair(initial, bnn)
        pair = _measure(bnn, initial, data.train, subsets)
        return _record(pair, "subsets")
    if seeds < 2:
        raise ValueError(f"regime: expected seeds >= 2 for an interval, got {seeds}")
    means = []
    for now in keys:
        first, steps = jax.random.split(now)
        model = bnn.network.init(first)
        # the network's dtype is known once there is one
        begun = bnn.with_model(model)
        x, y = begun.inputs(data.train.x), begun.targets(data.train)
        trained = train.run(begun, model, x, y, key=steps).model
        values = _measure(bnn.with_model(trained), model, data.train, subsets)
        means.append(np.mean(values, axis=0))
    return _record(np.asarray(means), "seeds")


def _record(values: np.ndarray, over: str) -> Regime:
    """Means over the rows of `values`, (subsets or seeds, 5)."""
    return Regime(*[mean_score(column) for column in values.T], over=over)


def _subsets(data: Dataset, key: Array) -> list[Dataset]:
    """Disjoint random subsets of equal size."""
    count = min(SUBSETS, len(data) // LEAST)
    if count < 2:
        raise ValueError(
            f"regime: expected at least {2 * LEAST} test inputs, got {len(data)}"
        )
    size = min(MOST, len(data) // count)
    rows = np.asarray(jax.random.permutation(key, len(data)))
    return [data.take(rows[n * size : (n + 1) * size]) for n in range(count)]


def _check_pair(initial: PyTree, bnn: BNN) -> None:
    found = [leaf.shape for leaf in jax.tree.leaves(parameters(initial))]
    expected = [leaf.shape for leaf in jax.tree.leaves(bnn.parameters)]
    if found != expected:
        raise ValueError(
            "regime: expected `initial` to be the network at the start of training, "
            f"with parameters of shapes {expected}, got {found}"
        )


def _measure(
    bnn: BNN, initial: PyTree, train: Dataset, subsets: list[Dataset]
) -> np.ndarray:
    """The five numbers of `Regime` on each subset, (subsets, 5)."""
    side = min(bnn.size(), len(train) * bnn.outputs(train))
    structure = Full() if side <= FULL_LIMIT else KFAC()
    # `key` is not used by Laplace
    posterior = Laplace(structure).fit(bnn, train, key=jax.random.key(0))
    example = jax.tree.map(lambda a: a[0], bnn.inputs(train.take([0]).x))
    rows = []
    with jax.enable_x64(True):
        before, after = [
            Jacobian.at(eqx.nn.inference_mode(model), example).cast(np.dtype(float))
            for model in (initial, bnn.model)
        ]
        for part in subsets:
            variance = np.diagonal(np.asarray(posterior.joint(part.x).covariance))
            x = bnn.inputs(part.x, np.dtype(float))
            y = _alignment_targets(bnn, part)
            values = _compare(before, after, x, y, *_scales(bnn, variance, len(part)))
            rows.append([float(value) for value in values])
    return np.asarray(rows)


def _scales(bnn: BNN, variance: np.ndarray, n: int) -> tuple[Array, Array]:
    """Factor (C,) from network outputs to units of the data, and std (N, C) there."""
    std = jnp.sqrt(jnp.asarray(variance, jnp.float64)).reshape(n, -1)
    loc = jnp.asarray(bnn.scaling.loc(), jnp.float64)
    scale = jnp.asarray(bnn.scaling.scale(), jnp.float64)
    return bnn.likelihood.shift(jnp.zeros_like(std), loc, scale)[1], std


def _alignment_targets(bnn: BNN, data: Dataset) -> Float[Array, "N D"]:
    y = np.asarray(data.y)
    if bnn.likelihood.classes and y.ndim > 1:
        raise ValueError(
            "regime: expected one class code an example, got targets of shape "
            f"{y.shape[1:]} each: measure a network with one label"
        )
    if bnn.likelihood.classes:
        return jnp.asarray(np.eye(int(y.max()) + 1)[y])
    return jnp.asarray(y, jnp.float64).reshape(len(y), -1)


@eqx.filter_jit
def _compare(
    before: Jacobian,
    after: Jacobian,
    x: PyTree,
    y: Float[Array, "N D"],
    factor: Float[Array, " C"],
    std: Float[Array, "N C"],
) -> tuple[Array, Array, Array, Array, Array]:
    old, new = before.factors(x), after.factors(x)
    moved = [
        (b - a).reshape(-1) for a, b in zip(before.leaves, after.leaves, strict=True)
    ]
    error = new.outputs - old.outputs - push(old, moved)
    change = new.outputs - old.outputs
    ones = [jnp.ones((), std.dtype) for _ in moved]
    kernel_old, kernel_new = gram(old, old, ones), gram(new, new, ones)
    return (
        jnp.sqrt(jnp.mean((error * factor / std) ** 2)),
        jnp.linalg.norm(error) / jnp.linalg.norm(change),
        jnp.linalg.norm(kernel_new - kernel_old) / jnp.linalg.norm(kernel_old),
        _alignment(jnp.einsum("ncmc->nm", kernel_new), y),
        _alignment(jnp.einsum("ncmc->nm", kernel_old), y),
    )


def _alignment(kernel: Float[Array, "N N"], y: Float[Array, "N D"]) -> Array:
    """<H K H, Y Y^T> / (|H K H| |Y Y^T|) with centered Y and H = I - 1/N."""
    y = y - jnp.mean(y, axis=0)
    kernel = kernel - jnp.mean(kernel, axis=0)
    kernel = kernel - jnp.mean(kernel, axis=1, keepdims=True)
    target = y @ y.T
    norms = jnp.linalg.norm(kernel) * jnp.linalg.norm(target)
    return jnp.sum(kernel * target) / norms
