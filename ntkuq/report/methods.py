"""Reading the methods of a run document: labels, differences, scores, curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from .document import Document
from .escape import plain, shorten
from .formats import Number
from .rules import LEVEL


def short_label(named: Mapping[str, Any]) -> str:
    """A method's label as one short line."""
    return shorten(plain(named["label"]), 60) or "(no label)"


def distinct_labels(document: Document) -> tuple[str, ...]:
    """One line a method; methods that share a label get a number."""
    labels = [short_label(method) for method in document["methods"]]
    return tuple(
        f"{label} #{labels[: i + 1].count(label)}" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    )


def score_name(score: str) -> str:
    """A score in words, for a sentence.

    >>> score_name("nll")
    'negative log-likelihood'
    """
    return {
        "nll": "negative log-likelihood",
        "crps": "continuous ranked probability score",
        "brier": "Brier score",
        "rmse": "root mean squared error",
    }.get(score, plain(score))


def ranking(document: Document) -> str:
    """The score that the comparison ranks by."""
    return document["comparison"]["score"]


def is_regression(document: Document) -> bool:
    """Whether the task is regression."""
    return document["problem"]["task"] == "regression"


def score_of(method: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A score of a method; empty where there is none."""
    return (method.get("scores") or {}).get(name) or {}


def best_index(document: Document) -> int | None:
    """Place of the method with the best mean score; None without a comparison."""
    comparison = document["comparison"] or {}
    named = [
        (score_of(method, comparison["score"]).get("value"), index)
        for index, method in enumerate(document["methods"])
        if method["status"] == "done" and method["label"] == comparison.get("best")
    ]
    finite = [pair for pair in named if pair[0] is not None]
    return min(finite)[1] if finite else (named[0][1] if named else None)


def differences(document: Document) -> tuple[Mapping[str, Any] | None, ...]:
    """The paired difference of every method, in document order.

    The comparison names methods by label. Methods that share a label are matched in
    their order, finished ones only. None: the best method, or not compared.
    """
    listed: dict[str, list[Mapping[str, Any]]] = {}
    for difference in (document["comparison"] or {}).get("differences", ()):
        listed.setdefault(difference["label"], []).append(difference)
    best = best_index(document)
    found = []
    for index, method in enumerate(document["methods"]):
        queue = listed.get(method["label"])
        if method["status"] != "done" or not queue:
            found.append(None)
        elif index == best:
            own = [d for d in queue if d["value"] in (0, None)]
            if own:
                queue.remove(own[0])
            found.append(None)
        else:
            found.append(queue.pop(0))
    return tuple(found)


def coverage_score(method: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The coverage that the verdict judges: at 90 %, or at the level nearest to it."""
    scores = [
        score
        for name, score in (method.get("scores") or {}).items()
        if name.startswith("coverage")
        and score.get("level") is not None
        and score.get("n")
        and (score.get("hits") is not None or len(known_ends(score)) == 2)
    ]
    return min(scores, key=lambda s: abs(s["level"] - LEVEL), default=None)


def known_ends(score: Mapping[str, Any]) -> list[Number]:
    """The ends of a score's interval that are known."""
    return [end for end in score.get("interval") or () if end is not None]


def cost_points(
    document: Document,
) -> tuple[tuple[int, Number, Mapping[str, Any]], ...]:
    """Place, seconds to fit and score of the methods that have both."""
    name = (document["comparison"] or {}).get("score", "nll")
    found = []
    for index, method in enumerate(document["methods"]):
        duration = (method.get("cost") or {}).get("fit_seconds")
        score = (method.get("scores") or {}).get(name) or {}
        measured = duration is not None and duration > 0
        if method["status"] == "done" and measured and score.get("value") is not None:
            found.append((index, duration, score))
    return tuple(found)


CURVE_COLUMNS = {
    "coverage": ("level", "observed", "lower", "upper"),
    "pit": ("grid", "ecdf", "lower", "upper"),
    "reliability": ("confidence", "accuracy", "count", "lower", "upper"),
    "pav": ("confidence", "accuracy", "lower", "upper"),
    "selective": ("coverage", "risk", "lower", "upper"),
    "spread": ("std", "ratio", "count", "lower", "upper"),
    "widths": ("level", "width"),
}


def with_curve(document: Document, name: str) -> tuple[int, ...]:
    """Places of the finished methods that have this curve, with points in it."""
    return tuple(
        i
        for i, method in enumerate(document["methods"])
        if method["status"] == "done" and curve_rows(method, name)
    )


def curve_rows(method: Mapping[str, Any], name: str) -> tuple[tuple[Number, ...], ...]:
    """The complete points of a curve, thinned to 200 at most."""
    curve = (method.get("curves") or {}).get(name)
    if not curve:
        return ()
    columns = [curve[column] for column in CURVE_COLUMNS[name]]
    rows = [row for row in zip(*columns, strict=True) if None not in row]
    return tuple(thin(rows, 200))


def with_entry(document: Document, name: str) -> tuple[int, ...]:
    """Places of the finished methods whose record has something under this name."""
    return tuple(
        i
        for i, method in enumerate(document["methods"])
        if method["status"] == "done" and method.get(name)
    )


def why_omitted(document: Document, name: str, otherwise: str) -> str:
    """The reason that the run, or a finished method, gives for lacking an analysis."""
    whole = (document.get("omitted") or {}).get(name)
    if whole:
        return plain(whole)
    reasons = {
        reason
        for method in document["methods"]
        if method["status"] == "done"
        and (reason := (method.get("omitted") or {}).get(name))
    }
    return plain("; ".join(sorted(reasons))) if reasons else otherwise


def thin(rows: Sequence, most: int) -> list:
    """Evenly spaced items, the first and last kept."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]
