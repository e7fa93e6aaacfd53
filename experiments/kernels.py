"""Infinite-width kernels and posteriors: ntkuq beside neural-tangents, in one process.

Dense: three hidden ReLU layers, NNGP and NTK of 2 000 training and 1 000 test images of
Fashion-MNIST, posterior means and covariances over the test images under both.
Convolutional: five 3 x 3 convolutions with ReLU, flatten, dense; NNGP and NTK between
100 and 100 images. NTK parametrization, weight scale sqrt(2), bias scale 0.1. The truth
is the recursion in NumPy's long double, with exact diagonals.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ntkuq as nq
from experiments import pictures
from experiments.record import save
from ntkuq.kernels import bridge, cholesky
from ntkuq.linearize.triangular import self_product, solve_lower


WEIGHT, BIAS, NOISE = math.sqrt(2.0), 0.1, 0.1
HIDDEN, CONVOLUTIONS = 3, 5
BOTH = ("nngp", "ntk")
#: Images whose kernel is compared with the truth, dense and convolutional.
CHECKED, PICTURES = 200, 12


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Time and error of NNGP and NTK against neural-tangents."""

    train: int = 2_000
    """Training images of the dense task."""
    test: int = 1_000
    """Test images of the dense task."""
    images: int = 100
    """Images on each side of the convolutional task."""
    repeat: int = 5
    """Warm runs of each; the fastest counts."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document."""

    def execute(self) -> None:
        """Run all, print the table, write the document."""
        found = pictures.load("fashion_mnist")
        rows = []
        for dtype in ("float64", "float32"):
            with jax.enable_x64(dtype == "float64"):
                rows += [self.dense(found, dtype), self.convolutional(found, dtype)]
        print(markdown(rows))
        cores = len(os.sched_getaffinity(0))
        path = save(
            self.out / "kernels.json", "kernels", {"rows": rows, "cores": cores}
        )
        print(f"\nwritten {path}")

    def dense(self, found: pictures.Pictures, dtype: str) -> dict[str, Any]:
        """Kernels, means and covariances of the dense network."""
        x = jnp.asarray(found.x[: self.train].reshape(self.train, -1), dtype)
        new = jnp.asarray(found.x_test[: self.test].reshape(self.test, -1), dtype)
        y = jnp.asarray(np.eye(10)[found.y[: self.train]] - 0.1, dtype)
        covariances, kernel = own(dense_network, x), stax_dense()
        both = covariances[1].both

        @jax.jit
        def ours(x: Any, y: Any, new: Any) -> Any:
            pairs = ((x,), (new, x), (new,))
            kernels = [both(values(), *pair) for pair in pairs]
            return [posterior(*one, y) for one in zip(*kernels, strict=True)]

        @jax.jit
        def theirs(x: Any, y: Any, new: Any) -> Any:
            nt = bridge.load()
            train, cross = kernel(x, None, BOTH), kernel(new, x, BOTH)
            test = kernel(new, None, BOTH)
            predict = nt.predict.gp_inference(
                train, y, NOISE, diag_reg_absolute_scale=True
            )
            return predict(get=("nngp", "ntkgp"), k_test_train=cross, k_test_test=test)

        run = mixed(theirs)
        seconds = race(lambda: ours(x, y, new), lambda: run(x, y, new), self.repeat)
        truth = exact_dense(found.x[:CHECKED].reshape(CHECKED, -1))
        few = x[:CHECKED]
        other = mixed(kernel)(few, None, BOTH)
        return row("dense, posteriors", dtype, seconds, covariances, few, other, truth)

    def convolutional(self, found: pictures.Pictures, dtype: str) -> dict[str, Any]:
        """Kernels of the convolutional network."""
        x = jnp.asarray(found.x[: self.images, None], dtype)
        new = jnp.asarray(found.x_test[: self.images, None], dtype)
        covariances, kernel = own(convolutional_network, x), stax_convolution()

        @jax.jit
        def ours(x: Any, new: Any) -> Any:
            return covariances[1].both(values(), x, new)

        @jax.jit
        def theirs(x: Any, new: Any) -> Any:
            return tuple(kernel(last(x), last(new), BOTH))

        run = mixed(theirs)
        seconds = race(lambda: ours(x, new), lambda: run(x, new), self.repeat)
        few = x[:PICTURES]
        other = mixed(kernel)(last(few), None, BOTH)
        truth = exact_convolutional(found.x[:PICTURES])
        name = "convolutional, kernels"
        return row(name, dtype, seconds, covariances, few, other, truth)


def own(build: Callable, x: Any) -> list[Any]:
    """NNGP and NTK of ours."""
    bnn = nq.BNN(nq.Network(build), nq.Gaussian())
    kernel = nq.Analytic(WEIGHT, BIAS, ard=False)
    return [kernel.nngp(bnn, x, 1.0), kernel.ntk(bnn, x, 1.0)]


def values() -> dict[str, Any]:
    """Logarithms of the hyper-parameters."""
    logs = {"weight std": math.log(WEIGHT), "bias std": math.log(BIAS)}
    return {k: jnp.asarray(v) for k, v in (logs | {"input scale": 0.0}).items()}


def posterior(k: Any, cross: Any, test: Any, y: Any) -> tuple[Any, Any]:
    """Mean (M, C) and covariance (M, M)."""
    lower = cholesky(k + NOISE * jnp.eye(len(k), dtype=k.dtype)).lower
    both = jnp.concatenate([cross.T, y], axis=1)
    half = solve_lower(lower, both)
    half, scores = half[:, : len(test)], half[:, len(test) :]
    return half.T @ scores, test - self_product(half)


