"""The verdict: plain sentences with a number, its interval, n, and what to do.

Every line answers one question with yes, slightly, no, or cannot tell, by a rule that
is printed with it. The rules are in `rules`; `verdict` applies them to a run document.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkuq.calibration.reliability import ErrorTest, error_test

from . import formats
from .audit import findings
from .document import Document
from .escape import shorten
from .formats import Number
from .methods import (
    best_index,
    coverage_score,
    differences,
    distinct_labels,
    is_regression,
    ranking,
    score_name,
    score_of,
)
from .rules import (
    RULES,
    TOLERANCE,
    Answer,
    Candidate,
    Choice,
    binomial_interval,
    choose,
    coverage_answer,
    error_points_needed,
    points_needed,
    reliability_answer,
    shape_is_wrong,
)


def verdict(document: Document, tolerance: Number = TOLERANCE) -> list[dict[str, Any]]:
    """The verdict of a run document, most important line first.

    Args:
        document: as `validate` accepts it; its own "verdict" is not read.
        tolerance: how far coverage or calibration error may be off, as a fraction.

    Returns:
        Records with the keys code, label, answer, sentence, rule, section.
    """
    answers = method_answers(document, tolerance)
    records = [_method_record(document, answers, tolerance)]
    judge = _intervals_record if is_regression(document) else _reliability_record
    done = [(i, m) for i, m in enumerate(document["methods"]) if m["status"] == "done"]
    records += [judge(document, i, answers, tolerance) for i, _ in done]
    if is_regression(document):
        records += [
            _shape_record(document, i, tolerance)
            for i, method in done
            if shape_is_wrong(score_of(method, "pit_ks").get("p"), answers[i])
        ]
    return [*records, _audit_record(document, tolerance)]


def method_answers(
    document: Document, tolerance: Number = TOLERANCE
) -> tuple[Answer, ...]:
    """The interval (or reliability) answer of every method, in document order."""
    return tuple(_answer(document, method, tolerance) for method in document["methods"])


def _record(
    code: str,
    label: str | None,
    answer: Answer,
    sentence: str,
    section: str,
    tolerance: Number,
) -> dict[str, Any]:
    rule = RULES[code].format(tolerance=formats.level(tolerance))
    return {
        "code": code,
        "label": label,
        "answer": answer,
        "sentence": sentence,
        "rule": rule,
        "section": section,
    }


def _record_label(document: Document, index: int) -> str:
    """The method's label as it stands; numbered where methods share it."""
    label = document["methods"][index]["label"]
    shared = sum(method["label"] == label for method in document["methods"]) > 1
    return distinct_labels(document)[index] if shared else label


def _answer(document: Document, method: Mapping[str, Any], tolerance: Number) -> Answer:
    if method["status"] != "done":
        return "cannot tell"
    if is_regression(document):
        score = coverage_score(method)
        if score is None:
            return "cannot tell"
        return coverage_answer(score["hits"], score["n"], score["level"], tolerance)
    test = _error_test(method, tolerance)
    return "cannot tell" if test is None else reliability_answer(test)


def _method_record(
    document: Document, answers: Sequence[Answer], tolerance: Number
) -> dict[str, Any]:
    methods = document["methods"]
    done = [i for i, method in enumerate(methods) if method["status"] == "done"]
    best = best_index(document)
    if not done:
        sentence = "no method finished; see the audit for the reasons."
        return _record("method", None, "cannot tell", sentence, "method", tolerance)
    if len(done) == 1 or best is None:
        found = formats.plural(len(done), "method")
        sentence = f"{found} finished, and no comparison is recorded."
        return _record("method", None, "cannot tell", sentence, "method", tolerance)
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
    n = _comparison_n(document, paired)
    choice = choose(candidates, n)
    sentence = _method_sentence(document, candidates, choice, n, done)
    answer: Answer = "yes" if choice.ranked else "cannot tell"
    label = _record_label(document, done[choice.place])
    return _record(
        "method",
        label,
        answer if choice.sound else "no",
        sentence,
        "method",
        tolerance,
    )


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


