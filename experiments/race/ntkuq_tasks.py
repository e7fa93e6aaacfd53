"""ntkuq's own runs: `python -m experiments.race.ntkuq_tasks --task T2_kron …`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import metadata

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
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
        return products(model, arrays, PRODUCTS[tail])
    return classification(model, arrays, tail, 50 if double else None)


def regression(model: eqx.Module, arrays: dict[str, np.ndarray]) -> Work:
    """T1: full Laplace with the joint covariance over the test set."""
    bnn = nq.BNN(model, nq.Gaussian(0.3), nq.NormalPrior(1.0))
    data = nq.Dataset(arrays["x"], arrays["y"])
    method = nq.Laplace(structure=nq.Full(), tune=nq.Fixed())

    def work(laps: clock.Laps):
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

    def work(laps: clock.Laps):
        with laps("fit"):
            posterior = method.fit(bnn, data, key=jax.random.key(0))
        with laps("predict"):
            mean, cov = jax.block_until_ready(posterior.latent(x_test))
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

    def work(_laps: clock.Laps):
        posterior = method.fit(bnn, data, key=jax.random.key(0))
        precision, *noise = posterior.hyperparameters
        found = {
            "log_delta": np.log(precision.value),
            "logev": np.asarray(posterior.log_marginal_likelihood),
        }
        if noise:
            found["log_sigma"] = np.log(noise[0].value)
        return found

    return work


def kernel(model: eqx.Module, arrays: dict[str, np.ndarray], *, trace: bool) -> Work:
    """T5: the empirical NTK, whole or the mean over outputs."""
    x = jnp.asarray(arrays["x_ntk"], jax.tree.leaves(model)[0].dtype)
    jacobian = linearize.Jacobian.at(model, x[0])

    def work(_laps: clock.Laps):
        if trace:
            kernel = linearize.ntk_trace(jacobian, x) / arrays["b2"].size
            return {"ntk": np.asarray(kernel)[:BLOCK, :BLOCK]}
        kernel = np.asarray(linearize.ntk(jacobian, x))[:BLOCK, :, :BLOCK]
        side = kernel.shape[0] * kernel.shape[1]
        return {"ntk": kernel.reshape(side, side)}

    return work


def mean_loss(model, x, y):
    """Mean cross-entropy: the loss whose gradient the products are measured in."""
    outputs = jax.vmap(model)(x)
    return jnp.mean(jax.nn.logsumexp(outputs, -1) - outputs[jnp.arange(len(y)), y])


def products(model, arrays, prepare: Callable) -> Work:
    """T9: a product beside the gradient.

    `prepare(jacobian, x, y)` gives the name of what is found, and a function that
    makes the function that finds it, a list of arrays: what is kept between products
    is part of the time.
    """
    rows = slice(0, 1_000)
    x = jnp.asarray(arrays["x"][rows], jnp.float32)
    y = jnp.asarray(arrays["y"][rows])
    gradient = eqx.filter_jit(eqx.filter_grad(mean_loss))
    name, begin = prepare(linearize.Jacobian.at(model, x[0]), x, y)

    def work(laps: clock.Laps):
        with laps("gradient"):
            found = clock.repeated(
                TIMES, lambda: jax.block_until_ready(gradient(model, x, y))
            )
        with laps("product"):
            product = begin()
            result = clock.repeated(TIMES, lambda: jax.block_until_ready(product()))
        return {
            "grad": np.concatenate([np.ravel(a) for a in jax.tree.leaves(found)]),
            name: np.concatenate([np.ravel(a) for a in result]) / len(x),
        }

    return work


def ggn_product(jacobian: linearize.Jacobian, x, y):
    """T9_ggnvp: J^T H J v for the vector that all contestants multiply."""
    waves = [jnp.sin(jnp.arange(a.size, dtype=a.dtype)) for a in jacobian.leaves]
    vector = jnp.concatenate(waves)
    operator = linearize.ggn_operator(jacobian, nq.Categorical(), x, y)
    multiply = eqx.filter_jit(lambda operator, vector: operator.mv(vector))

    def begin():
        # one forward pass; its activations serve all products, as in a solver
        kept = lx.linearise(operator)
        return lambda: [multiply(kept, vector)]

    return "ggnv", begin


def factors(fisher: linearize.AbstractFisher, name: str) -> Callable:
    """T9_kfac, T9_fisher: all Kronecker factors of the weights."""
    likelihood = nq.Categorical()

    @eqx.filter_jit
    def compute(jacobian, x, extra):
        def seed(latent, *more):
            return fisher.weights(likelihood, latent, *more)

        found = jacobian.factors(x, seed, *extra)
        pairs = [
            linearize.Expand().pair(leaf)
            for leaf in found.leaves
            if isinstance(leaf, linearize.Outer)
        ]
        return [factor for pair in pairs for factor in pair]

    def prepare(jacobian, x, y):
        return name, lambda: lambda: compute(jacobian, x, fisher.extras(y, 0))

    return prepare


PRODUCTS = {
    "ggnvp": ggn_product,
    "kfac": factors(linearize.ExactFisher(), "factors"),
    "fisher": factors(linearize.SampledFisher(jax.random.key(0)), "sampled"),
}


if __name__ == "__main__":
    main()
