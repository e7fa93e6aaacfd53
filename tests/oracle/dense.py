"""Dense float64 references in plain formulas: the ground truth of the tests.

Nothing here is fast or shares code with the library's structured Jacobian. Parameters
are raveled in the order of `jax.tree.leaves`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def double(tree):
    """The tree with its floating-point arrays in float64 (inside enable_x64)."""
    return jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, tree
    )


def split(model):
    """The leaves, and the function (leaves, one x) -> outputs (C,)."""

    def is_state(node):
        return isinstance(node, eqx.nn.State)

    def varies(leaf):
        return not is_state(leaf) and eqx.is_inexact_array(leaf)

    # running statistics are no parameters
    spec = jax.tree.map(varies, model, is_leaf=is_state)
    arrays, rest = eqx.partition(model, spec)
    leaves, tree = jax.tree.flatten(arrays)

    def f(leaves, x):
        return jnp.ravel(eqx.combine(jax.tree.unflatten(tree, leaves), rest)(x))

    return leaves, f


@eqx.filter_jit
def outputs(model, x):
    """f, (N, C)."""
    leaves, f = split(model)
    return jax.vmap(lambda a: f(leaves, a))(x)


@eqx.filter_jit
def jacobians(model, x):
    """The Jacobian of each leaf, a list of (N, C, P_leaf)."""
    leaves, f = split(model)
    found = jax.vmap(lambda a: jax.jacrev(f)(leaves, a))(x)
    return [j.reshape(*j.shape[:2], -1) for j in found]


def jacobian(model, x, subset=None):
    """J, (N C, P), of all leaves or of those at the positions `subset`."""
    parts = jacobians(model, x)
    chosen = range(len(parts)) if subset is None else subset
    j = np.concatenate([np.asarray(parts[n]) for n in chosen], axis=-1)
    return j.reshape(-1, j.shape[-1])


def hessian(likelihood, f):
    """Blockdiagonal H, (N C, N C), of minus the expected log-likelihood.

    By differentiating minus the Kullback-Leibler divergence from the outputs
    themselves, so that it is the Fisher information also where it depends on y.
    """
    n, c = f.shape
    h = np.zeros((n * c, n * c))
    for i, block in enumerate(np.asarray(_hessians(likelihood, f))):
        h[i * c : (i + 1) * c, i * c : (i + 1) * c] = block
    return h


@eqx.filter_jit
def _hessians(likelihood, f):
    def divergence(moved, fixed):
        p, q = likelihood.distribution(fixed), likelihood.distribution(moved)
        if hasattr(p, "probs") and not hasattr(p, "rate"):
            a, b = _table(p), _table(q)
            return jnp.sum(a * (jnp.log(a) - jnp.log(b)))
        if hasattr(p, "rate"):
            return p.rate * jnp.log(p.rate / q.rate) - p.rate + q.rate
        ratio = (p.scale**2 + (p.loc - q.loc) ** 2) / (2 * q.scale**2)
        return jnp.sum(jnp.log(q.scale / p.scale) + ratio - 0.5)

    return jax.vmap(jax.hessian(divergence))(f, f)


def _table(distribution):
    p = distribution.probs
    return jnp.stack([1 - p, p]) if p.ndim == 0 else p


def ggn(j, h):
    """G = J^T H J."""
    return j.T @ h @ j


def covariance(g, precision):
    """(diag(precision) + G)^-1."""
    return np.linalg.inv(np.diag(precision) + g)


def evidence(log_likelihood, theta, precision, g):
    """Laplace's log marginal likelihood.

    log p(y | theta) + log N(theta; 0, precision^-1) + P/2 log 2 pi
    - 1/2 log det(diag(precision) + G)
    """
    prior = 0.5 * np.sum(np.log(precision)) - 0.5 * np.sum(precision * theta**2)
    _, log_det = np.linalg.slogdet(np.diag(precision) + g)
    return log_likelihood + prior - 0.5 * log_det


def log_likelihood(likelihood, f, y):
    """sum_n log p(y_n | f_n)."""
    return float(_log_likelihood(likelihood, f, y))


@eqx.filter_jit
def _log_likelihood(likelihood, f, y):
    return jnp.sum(jax.vmap(likelihood.log_prob)(f, y))


def ravel(model):
    """theta, (P,)."""
    return np.concatenate([np.ravel(leaf) for leaf in split(model)[0]])


def mlp_factors(model, x, likelihood):
    """For each layer of an `eqx.nn.MLP`: inputs a (N, I), and S^T dh/df g (N, C, O)."""
    f = outputs(model, x)
    n, c = f.shape
    h = hessian(likelihood, f).reshape(n, c, n, c)
    values, vectors = np.linalg.eigh(np.einsum("ncnd->ncd", h))
    roots = vectors * np.sqrt(values.clip(0))[:, None]
    gradients, inputs = _layers(model, x)
    return [
        (np.asarray(a), np.einsum("nck,nco->nko", roots, np.asarray(g)))
        for a, g in zip(inputs, gradients)
    ]


@eqx.filter_jit
def _layers(model, x):
    """For each layer: dh/df (N, C, O), and inputs (N, I)."""

    def shifted(shifts, x):
        inputs = []
        for number, (layer, shift) in enumerate(zip(model.layers, shifts)):
            inputs.append(x)
            x = layer.weight @ x + layer.bias + shift
            if number < len(model.layers) - 1:
                x = model.activation(x)
        return x, inputs

    shifts = [jnp.zeros(layer.out_features) for layer in model.layers]
    return jax.vmap(lambda one: jax.jacrev(shifted, has_aux=True)(shifts, one))(x)


def kfac(factors):
    """Block-diagonal G with (sum g g^T) (x) (mean a a^T) for weights, exact for biases.

    Leaves in the order weight, bias of each layer, weights raveled as (out, in).
    """
    blocks = []
    for a, g in factors:
        left = np.einsum("nco,ncp->op", g, g)
        right = np.einsum("ni,nj->ij", a, a) / len(a)
        blocks += [np.kron(left, right), left]
    size = sum(len(block) for block in blocks)
    out, start = np.zeros((size, size)), 0
    for block in blocks:
        stop = start + len(block)
        out[start:stop, start:stop] = block
        start = stop
    return out


def bayesian_linear_regression(phi, y, precision, noise, new):
    """Mean and covariance at `new`, and the evidence, of y = phi w + noise.

    w ~ N(0, 1/precision); all in closed form from the data's own covariance.
    """
    k = phi @ phi.T / precision + noise**2 * np.eye(len(y))
    cross = new @ phi.T / precision
    mean = cross @ np.linalg.solve(k, y)
    cov = new @ new.T / precision - cross @ np.linalg.solve(k, cross.T)
    _, log_det = np.linalg.slogdet(k)
    fit = y @ np.linalg.solve(k, y)
    return mean, cov, -0.5 * (fit + log_det + len(y) * np.log(2 * np.pi))
