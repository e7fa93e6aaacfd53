"""`ntkuq data`: what data sets there are."""

from __future__ import annotations

import dataclasses

from ntkuq.cli.commands.base import AbstractCommand


@dataclasses.dataclass(frozen=True)
class Data(AbstractCommand):
    """List the data sets that `--data` takes by name."""

    def execute(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from ntkuq.data import info, names

        table = Table("name", "task", "rows", "columns", "where", box=None)
        for name in names():
            found = info(name)
            task = "regression" if found.classes is None else "classes"
            where = "in the package" if found.shipped else "in $NTKUQ_DATA"
            table.add_row(name, task, f"{found.rows:,}", str(found.columns), where)
        Console().print(table)
        return 0
