"""Dense gradients and small settings for the covariances of bandits."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkuq.decisions import bandits as nb
from ntkuq.decisions.bandits import covariances as nc
from ntkuq.decisions.bandits.network import rewards, values


FEATURES, ARMS, ROUNDS = 3, 3, 12


def dense(weights, x, arm):
    """Gradients by automatic differentiation, (N, P)."""

    def one(x, arm):
        g = jax.grad(lambda w: rewards(w, x[None], arm[None])[0])(weights)
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(g)])

    return jax.jit(jax.vmap(one))(x, arm)


def setting(getkey, network, *, per_arm=False):
    """Weights away from the symmetric start, contexts, arms and rewards in float64."""
    weights = network.init(FEATURES, ARMS, per_arm=per_arm, key=getkey())
    weights = tuple(
        w.astype(jnp.float64) + 0.3 * jax.random.normal(getkey(), w.shape, jnp.float64)
        for w in weights
    )
    x = jax.random.normal(getkey(), (ROUNDS, FEATURES), jnp.float64)
    arm = jax.random.randint(getkey(), (ROUNDS,), 0, ARMS)
    reward = jax.random.normal(getkey(), (ROUNDS,), jnp.float64)
    return weights, x, arm, reward


def double(state):
    """A state whose numbers are in float64."""
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.float64)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        state,
    )


def variances(g, new, ratio):
    """Of features `new` (n, P) after those of `g` (N, P), by a dense inverse, (n,)."""
    z = ratio * jnp.eye(g.shape[1]) + g.T @ g
    return np.asarray(jnp.einsum("np,pq,nq->n", new, jnp.linalg.inv(z), new))


def filled(covariance, weights, x, arm, reward, ratio):
    """The state after adding the rounds one by one."""
    shapes = [w.shape for w in weights]
    with jax.enable_x64(True):
        state = double(covariance.init(shapes, ROUNDS))
        nothing = values(weights, x[:1], arm[:1])
        empty = nc.Chunk(nothing, reward[:1], jnp.zeros(1, jnp.float64))
        state = covariance.refit(state, nc.Seen(lambda i: empty, jnp.asarray(1)), ratio)

        @jax.jit
        def add(state, x, arm, reward):
            return covariance.add(state, values(weights, x, arm), reward, ratio)

        for t in range(ROUNDS):
            state = add(state, x[t][None], arm[t][None], reward[t][None])
    return state


NETWORKS = [
    nb.Perceptron(width=4),
    nb.Perceptron(width=4, disjoint=False),
    nb.Perceptron(width=4, depth=2),
    nb.Perceptron(depth=0),
]


COVARIANCES = [
    nb.Diagonal(),
    nb.LastLayer(),
    nb.FunctionSpace(),
    nb.Full(),
    nb.FunctionSpace(relinearize=True),
    nb.Kronecker(),
    nb.LowRank(4),
]


def refitted(covariance, weights, x, arm, reward, ratio):
    """The state after all rounds at once."""
    rounds = nc.Chunk(values(weights, x, arm), reward, jnp.ones_like(reward))
    state = double(covariance.init([w.shape for w in weights], len(x)))
    return covariance.refit(state, nc.Seen(lambda i: rounds, jnp.asarray(1)), ratio)
