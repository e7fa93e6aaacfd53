"""How far a trained network is from its linearization where training began."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.kernels.solvers.memory import need_memory
from ntkuq.linearize import Jacobian, gram, push
from ntkuq.models import BNN, Train, parameters
from ntkuq.posteriors.laplace import KFAC, Full, Laplace
from ntkuq.posteriors.map import FULL_LIMIT


#: Held-out subsets on which the kernels are compared, and rows in one.
SUBSETS, LEAST, MOST = 8, 8, 64
#: How a network is trained where nothing else is said.
TRAIN = Train()


def subsets_of(data: Dataset, key: Array) -> list[Dataset]:
    """Disjoint random subsets of equal size."""
    count = min(SUBSETS, len(data) // LEAST)
    if count < 2:
        raise ValueError(
            f"regime: expected at least {2 * LEAST} test inputs, got {len(data)}"
        )
    size = min(MOST, len(data) // count)
    rows = np.asarray(jax.random.permutation(key, len(data)))
    return [data.take(rows[n * size : (n + 1) * size]) for n in range(count)]


def need_kernels(bnn: BNN, subsets: list[Dataset]) -> None:
    """Refuse kernels of a subset that do not fit into memory.

    Raises:
        MemoryError: then.
    """
    size, outputs = len(subsets[0]), bnn.outputs(subsets[0])
    need_memory(
        # both kernels, their difference and the covariance, with work space, float64
        6 * 8.0 * (size * outputs) ** 2,
        f"regime: kernels of {size} test inputs × {outputs} outputs",
        f"give fewer test inputs, at least {2 * LEAST}; {LEAST} are enough for a "
        "subset, but fewer subsets give a wider interval",
    )


def check_pair(initial: PyTree, bnn: BNN) -> None:
    """Raise `ValueError` where the two networks have other parameters."""
    found = [leaf.shape for leaf in jax.tree.leaves(parameters(initial))]
    expected = [leaf.shape for leaf in jax.tree.leaves(bnn.parameters)]
    if found != expected:
        raise ValueError(
            "regime: expected `initial` to be the network at the start of training, "
            f"with parameters of shapes {expected}, got {found}"
        )


def measure(
    bnn: BNN, initial: PyTree, train: Dataset, subsets: list[Dataset]
) -> np.ndarray:
    """The numbers of `Regime` on each subset, (subsets, 6), in the order of its fields.

    Args:
        bnn: with the trained network.
        initial: where its training began.
        train: what it was trained on, in the units of the data.
        subsets: held-out data.
    """
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
) -> tuple[Array, Array, Array, Array, Array, Array]:
    old, new = before.factors(x), after.factors(x)
    moved = [
        (b - a).reshape(-1) for a, b in zip(before.leaves, after.leaves, strict=True)
    ]
    error = new.outputs - old.outputs - push(old, moved)
    change = new.outputs - old.outputs
    ones = [jnp.ones((), std.dtype) for _ in moved]
    kernel_old, kernel_new = gram(old, old, ones), gram(new, new, ones)
    # 1 - cos = |u - v|^2 / 2 for unit u and v, which loses nothing where both are equal
    apart = kernel_new / jnp.linalg.norm(kernel_new)
    apart = apart - kernel_old / jnp.linalg.norm(kernel_old)
    return (
        jnp.sqrt(jnp.mean((error * factor / std) ** 2)),
        jnp.linalg.norm(error) / jnp.linalg.norm(change),
        jnp.linalg.norm(kernel_new - kernel_old) / jnp.linalg.norm(kernel_old),
        _alignment(jnp.einsum("ncmc->nm", kernel_new), y),
        _alignment(jnp.einsum("ncmc->nm", kernel_old), y),
        0.5 * jnp.sum(apart**2),
    )


def _alignment(kernel: Float[Array, "N N"], y: Float[Array, "N D"]) -> Array:
    """<H K H, Y Y^T> / (|H K H| |Y Y^T|) with centered Y and H = I - 1/N."""
    y = y - jnp.mean(y, axis=0)
    kernel = kernel - jnp.mean(kernel, axis=0)
    kernel = kernel - jnp.mean(kernel, axis=1, keepdims=True)
    target = y @ y.T
    norms = jnp.linalg.norm(kernel) * jnp.linalg.norm(target)
    return jnp.sum(kernel * target) / norms
