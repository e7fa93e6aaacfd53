"""Warnings and audit; how to repeat and what to cite."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import citations, formats
from ntkuq.report.audit import findings
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.methods import distinct_labels

from .blocks import Block, Listing, Missing, Row, Section, Table, Text
from .words import shown_text


def audit_section(document: Document) -> Section:
    """Warnings, findings and diagnostics."""
    found = findings(document)
    audit: Block = Text("Nothing found.")
    if found:
        rows = tuple(Row(f.subject, (f.severity, shorten(f.text, 400))) for f in found)
        audit = Table("Findings.", ("Where", "Kind", "What"), rows)
    labels = distinct_labels(document)
    rows = tuple(
        Row(label, (_diagnostics(method["diagnostics"]),))
        for label, method in zip(labels, document["methods"], strict=True)
        if method.get("diagnostics")
    )
    diagnostics: Block = Missing(
        "diagnostics", "Diagnostics", "no method reports diagnostics."
    )
    if rows:
        diagnostics = Table("Diagnostics of the fits.", ("Method", "Reported"), rows)
    return Section(
        "audit", "Warnings and audit", "What could be wrong?", (audit, diagnostics)
    )


def _diagnostics(reported: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{shorten(plain(name), 80)}: {_diagnostic(value)}"
        for name, value in reported.items()
    )


def _diagnostic(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return formats.count(value)
    if isinstance(value, float):
        return formats.number(value)
    return formats.MISSING if value is None else shorten(plain(value), 200)


def reproduce_section(document: Document) -> Section:
    """The command, versions, hashes and references."""
    provenance, data = document["provenance"], document["problem"]["data"]
    versions = provenance.get("versions") or {}
    facts = (
        ("ntkuq", provenance.get("ntkuq")),
        *((shorten(plain(name), 60), version) for name, version in versions.items()),
        ("Platform", provenance.get("platform")),
        ("Created", provenance.get("created")),
        ("Seed", provenance.get("seed")),
        ("SHA-256 of the data", data.get("sha256")),
        ("Fingerprint of the problem", document["problem"].get("fingerprint")),
        ("Schema", document["schema"]),
    )
    command = provenance.get("command")
    blocks: tuple[Block, ...] = (
        Listing("Command", plain(command))
        if command
        else Missing("command", "Command", "the run was not started by a command."),
        Table(
            "Versions and hashes.",
            ("Part", "Value"),
            tuple(Row(name, (shown_text(value),)) for name, value in facts),
        ),
        Listing("What to cite (BibTeX)", citations.bibtex(document)),
    )
    return Section("reproduce", "Reproduce and cite", "How can I repeat this?", blocks)
