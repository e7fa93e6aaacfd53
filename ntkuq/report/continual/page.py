"""The page of a continual run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.continual import drawings
from ntkuq.report.escape import plain, shorten
from ntkuq.report.page import Page
from ntkuq.report.sections.blocks import Figure, Row, Section, Table, Text
from ntkuq.report.sections.words import score_cell


#: Verdict codes in words.
WORDS = {"forgetting": "Forgetting", "calibration over time": "Still calibrated"}
#: What a measure is called in a heading.
NAMES = {
    "accuracy": "Accuracy",
    "r2": "R²",
    "ece": "Calibration error of the top label",
    "coverage": "Coverage of 90 % sets or intervals",
    "nll": "Minus log probability, nats",
    "epistemic": "Epistemic uncertainty",
}


def continual_page(document: Mapping[str, Any]) -> Page:
    """Accuracy matrix, forgetting, calibration and uncertainty over time."""
    made = document["provenance"]
    seeds = formats.plural(document["seeds"], "seed")
    strategy = shorten(plain(document["strategy"]), 120)
    tasks = formats.plural(len(document["tasks"]), "task")

    def draw(key: str) -> Any:
        if key == "matrix":
            return drawings.matrix(document)
        kind, _, name = key.partition("-")
        make = drawings.over_time if kind == "time" else drawings.each_task
        return make(document, name)

    return Page(
        title=f"What is forgotten: {shorten(plain(document['data']['stream']), 80)}",
        subtitle=" · ".join((strategy, plain(document["setting"]), tasks, seeds)),
        verdict=tuple(document["verdict"]),
        sections=tuple(part(document) for part in (_summary, _matrix, _time, _run)),
        draw=draw,
        version=plain(made.get("ntkuq") or "version not recorded"),
        created=plain(made.get("created") or "date not recorded"),
        schema=document["schema"],
        words=WORDS,
    )


def _summary(document: Mapping[str, Any]) -> Section:
    rows = tuple(
        Row(plain(name).capitalize(), (score_cell(score, percentage=False),))
        for name, score in document["scores"].items()
    )
    return Section(
        "summary",
        "In numbers",
        "How much was learned, and how much of it is left?",
        (
            Table(
                "Means over seeds ± standard error, 95 % intervals. Forgetting is the "
                "mean over the T − 1 earlier tasks of the best value since a task was "
                "learned minus the last; relative forgetting is that over the value "
                "when learned.",
                ("Score", "Value ± SE, interval"),
                rows,
            ),
        ),
    )


def _matrix(document: Mapping[str, Any]) -> Section:
    main = document["main"]
    values = document["measures"][main]
    size, seeds = len(document["tasks"]), len(values)
    rows = tuple(
        Row(
            plain(document["tasks"][k]),
            tuple(
                f"{sum(one[k][j] for one in values) / seeds:.3f}" for j in range(size)
            ),
        )
        for k in range(size)
    )
    name = NAMES[main]
    first = sum(one[-1][0] for one in values) / seeds
    table = Table(
        f"{name} on the test data of each task (columns) after each task (rows), means "
        f"over {formats.plural(seeds, 'seed')}; above the diagonal, not met yet.",
        ("After", *map(plain, document["tasks"])),
        rows,
        folded=True,
    )
    return Section(
        "matrix",
        "Task by task",
        "Which task was forgotten, and when?",
        (
            Figure(
                "matrix",
                f"{name} of each task after each task",
                "Along a column a task is forgotten; the diagonal is right after "
                "learning.",
                f"After the last task it is {first:.2f} on the first one.",
                table,
            ),
        ),
    )


def _time(document: Mapping[str, Any]) -> Section:
    blocks: list[Any] = [
        Text(
            "On the tasks met so far, after each task. A method that knows what it has "
            "forgotten grows uncertain there and stays calibrated."
        )
    ]
    there = [n for n in ("ece", "coverage", "nll") if n in document["over_time"]]
    blocks += [_over_time(document, name) for name in there]
    if "epistemic" in document["measures"]:
        blocks.append(_each_task(document, "epistemic"))
    return Section(
        "over-time",
        "Calibration over time",
        "Can the probabilities still be trusted?",
        tuple(blocks),
    )


def _over_time(document: Mapping[str, Any], name: str) -> Figure:
    scores: Sequence[Mapping[str, Any]] = document["over_time"][name]
    rows = tuple(
        Row(plain(task), (score_cell(score, percentage=False),))
        for task, score in zip(document["tasks"], scores, strict=True)
    )
    ends = [score["value"] for score in (scores[0], scores[-1])]
    said = " to ".join("not finite" if v is None else f"{v:.3g}" for v in ends)
    return Figure(
        f"time-{name}",
        NAMES[name],
        "Mean over the tasks met so far; the band is the 95 % interval over seeds.",
        f"It goes from {said}.",
        Table(
            f"{NAMES[name]}, mean over the tasks met so far.",
            ("After", "Value ± SE, interval"),
            rows,
        ),
    )


def _each_task(document: Mapping[str, Any], name: str) -> Figure:
    values = document["measures"][name]
    seeds, size = len(values), len(document["tasks"])
    rows = tuple(
        Row(
            plain(document["tasks"][j]),
            tuple(
                f"{sum(one[k][j] for one in values) / seeds:.3g}" for k in (j, size - 1)
            ),
        )
        for j in range(size)
    )
    return Figure(
        f"task-{name}",
        f"{NAMES[name]} of each task",
        "One line a task, from when it was learned; mean over seeds.",
        "The first tasks, as far as colors go.",
        Table(
            f"{NAMES[name]}: when a task was learned and after the last one.",
            ("Task", "When learned", "At the end"),
            rows,
        ),
    )


def _run(document: Mapping[str, Any]) -> Section:
    seconds = document["seconds"] or []
    rows = (
        Row("Stream", (plain(document["data"]["stream"]),)),
        Row("Setting", (plain(document["setting"]),)),
        Row("Strategy", (plain(document["strategy"]),)),
        Row("Kept of earlier tasks", (f"{document['keeps']:,} bytes a seed",)),
        Row("Time to learn all tasks", (formats.seconds(sum(seconds)),)),
        Row("Command", (plain(document["provenance"].get("command") or ""),)),
    )
    return Section(
        "setup",
        "How it was done",
        "Can it be repeated?",
        (Table("Setting of the run.", ("", "Value"), rows),),
    )