def dense_network(key: Any) -> Any:
    """Three hidden layers; only its layers matter."""
    return eqx.nn.MLP(784, 1, 2, HIDDEN, jax.nn.relu, key=key)


def convolutional_network(key: Any) -> Any:
    """Five convolutions of one channel; only its layers matter."""
    *keys, end = jax.random.split(key, CONVOLUTIONS + 1)
    layers: list[Any] = []
    for one in keys:
        layers.append(eqx.nn.Conv2d(1, 1, 3, padding=1, key=one))
        layers.append(eqx.nn.Lambda(jax.nn.relu))
    flat = eqx.nn.Lambda(jnp.ravel)
    return eqx.nn.Sequential([*layers, flat, eqx.nn.Linear(784, 1, key=end)])


def stax_dense() -> Any:
    """The same dense network in neural-tangents."""
    stax = bridge.load().stax
    layers = [stax.Dense(1, WEIGHT, BIAS), stax.Relu()] * HIDDEN
    return stax.serial(*layers, stax.Dense(1, WEIGHT, BIAS))[2]


def stax_convolution() -> Any:
    """The same convolutional network in neural-tangents."""
    stax = bridge.load().stax
    one = stax.Conv(1, (3, 3), padding="SAME", W_std=WEIGHT, b_std=BIAS)
    layers = [one, stax.Relu()] * CONVOLUTIONS
    return stax.serial(*layers, stax.Flatten(), stax.Dense(1, WEIGHT, BIAS))[2]


def last(x: Any) -> Any:
    """Channels last."""
    return jnp.moveaxis(x, 1, -1)


def mixed(function: Callable) -> Callable:
    """A function that may mix types, as neural-tangents does."""

    def run(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args)

    return run


def race(one: Callable, two: Callable, repeat: int) -> tuple[float, float]:
    """The fastest run of each, taken in turn after one that compiles."""
    jax.block_until_ready((one(), two()))
    best = [math.inf, math.inf]
    for _ in range(repeat):
        for n, run in enumerate((one, two)):
            start = time.perf_counter()
            jax.block_until_ready(run())
            best[n] = min(best[n], time.perf_counter() - start)
    return best[0], best[1]


def row(
    task: str,
    dtype: str,
    seconds: tuple[float, float],
    covariances: list[Any],
    few: Any,
    other: Any,
    truth: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """Times, and errors of the kernels relative to their largest entry."""

    def error(matrices: Any) -> float:
        pairs = zip(matrices, truth, strict=True)
        return max(float(np.abs(np.asarray(a) - b).max() / b.max()) for a, b in pairs)

    return {
        "task": task,
        "dtype": dtype,
        "seconds": seconds[0],
        "peer_seconds": seconds[1],
        "error": error([eqx.filter_jit(c.gram)(values(), few) for c in covariances]),
        "peer_error": error(other),
    }


def exact_dense(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K and Θ of images (N, D), in long double."""
    x = x.astype(np.longdouble)
    k = theta = WEIGHT**2 * x @ x.T / x.shape[1] + BIAS**2
    same = np.eye(len(x), dtype=bool)
    for _ in range(HIDDEN):
        expected, slopes = relu(k, np.diag(k)[:, None], np.diag(k), same)
        k = WEIGHT**2 * expected + BIAS**2
        theta = k + WEIGHT**2 * theta * slopes
    return k, theta


def exact_convolutional(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K and Θ of images (N, H, W), in long double."""
    x = x.astype(np.longdouble)
    same = np.eye(len(x), dtype=bool)[:, :, None, None]

    def means(values: np.ndarray) -> np.ndarray:
        high, wide = values.shape[-2:]
        padded = np.pad(values, [(0, 0), (0, 0), (1, 1), (1, 1)])
        parts = [
            padded[..., a : a + high, b : b + wide] for a in range(3) for b in range(3)
        ]
        return functools.reduce(np.add, parts) / 9

    k = theta = WEIGHT**2 * means(x[:, None] * x[None]) + BIAS**2
    for step in range(CONVOLUTIONS):
        own = np.moveaxis(np.diagonal(k), -1, 0)
        expected, slopes = relu(k, own[:, None], own[None], same)
        if step == CONVOLUTIONS - 1:
            k = WEIGHT**2 * expected.mean((-2, -1)) + BIAS**2
            return k, k + WEIGHT**2 * (theta * slopes).mean((-2, -1))
        k = WEIGHT**2 * means(expected) + BIAS**2
        theta = k + WEIGHT**2 * means(theta * slopes)
    raise AssertionError("expected a convolution")


def relu(k: Any, one: Any, two: Any, same: Any) -> tuple[Any, Any]:
    """E[relu relu'] and E[step step'] (Cho and Saul 2009); exact where `same`."""
    size = np.sqrt(one * two)
    rho = np.where(same, 1, np.clip(k / size, -1, 1))
    angle = np.pi - np.arccos(rho)
    expected = size * (np.sqrt((1 - rho) * (1 + rho)) + rho * angle) / (2 * np.pi)
    return expected, angle / (2 * np.pi)


COLUMNS = (
    "| task | precision | ntkuq, s | neural-tangents, s | ratio | error of ntkuq "
    "| of neural-tangents |"
)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [COLUMNS, "|---" * 7 + "|"]
    for one in rows:
        ratio = one["peer_seconds"] / one["seconds"]
        lines.append(
            f"| {one['task']} | {one['dtype']} | {one['seconds']:.3g} "
            f"| {one['peer_seconds']:.3g} | {ratio:.2f}× | {one['error']:.1e} "
            f"| {one['peer_error']:.1e} |"
        )
    return "\n".join(lines)
