"""Each class against the rest: how often it is predicted, and how often it comes."""

from collections.abc import Sequence

import numpy as np

from .means import mean_score
from .records import Score


def class_table(
    probs: np.ndarray, codes: np.ndarray, names: Sequence[str] | None = None
) -> list[dict]:
    r"""One row a class: its share, its mean probability, and their difference.

    The difference is the mean of $p_{ik} - 1\{y_i = k\}$ over the test points: zero for
    a calibrated model, whatever its accuracy, and positive where the class is predicted
    too often.

    Args:
        probs: (N, C), each row summing to one.
        codes: (N,), class codes.
        names: (C,); the codes unless given.

    Returns:
        Rows with the keys name, n (points of the class), scores (`share`,
        `mean_probability`, `difference`: each a `Score`).

    Raises:
        ValueError: for another number of names than classes.

    >>> import numpy as np
    >>> rows = class_table(np.array([[0.8, 0.2], [0.6, 0.4]]), np.array([0, 1]))
    >>> [(row["name"], row["n"]) for row in rows]
    [('0', 1), ('1', 1)]
    >>> round(rows[0]["scores"]["difference"].value, 3)
    0.2
    """
    classes = probs.shape[1]
    names = [str(k) for k in range(classes)] if names is None else list(names)
    if len(names) != classes:
        raise ValueError(f"expected {classes} names of classes, got {len(names)}")
    rows = []
    for k, name in enumerate(names):
        is_class = (codes == k).astype(float)
        scores: dict[str, Score] = {
            "share": mean_score(is_class),
            "mean_probability": mean_score(probs[:, k]),
            "difference": mean_score(probs[:, k] - is_class),
        }
        rows.append({"name": str(name), "n": int(is_class.sum()), "scores": scores})
    return rows
