"""The predictions that were the most sure and the most wrong."""

import jax
import numpy as np
from jax.typing import ArrayLike
from numpyro import distributions as dist

from ntkuq.calibration.exact import matched
from ntkuq.calibration.top_label import top_label
from ntkuq.posteriors.distributions import Empirical
from ntkuq.posteriors.predictive import Predictive, current


def confident_errors(p: Predictive, y: ArrayLike, n: int = 10) -> dict[str, np.ndarray]:
    r"""The n worst confident errors, worst first, with their rows.

    Classes: wrong predictions of the highest confidence; fewer than n where fewer are
    wrong. Columns `row`, `confidence`, `predicted`, `observed`, `probability` (of what
    was observed).

    Regression: observations farthest out in the tails of their predictions, by
    $2 \min(P(Y \le y), P(Y \ge y))$ and, where that is equal, by $|z|$, $z = (y -
    \mathrm{mean}) / \mathrm{std}$. Columns `row`, `observed`, `mean`, `std`, `z`,
    `tail`.

    With several outputs or positions a column `output` (the place in the flattened
    axes) follows `row`.

    Args:
        p: predictions at N points.
        y: shape of the predictions; in the units of the data, or class codes.
        n: the most rows to return, at least 1.

    Returns:
        Columns by name, (n,) or shorter.

    Raises:
        ValueError: when shapes do not fit, y is not finite, or n < 1.

    >>> p = Predictive.normal(np.zeros(3), np.array([1.0, 0.1, 1.0]))
    >>> worst = confident_errors(p, np.array([0.5, 1.0, -2.0]), n=2)
    >>> worst["row"].tolist(), worst["z"].round(1).tolist()
    ([1, 2], [10.0, -2.0])
    """
    if n < 1:
        raise ValueError(f"expected at least 1 row to return, got {n}")
    with jax.enable_x64(True):
        double, outcome = matched(p, y)
        if double.is_classification:
            return _classes(np.asarray(double.mean), outcome, n)
        tail = _tail(double, outcome)
        observed = current(double.observed)
        mean, std = np.asarray(double.mean), np.sqrt(np.asarray(observed.variance))
    error = outcome - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error == 0, 0.0, error / std)
    columns = {"observed": outcome, "mean": mean, "std": std, "z": z, "tail": tail}
    worst = np.lexsort((-np.abs(z).reshape(-1), tail.reshape(-1)))[:n]
    return _table(worst, outcome.shape, columns)


def _classes(probs: np.ndarray, codes: np.ndarray, n: int) -> dict[str, np.ndarray]:
    flat, observed = probs.reshape(-1, probs.shape[-1]), codes.reshape(-1)
    confidence, right = top_label(flat, observed)
    wrong = np.flatnonzero(~right)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")[:n]]
    columns = {
        "confidence": confidence,
        "predicted": flat.argmax(axis=1),
        "observed": observed,
        "probability": flat[np.arange(observed.size), observed],
    }
    return _table(worst, codes.shape, columns)


def _table(
    worst: np.ndarray, shape: tuple[int, ...], columns: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    outputs = int(np.prod(shape[1:]))
    out = {"row": worst // outputs}
    if outputs > 1:
        out["output"] = worst % outputs
    return out | {name: column.reshape(-1)[worst] for name, column in columns.items()}


def _tail(p: Predictive, y: np.ndarray) -> np.ndarray:
    """The probability of an observation at least as far out, both tails."""
    from scipy import special

    observed = p.observed
    if isinstance(observed, dist.Normal):
        # The complement of a distribution function would round to 0 beyond 8 std.
        z = (y - np.asarray(observed.loc)) / np.asarray(observed.scale)
        return 2 * special.ndtr(-np.abs(z))
    if isinstance(observed, Empirical):
        values = np.asarray(observed.values)
        most = (values <= y[..., None]).mean(axis=-1)
        least = (values >= y[..., None]).mean(axis=-1)
    else:
        most = np.asarray(p.cdf(y))
        least = 1 - np.asarray(p.cdf(y - 1) if observed.is_discrete else most)
    return np.clip(2 * np.minimum(most, least), 0.0, 1.0)
