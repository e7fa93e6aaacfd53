"""`Comparison`: the result of `compare`, and its views."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ntkuq.calibration import paired, score
from ntkuq.data import Dataset
from ntkuq.posteriors import Predictive
from ntkuq.report.document import SCHEMA, Document
from ntkuq.report.units import Unit, scored
from ntkuq.report.verdicts import verdict
from ntkuq.report.views import write


def assemble(
    provenance: dict[str, Any],
    problem: dict[str, Any],
    units: Mapping[str, Unit],
    *,
    group: np.ndarray | None = None,
    more: Mapping[str, Any] | None = None,
) -> Document:
    """The run document of finished units: methods, paired differences, verdict.

    `more` are entries of its own, from extras.
    """
    document = {
        "schema": SCHEMA,
        "provenance": provenance,
        "problem": problem,
        "methods": [dict(unit.record) for unit in units.values()],
        **(more or {}),
    }
    pointwise = {
        name: unit.arrays["pointwise.nll"]
        for name, unit in units.items()
        if "pointwise.nll" in unit.arrays
    }
    return judged(document, pointwise, group)


def judged(
    document: Mapping[str, Any],
    pointwise: Mapping[str, np.ndarray],
    group: np.ndarray | None,
) -> Document:
    """The document with its comparison and verdict computed."""
    found: dict[str, Any] = {**document, "comparison": None, "verdict": []}
    if pointwise:
        differences = paired(pointwise, group=group)
        found["comparison"] = {
            "score": "nll",
            "best": next(d.label for d in differences if d.is_best),
            "differences": [d.to_dict() for d in differences],
        }
    found["verdict"] = verdict(found)
    return found


@dataclass(frozen=True)
class Comparison:
    """Methods on one problem, compared on the same test points.

    Args:
        document: the run document (`run.json`); everything a report says.
        test: the test data.
        pointwise: label -> score name -> value a test point, (N,).
        directory: where the run is stored, or `None`.

    `print(result)` shows the table and the verdict.
    """

    document: Document = field(repr=False)
    test: Dataset = field(repr=False)
    pointwise: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False)
    directory: Path | None = None

    def __str__(self) -> str:
        from rich.console import Console

        from ntkuq.report import terminal

        out = io.StringIO()
        terminal.render(self.document, Console(file=out, width=200, no_color=True))
        return out.getvalue().rstrip()

    @property
    def best(self) -> str | None:
        """The label of the method with the lowest mean negative log-likelihood."""
        comparison = self.document["comparison"]
        return None if comparison is None else comparison["best"]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        """For notebooks: verdict and table, as text, Markdown and HTML."""
        from ntkuq.report import fragment

        return {
            "text/plain": str(self),
            "text/markdown": fragment.markdown(self.document),
            "text/html": fragment.html(self.document),
        }

    def report(
        self, path: str | PathLike[str], *, baseline: Document | None = None
    ) -> Path:
        """Write a view: .html, .md, .csv, .tex or .json, by the suffix.

        Args:
            path: the file.
            baseline: the document of another run, to tell what changed since.
        """
        return write(self.document, path, baseline)

    def figures(self, folder: str | PathLike[str], suffix: str = ".pdf") -> list[Path]:
        """Write every figure of the report as a file, .pdf, .svg, .png or .pgf."""
        from ntkuq.report import figures

        return figures.write_all(self.document, folder, suffix)

    def rows(self) -> list[dict[str, Any]]:
        """One flat record a method: scores, standard errors, cost."""
        found = []
        for method in self.document["methods"]:
            row = {name: method[name] for name in ("label", "text", "status", "seed")}
            for name, value in (method["scores"] or {}).items():
                row[name], row[f"{name}_se"] = value["value"], value["se"]
            cost = method["cost"] or {}
            row["fit_seconds"] = cost.get("fit_seconds")
            found.append(row)
        return found

    def scalars(self) -> dict[str, float]:
        """One flat dict, label/score -> value, for experiment trackers."""
        return {
            f"{row['label']}/{name}": value
            for row in self.rows()
            for name, value in row.items()
            if isinstance(value, float)
        }

    def add(self, label: str, predictive: Predictive) -> Comparison:
        """The comparison with predictions made elsewhere for the same test inputs.

        Raises:
            ValueError: for a label that is taken, or another number of points.
        """
        if label in self.pointwise:
            raise ValueError(
                f"add: expected a new label, got {label!r}, which is taken; there are "
                f"{', '.join(self.pointwise)}"
            )
        made, wanted = len(predictive.mean), len(self.test)
        if made != wanted:
            raise ValueError(
                f"add: expected {wanted} predictions, one for each test row, got {made}"
            )
        scores = score(predictive, self.test.y)
        record = {
            "label": label,
            "text": "predictions made elsewhere",
            "seed": self.document["provenance"]["seed"],
            "status": "done",
            "reason": None,
            "hyperparameters": [],
            "log_marginal_likelihood": None,
            "cost": None,
            "diagnostics": {},
            "predictions": None,
        } | scored(scores)
        methods = [*self.document["methods"], record]
        document = {**self.document, "methods": methods}
        pointwise = {**self.pointwise, label: dict(scores.pointwise)}
        losses = {name: v["nll"] for name, v in pointwise.items() if "nll" in v}
        return Comparison(
            judged(document, losses, self.test.group),
            self.test,
            pointwise,
            self.directory,
        )
