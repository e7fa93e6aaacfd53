"""Parquet tables, read as the CSV files they could have been."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ntkuq.cli.errors import UsageError
from ntkuq.data import DataError


@contextlib.contextmanager
def as_csv(path: Path) -> Iterator[Path]:
    """The same table as a CSV file, which exists inside the context only.

    Parquet goes through CSV so that one reader checks every table; numbers are
    written with all their digits. Messages name the Parquet file, and its first row is
    line 2. Any other file is given as it is.

    Raises:
        UsageError: where pyarrow is missing, or the file cannot be read.
        DataError: what reading inside the context raises.
    """
    if path.suffix.lower() != ".parquet":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{path.stem}.csv"
        _write(_rows(path), copy)
        try:
            yield copy
        except DataError as error:
            text = str(error).replace(str(copy), str(path))
            raise DataError(text) from error


def _rows(path: Path) -> Iterator[list[object]]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            f"{path}: expected pyarrow to read Parquet, got an environment without it; "
            "pip install 'ntkuq[table]' (or pyarrow alone), or export the table as CSV"
        )
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: expected a Parquet file: {reason}") from error
    yield list(table.column_names)
    for batch in table.to_batches():
        # by position: names may be there twice, which the reader of CSV reports
        columns = [column.to_pylist() for column in batch.columns]
        yield from (list(row) for row in zip(*columns, strict=True))


def _write(rows: Iterator[list[object]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row in rows:
            writer.writerow(int(v) if isinstance(v, bool) else v for v in row)
