"""The page of a bandit run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.bandit import drawings
from ntkuq.report.escape import plain, shorten
from ntkuq.report.page import Page
from ntkuq.report.sections.blocks import Figure, Row, Section, Table, Text


#: Verdict codes in words.
WORDS = {
    "better than chance": "Better than random arms",
    "still learning": "Regret slower than linear",
    "honest where it chose": "Honest where it chose",
}


def bandit_page(document: Mapping[str, Any]) -> Page:
    """Regret, each seed, and calibration at the chosen arms."""
    made = document["provenance"]
    world = shorten(plain(document["environment"]), 80)

    def draw(key: str) -> Any:
        if key == "regret":
            return drawings.regret(document)
        honest = 0.9 if key == "coverage_90" else 1.0
        return drawings.calibration(document, key, honest)

    return Page(
        title=f"What is regretted: {world}",
        subtitle=" · ".join(
            (
                shorten(plain(document["policy"]), 120),
                f"{document['rounds']} rounds",
                formats.plural(document["seeds"], "seed"),
            )
        ),
        verdict=tuple(document["verdict"]),
        sections=tuple(part(document) for part in (_regret, _calibration, _run)),
        draw=draw,
        version=plain(made.get("ntkuq") or "version not recorded"),
        created=plain(made.get("created") or "date not recorded"),
        schema=document["schema"],
        words=WORDS,
    )


def _cell(interval: Mapping[str, float | None], form: str = ".1f") -> str:
    if interval["mean"] is None:
        return formats.MISSING
    text = f"{interval['mean']:{form}}"
    if interval["lower"] is None or interval["upper"] is None:
        return text
    return f"{text}\n[{interval['lower']:{form}}, {interval['upper']:{form}}]"


def _regret(document: Mapping[str, Any]) -> Section:
    numbers = Table(
        "Means over seeds with 95 % intervals.",
        ("", "Value, interval"),
        (
            Row("Regret", (_cell(document["regret"]),)),
            Row("Regret of random arms", (_cell(document["random"]),)),
            Row("Paired difference", (_cell(document["minus_random"]),)),
            Row("Regret of the last quarter", (_cell(document["last_quarter"]),)),
            Row("Exponent (1 is linear)", (_cell(document["exponent"], ".2f"),)),
        ),
    )
    seeds = Table(
        "Each seed: a seed that did not learn shows here, not in the mean.",
        ("Seed", "Regret", "Last quarter", "Exponent", "Rewards"),
        tuple(
            Row(
                str(number),
                (
                    f"{seed['regret']:.1f}",
                    f"{seed['last_quarter']:.1f}",
                    formats.MISSING
                    if seed["exponent"] is None
                    else f"{seed['exponent']:.2f}",
                    f"{seed['reward']:.1f}",
                ),
            )
            for number, seed in enumerate(document["per_seed"])
        ),
        folded=True,
    )
    points = document["curve"][:: max(len(document["curve"]) // 20, 1)]
    curve = Table(
        "Cumulative regret.",
        ("Round", "Mean, interval"),
        tuple(Row(str(p["round"]), (_cell(p),)) for p in points),
    )
    return Section(
        "regret",
        "Regret",
        "How much was lost against the best arm of each round?",
        (
            numbers,
            Figure(
                "regret",
                "Cumulative regret",
                "Flat where the policy chooses the best arm; the band is the 95 % "
                "interval over seeds, the dashed line what random arms come to.",
                f"It ends at {document['regret']['mean']:.1f}, random arms at "
                f"{document['random']['mean']:.1f}.",
                curve,
            ),
            seeds,
        ),
    )


def _calibration(document: Mapping[str, Any]) -> Section:
    blocks = [block for block in document["calibration"] if block["count"]]
    if not blocks:
        text = Text("This policy predicts no rewards, or none before its last fit.")
        return _honest((text,))
    rows = tuple(
        Row(
            f"{block['from'] + 1} to {block['to']}",
            (
                _cell(block["coverage_90"], ".3f"),
                _cell(block["square"], ".2f"),
                _cell(block["nll"], ".2f"),
            ),
        )
        for block in blocks
    )
    table = Table(
        "Rewards of the chosen arms against what was predicted before they came.",
        ("Rounds", "90 % interval holds", "Mean z²", "Minus log density, nats"),
        rows,
    )
    ends = [block["coverage_90"]["mean"] for block in (blocks[0], blocks[-1])]
    return _honest(
        (
            Text(
                "A policy sees rewards only where it chose, and it chooses where its "
                "model is too hopeful: intervals that hold on random test data may "
                "fail here."
            ),
            Figure(
                "coverage_90",
                "How often 90 % intervals hold",
                "Block by block of rounds; dashed, what they promise.",
                f"From {ends[0]:.3f} in the first block to {ends[1]:.3f} in the last.",
                table,
            ),
        )
    )


def _honest(blocks: tuple[Any, ...]) -> Section:
    return Section(
        "calibration",
        "Honest where it chose",
        "Did the rewards come as predicted at the arms that the policy chose?",
        blocks,
    )


def _run(document: Mapping[str, Any]) -> Section:
    rows = (
        Row("Environment", (plain(document["environment"]),)),
        Row("Policy", (plain(document["policy"]),)),
        Row(
            "Seeds whose λ is the smallest or largest it may be",
            (f"{document['at_an_end']} of {document['seeds']}",),
        ),
        Row("Time of all seeds", (formats.seconds(document["seconds"]),)),
        Row("Command", (plain(document["provenance"].get("command") or ""),)),
    )
    return Section(
        "setup",
        "How it was done",
        "Can it be repeated?",
        (Table("Setting of the run.", ("", "Value"), rows),),
    )