def _intervals_record(
    document: Document, index: int, answers: Sequence[Answer], tolerance: Number
) -> dict[str, Any]:
    method, answer = document["methods"][index], answers[index]
    sentence = coverage_sentence(method, answer, tolerance)
    if answer in ("no", "slightly"):
        sentence += _remedy(
            document,
            answers,
            "recalibrate the widths on points kept aside, or use conformal intervals",
        )
    label = _record_label(document, index)
    return _record("intervals", label, answer, sentence, "coverage", tolerance)


def coverage_sentence(
    method: Mapping[str, Any], answer: Answer, tolerance: Number = TOLERANCE
) -> str:
    """The coverage of one method in words, with its exact 95 % interval and n."""
    score = coverage_score(method)
    if score is None:
        return "coverage not available, so the intervals cannot be judged."
    hits, n, level = score["hits"], score["n"], score["level"]
    ends = formats.percents(binomial_interval(hits, n, 0.95))
    fact = (
        f"{formats.level(level)}\u00a0% intervals hold"
        f" {formats.percent(hits / n)}\u00a0% {ends}"
        f" of {formats.plural(n, 'test point')}"
    )
    if answer == "yes":
        return f"{fact}, within {formats.level(tolerance)} points of what they claim."
    if answer == "cannot tell":
        needed = points_needed(level, tolerance)
        if needed <= n:
            return f"{fact}: too near the edge of the tolerance for a clear answer."
        return f"{fact}; about {formats.count(needed)} are needed for a clear yes."
    direction = "too narrow" if hits / n < level else "too wide"
    degree = "slightly " if answer == "slightly" else ""
    return f"{fact}: {degree}{direction}."


def _reliability_record(
    document: Document, index: int, answers: Sequence[Answer], tolerance: Number
) -> dict[str, Any]:
    method, answer = document["methods"][index], answers[index]
    sentence = reliability_sentence(method, answer, tolerance)
    if answer in ("no", "slightly"):
        sentence += _remedy(document, answers, "fit a temperature on points kept aside")
    label = _record_label(document, index)
    return _record("reliability", label, answer, sentence, "reliability", tolerance)


def reliability_sentence(
    method: Mapping[str, Any], answer: Answer, tolerance: Number = TOLERANCE
) -> str:
    """The calibration error of one classifier in words, with its interval and n."""
    score = score_of(method, "ece")
    if score.get("value") is None:
        return "calibration error not available, so the probabilities cannot be judged."
    value, n, limit = score["value"], score.get("n") or 0, formats.level(tolerance)
    ends = [end for end in score.get("interval") or () if end is not None]
    bracket = f" {formats.percents(ends)}" if len(ends) == 2 else ""
    fact = (
        f"stated confidence and accuracy differ by {formats.percent(value)} points"
        f"{bracket} on average over {formats.plural(n, 'test point')}"
    )
    test = _error_test(method, tolerance)
    if test is None:
        return f"{fact}; without the reliability curve this cannot be judged."
    fact += f" (by chance alone: about {formats.percent(test.chance)})"
    if answer == "yes":
        return f"{fact}, too little for a true error of {limit} points."
    if answer == "cannot tell":
        return fact + _error_points_clause(method, n, tolerance)
    gap = _mean_overconfidence(method)
    if gap is None:
        return f"{fact}."
    direction = "too sure" if gap > 0 else "not sure enough"
    degree = "slightly " if answer == "slightly" else ""
    return f"{fact}: {degree}{direction}, by {formats.percent(abs(gap))} points net."


