"""What a sequence of tasks leaves behind, from the accuracy matrix.

R[k, j] is the accuracy on task j after training on task k, with T tasks. Leading axes
(seeds) are kept, so that intervals can be taken over them.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def average_accuracy(accuracy: ArrayLike) -> Float[Array, "*seeds"]:
    r"""$\mathrm{AA} = \frac1T \sum_j R_{T,j}$: over all tasks, after the last.

    Args:
        accuracy: R, (…, T, T), from 0 to 1.

    Returns:
        Shape (…).

    Raises:
        ValueError: for another shape.

    References: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).

    >>> import numpy as np
    >>> r = np.array([[0.9, 0.1], [0.7, 0.8]])
    >>> round(float(average_accuracy(r)), 3)
    0.75
    """
    return jnp.mean(_matrix(accuracy, least=1)[..., -1, :], axis=-1)


def forgetting(accuracy: ArrayLike) -> Float[Array, "*seeds"]:
    r"""$\mathrm{AF} = \frac{1}{T-1} \sum_{j<T} \max_{k \ge j} (R_{k,j} - R_{T,j})$.

    How far each earlier task has fallen from its best since it was learned; 0 or more.
    The mean is over the T − 1 earlier tasks: tables that divide by T show (T − 1)/T of
    this. Where an accuracy never exceeds its final value it counts 0, while the
    definition of Chaudhry et al. leaves the last row out of the maximum and may be
    negative.

    Args:
        accuracy: R, (…, T, T) with T ≥ 2; entries above the diagonal are not used.

    Returns:
        Shape (…).

    Raises:
        ValueError: for another shape.

    References: Chaudhry et al. 2018 (arXiv 1801.10112).

    >>> import numpy as np
    >>> r = np.array([[0.9, 0.1], [0.7, 0.8]])
    >>> round(float(forgetting(r)), 3)
    0.2
    """
    matrix = _matrix(accuracy, least=2)
    size = matrix.shape[-1]
    learned = jnp.tril(jnp.ones((size, size), bool))
    best = jnp.max(jnp.where(learned, matrix, -jnp.inf), axis=-2)
    return jnp.mean((best - matrix[..., -1, :])[..., :-1], axis=-1)


def backward_transfer(accuracy: ArrayLike) -> Float[Array, "*seeds"]:
    r"""$\mathrm{BWT} = \frac{1}{T-1} \sum_{j<T} (R_{T,j} - R_{j,j})$.

    What later training changed on earlier tasks: negative where they were forgotten.

    Args:
        accuracy: R, (…, T, T) with T ≥ 2.

    Returns:
        Shape (…).

    Raises:
        ValueError: for another shape.

    References: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).

    >>> import numpy as np
    >>> r = np.array([[0.9, 0.1], [0.7, 0.8]])
    >>> round(float(backward_transfer(r)), 3)
    -0.2
    """
    matrix = _matrix(accuracy, least=2)
    learned = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    return jnp.mean((matrix[..., -1, :] - learned)[..., :-1], axis=-1)


def forward_transfer(
    accuracy: ArrayLike, baseline: ArrayLike
) -> Float[Array, "*seeds"]:
    r"""$\mathrm{FWT} = \frac{1}{T-1} \sum_{j>1} (R_{j-1,j} - b_j)$.

    How much better than an untrained network a task is met.

    Args:
        accuracy: R, (…, T, T) with T ≥ 2.
        baseline: b, (…, T), the accuracy on each task before any training.

    Returns:
        Shape (…).

    Raises:
        ValueError: for other shapes.

    References: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).

    >>> import numpy as np
    >>> r = np.array([[0.9, 0.3], [0.7, 0.8]])
    >>> round(float(forward_transfer(r, np.array([0.1, 0.1]))), 3)
    0.2
    """
    matrix, before = _matrix(accuracy, least=2), jnp.asarray(baseline, float)
    if before.shape != matrix.shape[:-1]:
        raise ValueError(
            f"expected a baseline of shape {matrix.shape[:-1]}, got {before.shape}"
        )
    met = jnp.diagonal(matrix, offset=1, axis1=-2, axis2=-1)
    return jnp.mean(met - before[..., 1:], axis=-1)


def _matrix(accuracy: ArrayLike, least: int) -> Float[Array, "*seeds T T"]:
    matrix = jnp.asarray(accuracy, float)
    if matrix.ndim < 2 or matrix.shape[-2] != matrix.shape[-1]:
        raise ValueError(
            "expected an accuracy matrix of shape (…, T, T), row k after training on "
            f"task k, got {matrix.shape}"
        )
    if matrix.shape[-1] < least:
        raise ValueError(f"expected at least {least} tasks, got {matrix.shape[-1]}")
    return matrix
