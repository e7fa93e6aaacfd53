"""What the race shows: errors, the best peer, the ratio, the table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.race.tasks import NAMES, TASKS, Task


Results = Mapping[str, Mapping[str, Mapping[str, Any]]]

HEADER = (
    "| task | best peer | s | GB | ntkuq, s | GB | ratio | reach | reached "
    "| error of ntkuq | of the peer |"
)


def errors(
    arrays: Mapping[str, np.ndarray], task: str, truth: Path
) -> dict[str, float]:
    """Relative errors of what a contestant found.

    Variances: the largest over all test points and outputs. Everything else: the
    largest difference over the largest entry. KFAC of a bias that meets several
    positions has two conventions; the one that fits better counts.
    """
    with np.load(truth, allow_pickle=False) as archive:
        known = {
            name.removeprefix(f"{task}/"): archive[name]
            for name in archive.files
            if name.startswith(f"{task}/")
        }
    found = {}
    for name, value in arrays.items():
        truths = [known[key] for key in (name, f"exact-{name}") if key in known]
        if truths:
            found[name] = min(_error(name, value, true) for true in truths)
    return found


def _error(name: str, value: np.ndarray, true: np.ndarray) -> float:
    value = np.asarray(value, np.float64)
    if name == "cov":
        value, true = (np.diagonal(c, axis1=-2, axis2=-1) for c in (value, true))
        return float(np.max(np.abs(value - true) / true))
    value = value.reshape(true.shape)
    return float(np.max(np.abs(value - true)) / np.max(np.abs(true)))


def seconds(record: Mapping[str, Any], task: Task) -> float:
    """The fastest warm run: a shared machine only ever adds to it.

    For a product beside gradients: the number of gradients.
    """
    if task.gradients is not None:
        return _fastest(record, "product") / _fastest(record, "gradient")
    return _fastest(record, task.part)


def _fastest(record: Mapping[str, Any], part: str) -> float:
    return min(run[part] for run in record["runs"])


def main_error(record: Mapping[str, Any]) -> float | None:
    """Of the variances; of the evidence, the kernel or the product where none are."""
    found = record.get("errors", {})
    for name in ("cov", "ntk", "ggnv", "factors", "logev"):
        if name in found:
            return found[name]
    return None


def row(name: str, results: Results) -> dict[str, Any] | None:
    """One row: ntkuq, the fastest peer and what was to be reached."""
    task = TASKS[name]
    records = results.get(task.run or name, {})
    done = {who: one for who, one in records.items() if "runs" in one}
    ours = done.pop("ntkuq", None)
    found: dict[str, Any] = {"task": name, "what": task.what}
    if done:
        best = min(done, key=lambda who: seconds(done[who], task))
        found |= {
            "peer": best,
            "peer_seconds": seconds(done[best], task),
            "peer_gigabytes": done[best]["peak_bytes"] / 1e9,
            "peer_error": main_error(done[best]),
        }
    if ours is not None:
        found |= {
            "seconds": seconds(ours, task),
            "gigabytes": ours["peak_bytes"] / 1e9,
            "error": main_error(ours),
        }
    if done and ours is not None:
        found["ratio"] = found["peer_seconds"] / found["seconds"]
    if not done and ours is None:
        return None
    found["reached"] = reached(task, found)
    return found


def reached(task: Task, found: Mapping[str, Any]) -> bool | None:
    """Whether all marks are met; `None` where one of them was not measured."""
    marks = [
        (task.ratio, found.get("ratio"), 1),
        (task.gradients, found.get("seconds"), -1),
        (task.gigabytes, found.get("gigabytes"), -1),
        (task.error, found.get("error"), -1),
    ]
    met = []
    for bound, value, sign in marks:
        if bound is None:
            continue
        if value is None:
            return None
        met.append(sign * value >= sign * bound)
    return all(met)


def markdown(results: Results) -> str:
    """The table of all tasks that were run, and the conditions."""
    rows = [row(name, results) for name in TASKS]
    lines = [HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    lines += [_line(one) for one in rows if one is not None]
    return "\n".join([*lines, "", conditions(results)])


def conditions(results: Results) -> str:
    """Where and when the runs were made, and how busy the machine was."""
    records = [
        one for task in results.values() for one in task.values() if "machine" in one
    ]
    if not records:
        return "Nothing was run."
    machines = {
        f"{one['machine']['processor']}, {one['machine']['cores']} cores"
        for one in records
    }
    days = sorted({one["created"][:10] for one in records})
    loads = sorted(one["load_average"] for one in records)
    sizes = (
        "; the small sizes of --quick" if any(one["quick"] for one in records) else ""
    )
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    return (
        f"{'; '.join(sorted(machines))}; {when}; load average before a run "
        f"{loads[0]:.1f} to {loads[-1]:.1f}{sizes}."
    )


def _line(found: Mapping[str, Any]) -> str:
    task = TASKS[found["task"]]
    script, _, variant = found.get("peer", "").partition("/")
    peer = NAMES.get(script, "–") + (f" ({variant})" if variant else "")
    cells = [
        f"{found['task']}: {found['what']}",
        peer,
        _number(found.get("peer_seconds")),
        _number(found.get("peer_gigabytes")),
        _number(found.get("seconds")),
        _number(found.get("gigabytes")),
        "–" if found.get("ratio") is None else f"{found['ratio']:.3g}×",
        _reach(task),
        {True: "yes", False: "no", None: "–"}[found["reached"]],
        _power(found.get("error")),
        _power(found.get("peer_error")),
    ]
    return "| " + " | ".join(cells) + " |"


def _reach(task: Task) -> str:
    marks = []
    if task.ratio is not None:
        marks.append(f"≥ {task.ratio:g}×")
    if task.gradients is not None:
        marks.append(f"≤ {task.gradients:g}")
    if task.gigabytes is not None:
        marks.append(f"≤ {task.gigabytes:g} GB")
    if task.error is not None:
        marks.append(f"error ≤ {task.error:.0e}")
    return ", ".join(marks) or "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _power(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
