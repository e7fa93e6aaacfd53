"""ntkuq's own runs: `python -m experiments.race.ntkuq_tasks --task T2_kron …`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import metadata

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ntkuq as nq
from experiments.race.networks import from_arrays
from experiments.race.peers import clock
from ntkuq import linearize


#: Examples whose block of the tangent kernel is compared with the dense one.
BLOCK = 20
#: Products that are timed together.
TIMES = 20

Work = Callable[[clock.Laps], dict[str, np.ndarray]]

STRUCTURES = {
    "kron": (nq.KFAC(), nq.All()),
    "diag": (nq.Diagonal(), nq.All()),
    "lastlayer": (nq.Full(), nq.LastLayer()),
}


def main() -> None:
    given = clock.arguments()
    with jax.enable_x64("f64" in given.task or given.task == "T4_full"):
        clock.run(
            given,
            build(given),
            {name: metadata.version(name) for name in ("ntkuq", "jax", "equinox")},
            len(os.sched_getaffinity(0)),
        )


def build(given: argparse.Namespace) -> Work:
    """The work of a task, its network and data made beforehand."""
    arrays = clock.load(given.inputs)
    problem = given.inputs.stem
    double = "f64" in given.task or given.task == "T4_full"
    model = from_arrays(problem, arrays, np.float64 if double else np.float32)
    head, _, tail = given.task.partition("_")
    if head == "T1":
        return regression(model, arrays)
    if given.task == "T4_full":
        return evidence(model, arrays, nq.Gaussian(1.0), nq.Full())
    if given.task == "T4_kron":
        return evidence(model, arrays, nq.Categorical(), nq.KFAC())
    if head == "T5":
        return kernel(model, arrays, trace=tail == "trace")
    if head == "T9":
        return PRODUCTS[tail](model, arrays)
    return classification(model, arrays, tail, 50 if double else None)


def regression(model: eqx.Module, arrays: dict[str, np.ndarray]) -> Work:
    """T1: full Laplace with the joint covariance over the test set."""
    bnn = nq.BNN(model, nq.Gaussian(0.3), nq.NormalPrior(1.0))
    data = nq.Dataset(arrays["x"], arrays["y"])
    method = nq.Laplace(structure=nq.Full(), tune=nq.Fixed())

    def work(laps):
        with laps("fit"):
            posterior = method.fit(bnn, data, key=jax.random.key(0))
        with laps("predict"):
            joint = jax.block_until_ready(posterior.joint(arrays["x_test"]))
        return {
            "mean": np.asarray(joint.mean).ravel(),
            "cov": np.asarray(joint.covariance),
            "logev": np.asarray(posterior.log_marginal_likelihood),
        }

    return work


def classification(
    model: eqx.Module, arrays: dict[str, np.ndarray], name: str, points: int | None
) -> Work:
    """T2, T3: Laplace of ten classes, mean and covariance of each test point."""
    bnn = nq.BNN(model, nq.Categorical(), nq.NormalPrior(1.0))
    data = nq.Dataset(arrays["x"], arrays["y"])
    structure, subset = STRUCTURES[name]
    method = nq.Laplace(structure=structure, subset=subset, tune=nq.Fixed())
    x_test = arrays["x_test"][:points]

    def work(laps):
        with laps("fit"):
            posterior = method.fit(bnn, data, key=jax.random.key(0))
        with laps("predict"):
            latent = posterior.predict(x_test).latent
            mean, cov = jax.block_until_ready((latent.loc, latent.covariance_matrix))
        return {
            "mean": np.asarray(mean),
            "cov": np.asarray(cov),
            "logev": np.asarray(posterior.log_marginal_likelihood),
        }

    return work


def evidence(model, arrays, likelihood, structure) -> Work:
    """T4: the largest evidence over prior precision, and noise where there is one."""
    bnn = nq.BNN(model, likelihood, nq.NormalPrior(1.0))
    data = nq.Dataset(arrays["x"], arrays["y"])
    method = nq.Laplace(structure=structure, tune=nq.MarginalLikelihood())

    def work(laps):
        posterior = method.fit(bnn, data, key=jax.random.key(0))
        found = {
            "log_delta": np.log(posterior.bnn.prior.precision),
            "logev": posterior.log_marginal_likelihood,
        }
        if isinstance(likelihood, nq.Gaussian):
            found["log_sigma"] = np.log(posterior.bnn.likelihood.scale)
        return {name: np.asarray(value) for name, value in found.items()}

    return work


# What follows uses the names of `ntkuq.linearize`.


def kernel(model: eqx.Module, arrays: dict[str, np.ndarray], *, trace: bool) -> Work:
    """T5: the empirical NTK, whole or the mean over outputs."""
    x = jnp.asarray(arrays["x_ntk"], jax.tree.leaves(model)[0].dtype)
    jacobian = linearize.Jacobian.at(model, x[0])
    ones = [jnp.ones((), x.dtype) for _ in jacobian.leaves]

    @eqx.filter_jit
    def compute(jacobian, x):
        factors = jacobian.factors(x)
        whole = linearize.gram(factors, factors, ones)
        if trace:
            return jnp.einsum("ncmc->nm", whole) / whole.shape[1]
        return whole.reshape(whole.shape[0] * whole.shape[1], -1)

    def work(laps):
        return {"ntk": corner(jax.block_until_ready(compute(jacobian, x)), len(x))}

    return work


def corner(matrix: jax.Array, data: int) -> np.ndarray:
    """The block of the first `BLOCK` examples; the whole would be 100 MB a run."""
    side = min(BLOCK, data) * (matrix.shape[0] // data)
    return np.asarray(matrix)[:side, :side]


def mean_loss(model, x, y):
    """Mean cross-entropy: the loss whose gradient the products are measured in."""
    outputs = jax.vmap(model)(x)
    return jnp.mean(jax.nn.logsumexp(outputs, -1) - outputs[jnp.arange(len(y)), y])


def products(model, arrays, name: str, compute: Callable) -> Work:
    """T9: a product beside the gradient; `compute(model, x, y)` is the product."""
    rows = slice(0, 1_000)
    x = jnp.asarray(arrays["x"][rows], jnp.float32)
    y = jnp.asarray(arrays["y"][rows])
    gradient = eqx.filter_jit(eqx.filter_grad(mean_loss))

    def work(laps):
        with laps("gradient"):
            found = clock.repeated(
                TIMES, lambda: jax.block_until_ready(gradient(model, x, y))
            )
        with laps("product"):
            result = clock.repeated(
                TIMES, lambda: jax.block_until_ready(compute(model, x, y))
            )
        grad = [np.ravel(leaf) for leaf in jax.tree.leaves(found)]
        leaves = jax.tree.leaves(result)
        return {
            "grad": np.concatenate(grad),
            name: np.concatenate([np.ravel(leaf) for leaf in leaves]),
        }

    return work


def ggn_product(model, arrays) -> Work:
    """T9_ggnvp: J^T H J v of the mean loss for a fixed v."""
    vector = probe(model)

    @eqx.filter_jit
    def compute(model, x, y):
        del y
        jacobian = linearize.Jacobian.at(model, x[0])
        factors = linearize.whiten(jacobian.factors(x), nq.Categorical())
        pulled = linearize.pull(factors, linearize.push(factors, vector))
        return [leaf / len(x) for leaf in pulled]

    return products(model, arrays, "ggnv", compute)


def kfac_factors(model, arrays) -> Work:
    """T9_kfac: all Kronecker factors, ten backward passes."""

    @eqx.filter_jit
    def compute(model, x, y):
        del y
        jacobian = linearize.Jacobian.at(model, x[0])
        factors = linearize.whiten(jacobian.factors(x), nq.Categorical())
        pairs = [
            (_square(leaf.g), _square(leaf.a))
            for leaf in factors.leaves
            if isinstance(leaf, linearize.Outer)
        ]
        return [(g / len(x), a / len(x)) for g, a in pairs]

    return products(model, arrays, "factors", compute)


def _square(rows: jax.Array) -> jax.Array:
    flat = rows.reshape(-1, rows.shape[-1])
    return flat.T @ flat


def probe(model: eqx.Module) -> list[jax.Array]:
    """The vector that all contestants multiply: a fixed wave over each leaf."""
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return [jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype)) for leaf in leaves]


PRODUCTS = {
    "ggnvp": ggn_product,
    "kfac": kfac_factors,
}


if __name__ == "__main__":
    main()
