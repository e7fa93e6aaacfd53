"""Class probabilities on the host, and the class that they predict."""

import numpy as np
from numpyro import distributions as dist

from ntkuq.posteriors.distributions import first_bad


def log_probabilities(
    observed: dist.Distribution,
) -> tuple[np.ndarray | None, np.ndarray]:
    """Log probabilities where they are the parameters, and probabilities, (..., K).

    Args:
        observed: `CategoricalProbs` or `CategoricalLogits` with NumPy parameters.
    """
    if isinstance(observed, dist.CategoricalLogits):
        logits = np.asarray(observed.logits)
        logs = logits - logits.max(axis=-1, keepdims=True)
        probs = np.exp(logs)
        total = probs.sum(axis=-1, keepdims=True)
        return logs - np.log(total), probs / total
    if not isinstance(observed, dist.CategoricalProbs):
        raise TypeError(f"expected a Categorical, got {type(observed).__name__}")
    return None, np.asarray(observed.probs)


def top_label(probs: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The confidence in the predicted class and whether it was right, both (N,).

    Of classes tied for the largest probability the first one is the prediction.

    Args:
        probs: (N, K).
        codes: (N,), classes 0 to K - 1.
    """
    label = probs.argmax(axis=1)
    return at_class(probs, label), label == codes


def at_class(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The entry of each row's class, (N,).

    Args:
        table: (N, K).
        codes: (N,).
    """
    return table.reshape(-1)[codes + table.shape[1] * np.arange(codes.size)]


def entropy(probs: np.ndarray) -> np.ndarray:
    r"""$-\sum_k p_k \ln p_k$ in nats, (N,); a class of probability 0 adds nothing.

    Args:
        probs: (N, K).

    >>> import numpy as np
    >>> print(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).round(4))
    [0.6931 0.    ]
    """
    logs = np.log(probs if probs.min() > 0 else np.where(probs > 0, probs, 1.0))
    return np.maximum(-np.einsum("nk,nk->n", probs, logs), 0.0)


def binary(
    probability: np.ndarray, outcome: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and outcomes of yes-no events, checked, both float64 (n,).

    Args:
        probability: (n,), between 0 and 1.
        outcome: (n,), booleans, or 0 and 1.

    Raises:
        ValueError: for other shapes or values; the first such row is named.
    """
    p, y = np.asarray(probability, np.float64), np.asarray(outcome)
    if p.ndim != 1 or p.size == 0 or y.shape != p.shape:
        raise ValueError(
            "expected probabilities and outcomes of the same shape (n,) with n >= 1, "
            f"got {p.shape} and {y.shape}"
        )
    # Single precision may exceed 1 by rounding.
    ok = (p >= -1e-6) & (p <= 1 + 1e-6)
    if not ok.all():
        row = first_bad(ok)
        raise ValueError(
            f"expected probabilities between 0 and 1, got {p[row]} at row {row}"
        )
    ok = (y == 0) | (y == 1)
    if not ok.all():
        row = first_bad(ok)
        raise ValueError(f"expected outcomes 0 or 1, got {y[row]} at row {row}")
    return p, y.astype(np.float64)


def classes(probs: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities and class codes, checked: float64 (n, K) and integers (n,).

    Args:
        probs: (n, K), each row summing to 1 within 1e-4.
        codes: (n,), classes 0 to K - 1.

    Raises:
        ValueError: for other shapes or values; the first such row is named.
    """
    p, y = np.asarray(probs, np.float64), np.asarray(codes)
    if p.ndim != 2 or p.size == 0 or p.shape[1] < 2 or y.shape != p.shape[:1]:
        raise ValueError(
            "expected probabilities of shape (n, K) with K >= 2 and codes of shape "
            f"(n,), got {p.shape} and {y.shape}"
        )
    ok = (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= 1e-4)
    if not ok.all():
        row = first_bad(ok)
        raise ValueError(
            f"expected probabilities of at least 0 that sum to 1, got {p[row]} at row "
            f"{row}"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"expected integer class codes, got dtype {y.dtype}")
    ok = (y >= 0) & (y < p.shape[1])
    if not ok.all():
        row = first_bad(ok)
        raise ValueError(
            f"expected class codes 0 to {p.shape[1] - 1}, got {y[row]} at row {row}"
        )
    return p, y
