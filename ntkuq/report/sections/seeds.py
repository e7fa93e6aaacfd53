"""Does it hang on the seed? Scores over repetitions of the whole comparison."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.methods import score_name, score_of, short_label

from .blocks import Block, Missing, Row, Section, Table, Text
from .words import score_cell


def seeds_section(document: Document) -> Section:
    """One row a method, and what the seeds say about the choice."""
    blocks: list[Block] = [Text(sentence(document))]
    if document["seeds"]["rows"]:
        blocks.append(_table(document["seeds"]))
    else:
        why = "no method has a finite score in every seed."
        blocks.append(Missing("over-seeds", "Scores over seeds", why))
    return Section(
        "seeds",
        "Does it hang on the seed?",
        "Would another seed choose another method?",
        tuple(blocks),
    )


def _table(seeds: Mapping[str, Any]) -> Table:
    score, held = score_name(seeds["score"]), seeds.get("calibration")
    decided = (
        "The network is the given one in every seed; a seed decides draws, and what the"
        " methods train themselves."
        if seeds["trained"]
        else "A seed decides initialization, batches and draws; the data stay."
    )
    headings = [
        "Method",
        score[:1].upper() + score[1:],
        "Standard deviation over seeds",
        "Difference to the best",
        "Best in so many seeds",
    ]
    if held:
        headings.append(_heading(held, seeds["rows"]))
    return Table(
        f"Means over {seeds['count']} seeds on the same test points ± standard error"
        f" over seeds, and 95 % interval. {decided} Differences are paired by seed and"
        " adjusted for their number.",
        tuple(headings),
        tuple(_row(row, seeds["score"], held) for row in seeds["rows"]),
    )


def _heading(held: str, rows: Any) -> str:
    if held == "ece":
        return "Calibration error, points"
    known = (row["scores"].get(held) for row in rows)
    level = next((s["level"] for s in known if s and s.get("level") is not None), None)
    if level is None:
        return "Coverage, %"
    return f"Coverage of {formats.level(level)} % intervals, %"


def _row(row: Mapping[str, Any], score: str, held: str | None) -> Row:
    found, gap = row["scores"].get(score), row.get("difference")
    cells = [
        score_cell(found, percentage=False)
        if row["spread"] > 0
        else formats.number((found or {}).get("value")),
        formats.number(row["spread"]) if row["spread"] > 0 else "0, the same each time",
        "the best" if gap is None else score_cell(gap, percentage=False),
        formats.count(row["best"]),
    ]
    if held:
        cells.append(score_cell(row["scores"].get(held), percentage=True))
    return Row(short_label(row), tuple(cells))


def sentence(document: Document) -> str:
    """Which method is best over the seeds, and how much seeds move its score."""
    seeds = document["seeds"]
    rows = {row["label"]: row for row in seeds["rows"]}
    parts = []
    best = rows.get(seeds["best"])
    if best is not None and len(rows) > 1:
        name = score_name(seeds["score"])
        parts.append(
            f"{short_label(best)} has the best {name} on average, and in"
            f" {best['best']} of {seeds['count']} seeds."
        )
        parts.append(_moves(document, best))
        near = [
            short_label(row)
            for row in seeds["rows"]
            if (row.get("difference") or {}).get("distinguishable") is False
        ]
        if near:
            parts.append(f"Over seeds it cannot be told from {', '.join(near)}.")
    if seeds["missing"]:
        lost = "; ".join(
            f"{short_label(one)} in seed {one['seed']}: {one['status']}"
            + (f", {shorten(plain(one['reason']), 120)}" if one.get("reason") else "")
            for one in seeds["missing"][:6]
        )
        more = len(seeds["missing"]) - 6
        lost += f"; and {more} more" if more > 0 else ""
        parts.append(f"Left out, since a seed has no score: {lost}.")
    return " ".join(parts) or "One method alone has nothing to be compared with."


def _moves(document: Document, best: Mapping[str, Any]) -> str:
    if not best["spread"] > 0:
        return "Its score is the same with every seed."
    text = f"Its score moves by {formats.number(best['spread'])} from seed to seed"
    text += " (standard deviation)"
    method = next(
        (m for m in document["methods"] if m["label"] == best["label"]), {"scores": {}}
    )
    error = score_of(method, document["seeds"]["score"]).get("se")
    if error is not None:
        text += f"; the standard error over test points is {formats.number(error)}"
    return text + "."
