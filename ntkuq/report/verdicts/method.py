"""Which method: the cheapest that the data cannot tell from the best."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.formats import Number
from ntkuq.report.methods import (
    best_index,
    differences,
    distinct_labels,
    is_regression,
    ranking,
    score_name,
    score_of,
)
from ntkuq.report.rules import (
    Answer,
    Candidate,
    Choice,
    choose,
)

from .records import record, record_label


def method_record(
    document: Document, answers: Sequence[Answer], tolerance: Number
) -> dict[str, Any]:
    """The recommended method, and why."""
    done = _done(document)
    if not done:
        sentence = "no method finished; see the audit for the reasons."
        return record("method", None, "cannot tell", sentence, "method", tolerance)
    if len(done) == 1 or best_index(document) is None:
        found = formats.plural(len(done), "method")
        sentence = f"{found} finished, and no comparison is recorded."
        return record("method", None, "cannot tell", sentence, "method", tolerance)
    candidates, n = _candidates(document, answers, done)
    choice = choose(candidates, n)
    sentence = _method_sentence(document, candidates, choice, n, done)
    answer: Answer = "yes" if choice.ranked else "cannot tell"
    label = record_label(document, done[choice.place])
    return record(
        "method",
        label,
        answer if choice.sound else "no",
        sentence,
        "method",
        tolerance,
    )


def recommended(document: Document, answers: Sequence[Answer]) -> int | None:
    """Place of the recommended method: the only one, where there is no other."""
    done = _done(document)
    if len(done) == 1:
        return done[0]
    if not done or best_index(document) is None:
        return None
    return done[choose(*_candidates(document, answers, done)).place]


def _done(document: Document) -> list[int]:
    methods = document["methods"]
    return [i for i, method in enumerate(methods) if method["status"] == "done"]


def _candidates(
    document: Document, answers: Sequence[Answer], done: Sequence[int]
) -> tuple[list[Candidate], int]:
    methods, best = document["methods"], best_index(document)
    paired, labels = differences(document), distinct_labels(document)
    candidates = [
        Candidate(
            label=labels[i],
            seconds=(methods[i].get("cost") or {}).get("fit_seconds"),
            intervals=answers[i],
            tied=i == best or not (paired[i] or {}).get("distinguishable"),
        )
        for i in done
    ]
    return candidates, _comparison_n(document, paired)


def _method_sentence(
    document: Document,
    candidates: Sequence[Candidate],
    choice: Choice,
    n: int,
    done: Sequence[int],
) -> str:
    chosen = candidates[choice.place]
    name = score_name(ranking(document))
    time = chosen.seconds
    cost = "fitting time not available" if time is None else formats.seconds(time)
    points = formats.plural(n, "test point")
    what = "intervals" if is_regression(document) else "probabilities"
    sound = [i for i in choice.tied if candidates[i].intervals != "no"]
    kept = f" with {what} not judged no" if choice.passed_over else ""
    if not choice.ranked:
        whole = formats.plural(len(candidates), "method")
        sentence = (
            f"{points} cannot rank {whole}; choose by cost. {chosen.label} is the"
            f" cheapest to fit ({cost})" + (f" of those{kept}" if kept else "")
        )
        if all(one.seconds is None for one in candidates):
            sentence = f"{points} cannot rank {whole}; choose by what they cost"
    elif len(choice.tied) == 1:
        score = score_of(document["methods"][done[choice.place]], ranking(document))
        value = formats.number(score.get("value"), score.get("se"))
        sentence = (
            f"use {chosen.label}: its {name} is the best, {value}"
            f" {formats.interval(score)}, and {points} tell it from"
            f" {formats.plural(len(candidates) - 1, 'other method')} (fit: {cost})"
        )
    else:
        group = formats.plural(len(sound if kept else choice.tied), "method")
        sentence = (
            f"use {chosen.label}: the cheapest to fit ({cost}) of {group}{kept}"
            f" that {points} cannot tell from the best"
        )
    sentence += _difference_clause(document, done[choice.place], name) + "."
    if choice.passed_over:
        cheaper = [candidates[i].label for i in choice.passed_over]
        others = f" and {formats.count(len(cheaper) - 1)} more" if cheaper[1:] else ""
        verb = "are" if cheaper[1:] else "is"
        sentence += f" {cheaper[0]}{others} {verb} cheaper, but with {what} judged no."
    if not choice.sound:
        sentence += " Its uncertainty is judged no, as is that of every candidate:"
        sentence += " recalibrate before use."
    return sentence


def _difference_clause(document: Document, index: int, name: str) -> str:
    best = best_index(document)
    if best is None or index == best:
        return ""
    difference = differences(document)[index]
    ends = formats.interval(difference or {})
    if not difference or not ends:
        return ""
    value = formats.number(difference["value"], difference.get("se"))
    label = distinct_labels(document)[best]
    return f". Its {name} minus that of {label}, the best: {value} {ends}"


def _comparison_n(
    document: Document, paired: Sequence[Mapping[str, Any] | None]
) -> int:
    sizes = [d["n"] for d in paired if d and d.get("n")]
    if not sizes:
        score = document["comparison"]["score"]
        sizes = [
            score_of(method, score)["n"]
            for method in document["methods"]
            if score_of(method, score).get("n")
        ]
    return min(sizes, default=0)
