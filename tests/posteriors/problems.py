"""Small trained problems, one for each likelihood, made once in float64."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ntkuq.data import Dataset
from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    NormalPrior,
    Poisson,
)
from tests.oracle import dense as oracle


N, D, HIDDEN = 12, 3, 4
LIKELIHOODS = {
    "gaussian": (Gaussian(0.4), 1),
    "two outputs": (Gaussian(np.array([0.4, 0.7])), 2),
    "categorical": (Categorical(), 3),
    "bernoulli": (Bernoulli(), 1),
    "poisson": (Poisson(), 1),
    "heteroscedastic": (HeteroscedasticGaussian(), 2),
}


def targets(name, f, rng):
    """Targets near what a network with outputs f (N, C) would say."""
    if name in ("gaussian", "heteroscedastic"):
        return np.asarray(f[:, 0]) + 0.5 * rng.standard_normal(len(f))
    if name == "two outputs":
        return np.asarray(f) + 0.5 * rng.standard_normal(f.shape)
    if name == "poisson":
        return rng.poisson(np.exp(f[:, 0]))
    return rng.integers(0, 2 if name == "bernoulli" else 3, len(f))


@functools.cache
def problem(name):
    """(bnn, data, test inputs) with a network in float64; call it inside enable_x64."""
    likelihood, size = LIKELIHOODS[name]
    rng = np.random.default_rng(1)
    x, new = rng.standard_normal((N, D)), rng.standard_normal((5, D))
    model = eqx.nn.MLP(D, size, HIDDEN, 1, jnp.tanh, key=jax.random.key(3))
    model = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
    )
    y = targets(name, oracle.outputs(model, jnp.asarray(x)), rng)
    prior = NormalPrior(
        jax.tree.map(
            lambda leaf: 1.0 + 0.5 * leaf.ndim, eqx.filter(model, eqx.is_inexact_array)
        )
    )
    return BNN(model, likelihood, prior), Dataset(x, y), new


def precision(bnn, tau=1.0):
    """The prior precision of each parameter, (P,)."""
    parts = jax.tree.leaves(bnn.prior.precisions(bnn.parameters))
    sizes = [leaf.size for leaf in jax.tree.leaves(bnn.parameters)]
    return tau * np.repeat([float(part) for part in parts], sizes)


@functools.cache
def reference(name):
    """J, H, G on the training inputs, J on the test inputs."""
    bnn, data, new = problem(name)
    x = jnp.asarray(data.x)
    j = oracle.jacobian(bnn.model, x)
    h = oracle.hessian(bnn.likelihood, oracle.outputs(bnn.model, x))
    return j, h, oracle.ggn(j, h), oracle.jacobian(bnn.model, jnp.asarray(new))


def fitness(bnn, data):
    """sum_n log p(y_n | f_n)."""
    y = bnn.targets(data)
    f = oracle.outputs(bnn.model, bnn.inputs(data.x))
    return oracle.log_likelihood(bnn.likelihood, f, y)


def blocks_of(joint, n):
    """The diagonal blocks (N, C, C) of a joint covariance (N C, N C)."""
    c = joint.shape[0] // n
    return np.stack([joint[i * c : (i + 1) * c, i * c : (i + 1) * c] for i in range(n)])