def _error_points_clause(method: Mapping[str, Any], n: int, tolerance: Number) -> str:
    """How many points a calibrated classifier of these confidences would need."""
    confidence, _, count = _reliability_bins(method)
    needed = error_points_needed(confidence, count, tolerance)
    if needed <= n:
        return ": too near the edge of the tolerance for a clear answer."
    if needed > 10**7:
        return "; many more points are needed for a clear yes."
    return f"; about {formats.count(needed)} are needed for a clear yes."


def _error_test(method: Mapping[str, Any], tolerance: Number) -> ErrorTest | None:
    """The test of the calibration error; None where the run has no curve for it."""
    if score_of(method, "ece").get("value") is None:
        return None
    confidence, accuracy, count = _reliability_bins(method)
    if not count.size:
        return None
    return error_test(confidence, accuracy, count, float(tolerance))


def _reliability_bins(
    method: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and count of the bins that hold a point."""
    curve = (method.get("curves") or {}).get("reliability") or {}
    columns = (curve.get(name, ()) for name in ("confidence", "accuracy", "count"))
    rows = [
        row for row in zip(*columns, strict=True) if None not in row and row[2] >= 1
    ]
    confidence, accuracy, count = np.asarray(rows, dtype=float).reshape(-1, 3).T
    return confidence, accuracy, count


def _mean_overconfidence(method: Mapping[str, Any]) -> Number | None:
    """Mean confidence minus accuracy over all points, from the binned curve."""
    confidence, accuracy, count = _reliability_bins(method)
    if not count.size:
        return None
    return float((confidence - accuracy) @ count / count.sum())


def _remedy(document: Document, answers: Sequence[Answer], repair: str) -> str:
    labels = distinct_labels(document)
    others = [labels[i] for i, a in enumerate(answers) if a == "yes"]
    if not others:
        return f" To do: {repair}."
    return f" To do: {repair}, or use a method judged yes, such as {others[0]}."


def _shape_record(document: Document, index: int, tolerance: Number) -> dict[str, Any]:
    method = document["methods"][index]
    score = score_of(method, "pit_ks")
    p, value = score["p"], score["value"]
    sentence = (
        f"right at this level, wrong shape elsewhere (p-value {formats.p_value(p)}"
    )
    if score.get("n"):
        sentence += f", {formats.plural(score['n'], 'test point')}"
    sentence += ")"
    if value is not None:
        ends = [e for e in score.get("interval") or () if e is not None]
        bracket = f" {formats.percents(ends)}" if len(ends) == 2 else ""
        sentence += f": quantiles are off by up to {formats.percent(value)} points"
        sentence += bracket
    sentence += _largest_gap(method)
    sentence += ". To do: recalibrate whole distributions, not widths alone."
    label = _record_label(document, index)
    return _record("shape", label, "no", sentence, "shape", tolerance)


def _largest_gap(method: Mapping[str, Any]) -> str:
    """Where the cumulative distribution of the transforms departs the most."""
    curve = (method.get("curves") or {}).get("pit")
    if not curve:
        return ""
    gaps = [
        (abs(e - g), g, e)
        for g, e in zip(curve["grid"], curve["ecdf"], strict=True)
        if g is not None and e is not None
    ]
    if not gaps:
        return ""
    _, grid, observed = max(gaps)
    return (
        f"; the predicted {formats.percent(grid)}\u00a0% quantile holds"
        f" {formats.percent(observed)}\u00a0% of the points"
    )


def _audit_record(document: Document, tolerance: Number) -> dict[str, Any]:
    found = findings(document)
    issues = sum(finding.severity == "issue" for finding in found)
    tips = len(found) - issues
    answer: Answer = "no" if issues else "slightly" if tips else "yes"
    sentence = "nothing found."
    if found:
        first = found[0]
        counts = f"{formats.plural(issues, 'issue')}, {formats.plural(tips, 'tip')}"
        text = shorten(first.text, 200)
        stop = "" if text.endswith((".", "!", "?", "…")) else "."
        sentence = f"{counts}. First: {first.subject}: {text}{stop}"
    return _record("audit", None, answer, sentence, "audit", tolerance)
