r"""The leave-one-out predictive density of a GP: closed form, derivatives, errors.

With $A = (K + V)^{-1}$ and $\alpha = A y$ the prediction of $y_i$ from all others is
normal with mean $y_i - \alpha_i / A_{ii}$ and variance $1 / A_{ii}$ (Rasmussen and
Williams 2006, eq. 5.10 to 5.13). All is float64 and may be called in `jit`.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.base import LogValues
from ntkuq.kernels.solve import cholesky, inverse
from ntkuq.posteriors.gp.gaussian import Evidence


#: Standard errors are computed where the derivatives of the covariance take no more
#: bytes than this.
MOST_BYTES = 2**31


def leave_one_out(
    kernel: Float[Array, "N N"],
    y: Float[Array, "N C"],
    noise_variance: Float[Array, ""],
) -> Evidence:
    r"""$\sum_i \log p(y_i \mid y_{-i})$, summed over the columns of y.

    With $a = \mathrm{diag}\,A$ a term is
    $\frac12\log a_i - \frac12\alpha_i^2/a_i - \frac12\log 2\pi$, so that

    $\partial/\partial K = \mathrm{sym}\sum_c A(\alpha_c/a)\,\alpha_c^T - A\,
    \mathrm{diag}(w)\,A$, $w_i = C/(2a_i) + \sum_c\alpha_{ic}^2/(2a_i^2)$.

    Args:
        kernel: K.
        y: targets minus the prior mean; C outputs share K.
        noise_variance: sigma^2.

    Returns:
        As `gaussian.evidence`, with this objective as `value`.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006,
        section 5.4.2; Sundararajan and Keerthi, *Predictive approaches for choosing
        hyperparameters in Gaussian processes*, Neural Computation 2001.
    """
    columns = y.shape[1]
    eye = jnp.eye(kernel.shape[0], dtype=kernel.dtype)
    lower, jitter = cholesky(kernel + noise_variance * eye)
    a = inverse(lower)
    own = jnp.diagonal(a)
    alpha = a @ y
    squares = jnp.sum(alpha**2, axis=1)
    value = 0.5 * jnp.sum(columns * (jnp.log(own) - jnp.log(2.0 * jnp.pi)))
    value = value - 0.5 * jnp.sum(squares / own)
    weight = 0.5 * (columns / own + squares / own**2)
    outer = (a @ (alpha / own[:, None])) @ alpha.T
    bar = 0.5 * (outer + outer.T) - (a * weight[None, :]) @ a
    return Evidence(value, bar, jnp.trace(bar), jitter)


def standard_errors(
    covariance: Callable[[LogValues, Array], Array],
    values: LogValues,
    directions: LogValues,
    outputs: Float[np.ndarray, " G"],
) -> Float[np.ndarray, " P"]:
    r"""Standard errors of the maximizer under the model: Godambe's sandwich.

    The terms of the objective depend on one another, so that its inverse Hessian is no
    covariance. Its derivatives are quadratic in y, $s_p = y^T M_p y + \text{const}$, so
    that their covariance $J_{pq} = 2\,\mathrm{tr}\,M_p \Sigma M_q \Sigma$ and the
    expected Hessian $-H$, $H_{pq} = \mathrm{tr}\,M_p\,\partial_q\Sigma$, are exact; the
    variance is $H^{-1} J H^{-1}$.

    Args:
        covariance: of the observations, (N, N), given the hyper-parameters and the
            number of a group of outputs with noise of their own.
        values: the maximizer, logarithms.
        directions: unit vectors in the space of `values`, stacked, (P, ...).
        outputs: how many outputs each group has.

    Returns:
        Errors of the logarithms; NaN where the objective does not determine them.

    References:
        Godambe, *An optimum property of regular maximum likelihood estimation*, Annals
        of Mathematical Statistics 1960.
    """
    size = jax.tree.leaves(directions)[0].shape[0]
    spread, bend = np.zeros((size, size)), np.zeros((size, size))
    for group, count in enumerate(outputs):
        j, h = _information(covariance, values, directions, jnp.asarray(group))
        spread += count * np.asarray(j)
        bend += count * np.asarray(h)
    se = np.full(size, np.nan)
    known = np.diagonal(bend) > 1e-6
    bend, spread = bend[np.ix_(known, known)], spread[np.ix_(known, known)]
    bend = 0.5 * (bend + bend.T)
    if not known.any() or np.linalg.eigvalsh(bend)[0] <= 0.0:
        return se
    half = np.linalg.inv(bend)
    se[known] = np.sqrt(np.diagonal(half @ spread @ half))
    return se


def fits(rows: int, directions: int) -> bool:
    """Whether `standard_errors` stays within `MOST_BYTES`."""
    return 16.0 * rows**2 * (directions + 2) <= MOST_BYTES


@eqx.filter_jit
def _information(covariance, values, directions, group):
    sigma = covariance(values, group)
    a = inverse(cholesky(sigma).lower)
    own = jnp.diagonal(a)

    def one(direction: LogValues) -> tuple[Array, Array]:
        """B A and d A, where M = A B A and d is the derivative of the covariance."""
        _, d = jax.jvp(lambda v: covariance(v, group), (values,), (direction,))
        product = d @ a
        # the diagonal of A d A
        w = jnp.sum(a * product.T, axis=1) / (2.0 * own**2)
        inner = 0.5 * ((a @ product) / own[:, None] + (product / own[None, :]) @ a)
        return inner - w[:, None] * a, product

    forms, products = jax.lax.map(one, directions)
    spread = 2.0 * jnp.einsum("pij,qji->pq", forms, forms)
    return spread, jnp.einsum("pij,qji->pq", forms, products)
