"""Reads Equinox modules and doctests the way a user of the package meets them.

An `eqx.Module` is a dataclass without the decorator, so a reader of the source alone
does not see its constructor; a doctest outside an Examples section is plain text to
Markdown. Both are marked here, before the pages are made.
"""

from collections.abc import Iterator
from typing import Any

import griffe


ABSTRACT = {"equinox.AbstractVar", "equinox.AbstractClassVar"}


class EquinoxModules(griffe.Extension):
    """Treat each class that descends from `equinox.Module` as a dataclass."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Mark the classes and the doctests of the package."""
        for thing in list(_members(pkg)):
            if thing.docstring:
                thing.docstring.value = _fenced(thing.docstring.value)
            if isinstance(thing, griffe.Class) and _is_module(thing):
                name = griffe.ExprName("dataclasses.dataclass")
                thing.decorators.append(
                    griffe.Decorator(name, lineno=None, endlineno=None)
                )
                for member in thing.members.values():
                    if isinstance(member, griffe.Attribute):
                        _mark_field(member)


def _members(parent: griffe.Module | griffe.Class) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if isinstance(member, griffe.Class | griffe.Module):
            yield from _members(member)
        elif isinstance(member, griffe.Object):
            yield member


def _is_module(cls: griffe.Class) -> bool:
    for base in cls.bases:
        path = base if isinstance(base, str) else base.canonical_path
        if path == "equinox.Module":
            return True
    return any(
        _is_module(base)
        for base in cls.resolved_bases
        if isinstance(base, griffe.Class)
    )


def _mark_field(field: griffe.Attribute) -> None:
    note = field.annotation
    if isinstance(note, griffe.ExprSubscript) and note.canonical_path in ABSTRACT:
        # A subclass provides it: no argument of the constructor.
        field.labels.discard("instance-attribute")
        field.labels.add("class-attribute")
    call = field.value
    if isinstance(call, griffe.ExprCall) and call.canonical_path == "equinox.field":
        given = {
            argument.name: argument.value
            for argument in call.arguments
            if isinstance(argument, griffe.ExprKeyword)
        }
        field.value = given.get("default", given.get("default_factory"))


def _fenced(text: str) -> str:
    """Put each doctest, which ends at a blank line, into a code block."""
    lines, inside = [], None
    for line in text.splitlines():
        bare = line.lstrip()
        if inside is None and bare.startswith(">>> "):
            inside = line[: len(line) - len(bare)]
            lines += ["", f"{inside}```pycon"]
        elif inside is not None and not bare:
            lines.append(f"{inside}```")
            inside = None
        lines.append(line)
    if inside is not None:
        lines.append(f"{inside}```")
    return "\n".join(lines)
