"""Does it hang on the seed? Scores over repetitions of the whole comparison."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.methods import score_name

from .blocks import Row, Section, Table, Text
from .words import score_cell


def seeds_section(document: Document) -> Section:
    """One row a method, and what the seeds say about the choice."""
    seeds = document["seeds"]
    score = score_name(seeds["score"])
    table = Table(
        f"Means over {seeds['count']} seeds ± standard error over seeds, on the same"
        " test points, and 95 % interval. A seed decides initialization, batches and"
        " draws of every method; the data stay.",
        (
            "Method",
            score,
            "Standard deviation over seeds",
            "Difference to the best, paired",
            "Best in so many seeds",
            "Coverage of 90 % intervals, or calibration error, %",
        ),
        tuple(_row(row, seeds["score"]) for row in seeds["rows"]),
    )
    return Section(
        "seeds",
        "Does it hang on the seed?",
        "Would another initialization choose another method?",
        (Text(sentence(document)), table),
    )


def sentence(document: Document) -> str:
    """Which method is best over the seeds, and how much seeds move its score."""
    seeds = document["seeds"]
    name, count = seeds["best"], seeds["count"]
    row = next(row for row in seeds["rows"] if row["label"] == name)
    text = (
        f"{plain(name)} has the best {score_name(seeds['score'])} on average, and in"
        f" {row['best']} of {count} seeds. From seed to seed it moves by"
        f" {formats.number(row['spread'])} (standard deviation)"
    )
    method = next(m for m in document["methods"] if m["label"] == name)
    error = ((method.get("scores") or {}).get(seeds["score"]) or {}).get("se")
    text += f"; its standard error over test points is {formats.number(error)}."
    near = [
        plain(row["label"])
        for row in seeds["rows"]
        if _reaches_zero(row["scores"].get("difference"))
    ]
    if near:
        text += f" Over seeds it cannot be told from {', '.join(near)}."
    if seeds["missing"]:
        lost = ", ".join(plain(label) for label in seeds["missing"])
        text += f" Not finished in every seed: {lost}."
    return text


def _reaches_zero(difference: Mapping[str, Any] | None) -> bool:
    if difference is None:
        return False
    ends = difference["interval"]
    return ends is None or ends[0] <= 0.0


def _row(row: Mapping[str, Any], score: str) -> Row:
    scores = row["scores"]
    held = next((scores[n] for n in ("coverage_90", "ece") if n in scores), None)
    gap = scores.get("difference")
    return Row(
        plain(row["label"]),
        (
            score_cell(scores[score], percentage=False),
            formats.number(row["spread"]),
            "the best" if gap is None else score_cell(gap, percentage=False),
            formats.count(row["best"]),
            score_cell(held, percentage=True),
        ),
    )
