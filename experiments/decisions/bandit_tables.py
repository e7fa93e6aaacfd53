"""Tables of the bandit experiments."""

from __future__ import annotations

from typing import Any


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a run: regret and exponent with intervals, calibration at the end."""
    heads = ("environment", "policy", "width", "regret", "largest seed", "exponent")
    heads += ("0.9 interval holds", "mean z²", "s")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    before = ""
    for row in rows:
        title = f"{row['environment']}, {row['rounds']} rounds, {row['seeds']} seeds"
        cells = [
            "" if title == before else title,
            row["policy"],
            str(row["width"]),
            shown(row["regret"], ".0f"),
            f"{row['largest']:.0f}",
            shown(row["exponent"], ".2f"),
            mean(row["coverage_90"], ".2f"),
            mean(row["square"], ".2g"),
            f"{row['seconds']:.0f}",
        ]
        before = title
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claims_markdown(claims: list[dict[str, Any]]) -> str:
    """One row an environment and width, a column a claim."""
    heads = (
        "environment",
        "width",
        "15: theory − evidence",
        "15: its limit − evidence",
        "16: greedy − evidence",
        "17: exponent, theory",
        "17: exponent, its limit",
    )
    columns = [
        (15, "theory"),
        (15, "theory's limit"),
        (16, "theory"),
        (17, "theory"),
        (17, "theory's limit"),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    places = dict.fromkeys((one["environment"], one["width"]) for one in claims)
    for environment, width in places:
        cells = [environment, str(width)]
        for number, theory in columns:
            (one,) = (
                each
                for each in claims
                if (each["environment"], each["width"]) == (environment, width)
                and (each["number"], each["theory"]) == (number, theory)
            )
            cells.append(_decided(one, ".0f" if number != 17 else ".2f"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _decided(claim: dict[str, Any], form: str) -> str:
    score = claim["statistic"]
    ends = score["interval"]
    text = f"{score['value']:{form}}"
    if ends is not None:
        text += f" ({ends[0]:{form}} to {ends[1]:{form}})"
    return f"{text}: {claim['word']}"


def shown(interval: dict[str, float | None], form: str) -> str:
    """A mean and its interval."""
    if interval["mean"] is None:
        return "–"
    text = f"{interval['mean']:{form}}"
    if interval["lower"] is None:
        return text
    return f"{text} ({interval['lower']:{form}} to {interval['upper']:{form}})"


def mean(interval: dict[str, float | None], form: str) -> str:
    """A mean alone."""
    return "–" if interval["mean"] is None else f"{interval['mean']:{form}}"
