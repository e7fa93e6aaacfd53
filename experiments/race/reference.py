"""The truth in float64: textbook formulas in plain JAX and NumPy, nothing of ntkuq.

`python -m experiments.race.reference --problem mlp --inputs … --out …` writes the
arrays that the contestants are compared with, each named `task/array`. Concrete, the
last layer, and the tangent kernels come from explicit Jacobians; KFAC and the diagonal
from explicit sums over layers, which define them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from experiments.race.peers import clock


#: Examples in one piece.
CHUNK = 250
#: Pieces whose rows are decomposed together.
QR_CHUNKS = 8
#: Examples of the tangent kernels that are compared.
BLOCK = 20
#: Examples of the products.
PRODUCT = 1_000

Params = list[tuple[Array, Array]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problem", required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    arrays = clock.load(given.inputs)
    with jax.enable_x64(True):
        found = MAKERS[given.problem](arrays)
        plain = {name: np.asarray(value) for name, value in found.items()}
    clock.store(given.out, plain)


def parameters(arrays: dict[str, np.ndarray]) -> Params:
    count = sum(name.startswith("w") for name in arrays)
    return [
        (jnp.asarray(arrays[f"w{n}"]), jnp.asarray(arrays[f"b{n}"]))
        for n in range(count)
    ]


def network(params: Params, x: Array, activation: Callable, deltas=None):
    """Outputs (N, C), and what each layer multiplies: (N, T, I), T positions."""
    inputs = []
    for number, (weight, bias) in enumerate(params):
        if weight.ndim == 4:
            x, patches = convolution(x, weight, bias, padding=2 if number == 0 else 0)
            inputs.append(patches)
        else:
            x = x.reshape(len(x), -1)
            inputs.append(x[:, None])
            x = x @ weight.T + bias
        if deltas is not None:
            x = x + deltas[number]
        if number < len(params) - 1:
            x = activation(x)
        if weight.ndim == 4:
            x = pool(x)
    return x, inputs


def convolution(x: Array, weight: Array, bias: Array, padding: int):
    size = weight.shape[-1]
    pads = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    x = jnp.pad(x, pads)
    side = x.shape[-1] - size + 1
    windows = [
        x[:, :, i : i + side, j : j + side] for i in range(size) for j in range(size)
    ]
    # (N, channels, size^2, side, side) -> (N, positions, channels * size^2)
    patches = jnp.stack(windows, axis=2).reshape(len(x), -1, side * side)
    patches = jnp.swapaxes(patches, 1, 2)
    out = patches @ weight.reshape(len(weight), -1).T + bias
    return jnp.moveaxis(out, 2, 1).reshape(len(x), -1, side, side), patches


def pool(x: Array) -> Array:
    n, c, side, _ = x.shape
    return x.reshape(n, c, side // 2, 2, side // 2, 2).mean((3, 5))


def log_likelihood(f: Array, y: Array) -> Array:
    return jnp.sum(jax.nn.log_softmax(f)[jnp.arange(len(y)), y])


def explicit(f: Callable, params: Params, x: Array) -> Array:
    """The Jacobian (N C, P), rows ordered (n, c)."""
    flat, unravel = ravel_pytree(params)
    j = jax.jacrev(lambda v: f(unravel(v), x))(flat)
    return j.reshape(-1, flat.size)


def concrete(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    params = parameters(arrays)

    def f(params, x):
        return network(params, x, jnp.tanh)[0]

    theta, _ = ravel_pytree(params)
    x, x_test, y = (jnp.asarray(arrays[name]) for name in ("x", "x_test", "y"))
    j, j_test = explicit(f, params, x), explicit(f, params, x_test)
    residual = y - f(params, x)[:, 0]
    misfit, norm, n = float(residual @ residual), float(theta @ theta), len(y)
    values = np.linalg.eigvalsh(np.asarray(j @ j.T)).clip(0)

    def evidence(log_delta: float, log_sigma: float) -> float:
        delta, variance = np.exp(log_delta), np.exp(2 * log_sigma)
        fit = -0.5 * n * np.log(2 * np.pi * variance) - 0.5 * misfit / variance
        occam = np.log1p(values / (delta * variance)).sum()
        return fit - 0.5 * delta * norm - 0.5 * occam

    precision = jnp.eye(len(theta)) + j.T @ j / 0.09
    half = lax.linalg.triangular_solve(
        jnp.linalg.cholesky(precision), j_test.T, left_side=True, lower=True
    )
    best = minimize(lambda z: -evidence(*z), np.zeros(2), options={"gtol": 1e-9})
    found = {
        "T4_full/logev": -best.fun,
        "T4_full/log_delta": best.x[0],
        "T4_full/log_sigma": best.x[1],
    }
    for task in ("T1_f64", "T1_f32"):
        found[f"{task}/mean"] = f(params, x_test)[:, 0]
        found[f"{task}/cov"] = half.T @ half
        found[f"{task}/logev"] = evidence(0.0, np.log(0.3))
    return found


def classes(arrays: dict[str, np.ndarray], tasks: tuple[str, str]) -> dict[str, Array]:
    """KFAC, diagonal and last layer of a softmax network, prior precision 1."""
    params = parameters(arrays)
    y = jnp.asarray(arrays["y"])
    n = len(y)
    # sums over the data
    pairs = [
        (np.zeros((w.shape[0],) * 2), np.zeros((w[0].size,) * 2)) for w, _ in params
    ]
    biases = [np.zeros((len(w),) * 2) for w, _ in params]
    diagonal = [(np.zeros((len(w), w[0].size)), np.zeros(len(w))) for w, _ in params]
    side = params[-1][0].size + params[-1][1].size
    # R of I + J^T H J = R^T R: a sum of products would square the condition number
    triangle, waiting = np.eye(side), []
    fit = 0.0
    for rows, f, layers in pieces(params, arrays["x"]):
        root = square_root(f)
        fit += float(log_likelihood(f, y[rows]))
        for number, (a, g) in enumerate(layers):
            r = jnp.einsum("ncd,ncto->ndto", root, g)
            flat = r.reshape(-1, r.shape[-1])
            pairs[number] = (
                pairs[number][0] + flat.T @ flat,
                pairs[number][1] + jnp.einsum("nti,ntj->ij", a, a) / (n * a.shape[1]),
            )
            shared = jnp.sum(r, 2).reshape(-1, r.shape[-1])
            biases[number] = biases[number] + shared.T @ shared
            weight, bias = diagonal[number]
            weight = weight + squares(a, r)
            diagonal[number] = weight, bias + jnp.sum(jnp.sum(r, 2) ** 2, (0, 1))
        a, r = layers[-1][0][:, 0], root  # f is the last layer's output
        weights = jnp.einsum("ni,ncd->ndci", a, r)
        rows_last = jnp.concatenate(
            [
                weights.reshape(-1, r.shape[1] * a.shape[1]),
                jnp.swapaxes(r, 1, 2).reshape(-1, r.shape[1]),
            ],
            axis=1,
        )
        waiting.append(np.asarray(rows_last))
        if len(waiting) == QR_CHUNKS:
            triangle, waiting = triangular([triangle, *waiting]), []
    triangle = triangular([triangle, *waiting])
    eigen = [tuple(np.linalg.eigh(np.asarray(m)) for m in pair) for pair in pairs]
    # a bias met at several positions: as KFAC-expand has it, or its exact block
    expand = [left for left, _ in eigen]
    exact = [tuple(np.linalg.eigh(np.asarray(block))) for block in biases]
    parts = {"mean": [], "kron": [], "exact": [], "diag": [], "lastlayer": []}
    for _, f, layers in pieces(params, arrays["x_test"]):
        parts["mean"].append(f)
        weights = sum(map(weight_covariance, layers, eigen))
        parts["kron"].append(weights + sum(map(bias_covariance, layers, expand)))
        parts["exact"].append(weights + sum(map(bias_covariance, layers, exact)))
        parts["diag"].append(sum(map(diag_covariance, layers, diagonal)))
        a = layers[-1][0][:, 0]
        basis = jnp.broadcast_to(jnp.eye(f.shape[1]), (len(a), *(f.shape[1],) * 2))
        j = jnp.concatenate(
            [jnp.einsum("ni,ncd->ncdi", a, basis).reshape(*basis.shape[:2], -1), basis],
            axis=2,
        )
        flat = np.asarray(j.reshape(-1, side)).T
        half = solve_triangular(triangle, flat, trans="T")
        half = half.T.reshape(*j.shape)
        parts["lastlayer"].append(np.einsum("ncp,ndp->ncd", half, half))
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    norm = sum(float(jnp.sum(w**2) + jnp.sum(b**2)) for w, b in params)
    small = float(sum(jnp.sum(leaf**2) for leaf in params[-1]))
    of_weights = [np.outer(*(m[0].clip(0) for m in pair)).ravel() for pair in eigen]
    spectra = {
        name: np.concatenate([*of_weights, *(values.clip(0) for values, _ in blocks)])
        for name, blocks in (("kron", expand), ("exact", exact))
    }
    diag = np.concatenate([np.ravel(m) for pair in diagonal for m in pair])
    log_dets = {
        **{name: np.log1p(values).sum() for name, values in spectra.items()},
        "diag": np.log1p(diag).sum(),
        "lastlayer": 2 * np.log(np.abs(np.diagonal(triangle))).sum(),
    }
    found = {}
    for task in tasks:
        points = 50 if "f64" in task else None
        for name, log_det in log_dets.items():
            quadratic = small if name == "lastlayer" else norm
            stem = f"{task}_{name}/"
            if name == "exact":  # the second convention of the same task
                stem = f"{task}_kron/exact-"
            found[f"{stem}mean"] = joined["mean"][:points]
            found[f"{stem}cov"] = joined[name][:points]
            found[f"{stem}logev"] = fit - 0.5 * quadratic - 0.5 * log_det
    best = minimize(
        lambda z: (
            0.5 * np.exp(z[0]) * norm
            + 0.5 * np.log1p(spectra["kron"] / np.exp(z[0])).sum()
        ),
        np.zeros(1),
        options={"gtol": 1e-9},
    )
    found["T4_kron/logev"] = fit - best.fun
    found["T4_kron/log_delta"] = best.x[0]
    return found


def triangular(rows: list[np.ndarray]) -> np.ndarray:
    """R of the rows below one another."""
    return np.linalg.qr(np.concatenate(rows), mode="r")


def pieces(params: Params, x: np.ndarray) -> Iterator[tuple]:
    """Rows, outputs, and (inputs (N, T, I), output gradients (N, C, T, O)) a layer."""
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        f, layers = taps(params, jnp.asarray(x[rows], jnp.float64))
        yield rows, f, layers


@jax.jit
def taps(params: Params, x: Array):
    shapes = jax.eval_shape(lambda: outputs_of_layers(params, x))
    zeros = [jnp.zeros(shape.shape) for shape in shapes]

    def run(deltas):
        return network(params, x, jax.nn.relu, deltas)

    f, pull, inputs = jax.vjp(run, zeros, has_aux=True)
    seeds = jnp.broadcast_to(jnp.eye(f.shape[1])[:, None], (f.shape[1], *f.shape))
    (gradients,) = jax.vmap(pull)(seeds)
    layers = []
    for a, g in zip(inputs, gradients, strict=True):
        g = jnp.swapaxes(g.reshape(*g.shape[:3], -1), 2, 3)  # (C, N, T, O)
        layers.append((a, jnp.swapaxes(g, 0, 1)))
    return f, layers


def outputs_of_layers(params: Params, x: Array) -> list[Array]:
    found = []
    for number, (weight, bias) in enumerate(params):
        if weight.ndim == 4:
            x, _ = convolution(x, weight, bias, padding=2 if number == 0 else 0)
            found.append(x)
            x = pool(x)
        else:
            x = x.reshape(len(x), -1) @ weight.T + bias
            found.append(x)
    return found


def square_root(f: Array) -> Array:
    p = jax.nn.softmax(f)
    return jax.vmap(jnp.diag)(jnp.sqrt(p)) - p[:, :, None] * jnp.sqrt(p)[:, None]


def squares(a: Array, r: Array) -> Array:
    """sum_nd J_doi^2 of a weight: (O, I)."""
    if a.shape[1] == 1:
        return jnp.sum(r[:, :, 0] ** 2, 1).T @ a[:, 0] ** 2
    return jnp.sum(jnp.einsum("nti,ndto->ndoi", a, r) ** 2, (0, 1))


def weight_covariance(layer: tuple, eigen: tuple) -> Array:
    (a, g), ((left, u), (right, v)) = layer, eigen
    scale = 1.0 / (1.0 + jnp.outer(left.clip(0), right.clip(0)))
    return weighed(a @ v, g @ u, scale)


def bias_covariance(layer: tuple, eigen: tuple) -> Array:
    (_, g), (values, vectors) = layer, eigen
    bias = jnp.sum(g, 2) @ vectors
    return jnp.einsum("nco,ndo,o->ncd", bias, bias, 1.0 / (1.0 + values.clip(0)))


def diag_covariance(layer: tuple, diagonal: tuple) -> Array:
    a, g = layer
    bias = jnp.sum(g, 2)
    total = jnp.einsum("nco,ndo,o->ncd", bias, bias, 1.0 / (1.0 + diagonal[1]))
    return total + weighed(a, g, 1.0 / (1.0 + diagonal[0]))


def weighed(a: Array, g: Array, scale: Array) -> Array:
    """sum_oi scale_oi J_coi J_doi."""
    if a.shape[1] == 1:
        weights = a[:, 0] ** 2 @ scale.T
        return jnp.einsum("nco,ndo,no->ncd", g[:, :, 0], g[:, :, 0], weights)
    j = jnp.einsum("nti,ncto->ncoi", a, g)
    return jnp.einsum("ncoi,ndoi,oi->ncd", j, j, scale)


def kernels(arrays: dict[str, np.ndarray], tasks: tuple[str, ...]) -> dict[str, Array]:
    """Dense tangent kernels of the first examples."""
    params = parameters(arrays)
    x = jnp.asarray(arrays["x_ntk"][:BLOCK], jnp.float64)
    j = explicit(lambda p, x: network(p, x, jax.nn.relu)[0], params, x)
    whole = j @ j.T
    outputs = len(whole) // len(x)
    blocks = whole.reshape(len(x), outputs, len(x), outputs)
    found = {}
    for task in tasks:
        mean = jnp.einsum("ncmc->nm", blocks) / outputs
        found[f"{task}/ntk"] = mean if task == "T5_trace" else whole
    return found


def products(arrays: dict[str, np.ndarray]) -> dict[str, Array]:
    """Gradient, Gauss-Newton product and Kronecker factors of the mean loss."""
    params = parameters(arrays)
    x = jnp.asarray(arrays["x"][:PRODUCT], jnp.float64)
    y = jnp.asarray(arrays["y"][:PRODUCT])
    n = len(y)

    def f(params):
        return network(params, x, jax.nn.relu)[0]

    grad = jax.grad(lambda p: -log_likelihood(f(p), y) / n)(params)
    vector = jax.tree.map(lambda leaf: jnp.sin(jnp.arange(1.0 * leaf.size)), params)
    vector = jax.tree.map(lambda v, leaf: v.reshape(leaf.shape), vector, params)
    out, tangent = jax.jvp(f, (params,), (vector,))
    p = jax.nn.softmax(out)
    curved = p * tangent - p * jnp.sum(p * tangent, 1, keepdims=True)
    (product,) = jax.vjp(f, params)[1](curved / n)
    factors = []
    f_all, layers = taps(params, x)
    root = square_root(f_all)
    for a, g in layers:
        r = jnp.einsum("ncd,ncto->ndto", root, g)
        flat, rows = r.reshape(-1, r.shape[-1]), a.reshape(-1, a.shape[-1])
        factors += [flat.T @ flat / n, rows.T @ rows / n]

    def ravel(tree) -> Array:
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    found = {"T9_kfac/factors": ravel(factors), "T9_ggnvp/ggnv": ravel(product)}
    for task in ("T9_kfac", "T9_ggnvp", "T9_fisher"):
        found[f"{task}/grad"] = ravel(grad)
    return found


MAKERS = {
    "concrete": concrete,
    "mlp": lambda arrays: classes(arrays, ("T2", "T2f64")) | products(arrays),
    "cnn": lambda arrays: (
        classes(arrays, ("T3", "T3f64")) | kernels(arrays, ("T5_cnn",))
    ),
    "ntk": lambda arrays: kernels(arrays, ("T5_trace", "T5_full")),
}


if __name__ == "__main__":
    main()
