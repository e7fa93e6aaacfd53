"""Information of class labels, by Monte Carlo over functions."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def entropy(p: Float[Array, "... C"]) -> Float[Array, "..."]:
    """Of class probabilities, in nats."""
    return jnp.sum(jax.scipy.special.entr(p), axis=-1)


@eqx.filter_jit
def predictive_information(
    pool: Float[Array, "S N C"], targets: Float[Array, "S T C"]
) -> Float[Array, " N"]:
    r"""EPIG of classes, $E_*[I(y_x; y_*)]$ with $p(y, y_*) = E_f[p(y|f)\,p(y_*|f)]$."""
    draws = pool.shape[0]
    marginal = entropy(jnp.mean(pool, axis=0))
    target = jnp.mean(entropy(jnp.mean(targets, axis=0)))

    def one(p: Float[Array, "S C"]) -> Array:
        joint = jnp.einsum("sc,std->tcd", p, targets) / draws
        return jnp.mean(entropy(joint.reshape(joint.shape[0], -1)))

    both = jax.lax.map(one, jnp.swapaxes(pool, 0, 1), batch_size=64)
    return marginal + target - both


@eqx.filter_jit
def batch_information(
    pool: Float[Array, "S N C"], n: int, most: int, key: Array
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    r"""Greedy $I(y_1, \ldots, y_n; f)$ of batches; the gain of each point.

    The label configurations of the points chosen so far are enumerated while there
    are at most `most`, and drawn from the predictive after that, each drawn
    configuration $\hat y$ weighted by one over its probability:
    $H = -E_{\hat y}\bigl[\sum_c \frac{p(\hat y, c)}{p(\hat y)}\log p(\hat y, c)\bigr]$.

    Args:
        pool: class probabilities of S functions at N candidates.
        n: size of the batch.
        most: configurations that are kept.
        key: for drawing them.
    """
    draws, size, classes = pool.shape
    conditional = jnp.mean(entropy(pool), axis=0)
    # log p(configuration | f), and the weight of each in the sum over configurations
    logs = jnp.zeros((1, draws), pool.dtype)
    exact = True
    chosen = jnp.zeros(size, bool)
    spent, before = jnp.zeros((), pool.dtype), jnp.zeros((), pool.dtype)
    rows, gains = [], []
    for number in range(n):
        given = jnp.exp(logs)
        whole = jnp.mean(given, axis=1)
        weight = jnp.ones_like(whole) if exact else 1.0 / (whole * len(whole))

        def joint(p: Float[Array, "S C"], given=given, weight=weight) -> Array:
            found = given @ p / draws
            return jnp.sum(weight[:, None] * jax.scipy.special.entr(found))

        both = jax.lax.map(joint, jnp.swapaxes(pool, 0, 1), batch_size=64)
        value = jnp.where(chosen, -jnp.inf, both - conditional - spent)
        row = jnp.argmax(value)
        rows.append(row)
        gains.append(value[row] - before)
        before, spent = value[row], spent + conditional[row]
        chosen = chosen.at[row].set(True)
        log_p = jnp.log(jnp.maximum(pool[:, row], jnp.finfo(pool.dtype).tiny))
        if exact and len(logs) * classes <= most:
            logs = (logs[:, None] + log_p.T).reshape(-1, draws)
        else:
            logs = _drawn(logs, log_p, exact, most, jax.random.fold_in(key, number))
            exact = False
    return jnp.stack(rows), jnp.stack(gains)


def _drawn(logs: Array, log_p: Array, exact: bool, most: int, key: Array) -> Array:
    """`most` configurations of one point more, drawn from the predictive."""
    first, second = jax.random.split(key)
    if exact:
        whole = jnp.log(jnp.mean(jnp.exp(logs), axis=1))
        rows = jax.random.categorical(first, whole, shape=(most,))
        logs = logs[rows]
    given = jnp.exp(logs) @ jnp.exp(log_p)
    label = jax.random.categorical(second, jnp.log(given), axis=-1)
    return logs + log_p.T[label]
