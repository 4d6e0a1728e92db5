"""The formats that ingest reads: how a file's columns are found, how it is read, how its bad line is found.

A format has three functions over one file:

    columns(path, options) -> Columns      the names and their meaning, from the file's first lines or its schema
    read(path, columns) -> Iterator[frame] columns query, item[, weight][, time]; ids as strings, a row per pair. A null
                                           item is a query without items; a missing id is "" or a null query. Weights
                                           are Float64; times are numbers, or the text of numbers; null: not a number
    diagnose(path, columns) -> None        raises the DataError of the first bad line; returns when nothing is wrong
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import polars as pl

from xclass.data import text
from xclass.data.columns import Columns
from xclass.data.format_csv import Csv, Inter
from xclass.data.format_jsonl import JsonLines
from xclass.data.format_lists import Adjacency, Sequences
from xclass.data.format_parquet import Parquet
from xclass.data.options import IngestOptions
from xclass.errors import lookup


class Format(Protocol):
    """The seam; see the module's docstring."""

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """Names and meaning of the columns."""
        ...

    def read(self, path: Path, columns: Columns) -> Iterator[pl.DataFrame]:
        """The pairs, block after block."""
        ...

    def diagnose(self, path: Path, columns: Columns) -> None:
        """Raise the DataError of the first bad line."""
        ...


FORMATS: dict[str, Format] = {
    "adjacency": Adjacency(),
    "csv": Csv(),
    "parquet": Parquet(),
    "jsonl": JsonLines(),
    "sequences": Sequences(),
    "inter": Inter(),
}

SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".dat": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".inter": "inter",
}  # fmt: skip


def find_format(name: str, path: Path) -> str:
    """``name`` if it is one of FORMATS; for "auto" the format that the file's ending or first lines suggest.

    Lines that all have the same two to four fields are csv; otherwise adjacency when no two lines start with the same
    id, else sequences.

    Raises:
        ConfigError: there is no such format; names the nearest.
    """
    if name != "auto":
        lookup("format", name, {"auto": None, **FORMATS}, where="--format")
        return name
    suffix = Path(text.plain_name(path)).suffix.lower()
    return SUFFIXES.get(suffix) or _from_lines(text.head(path)[:1000], path)


def _from_lines(lines: list[str], path: Path) -> str:
    if lines[0].lstrip().startswith("{"):
        return "jsonl"
    separator = text.find_separator(lines)
    if separator not in (" ", "\t"):
        return "csv"
    rows = [text.split_line(line, " ") for line in lines]
    if len({len(row) for row in rows}) == 1 and 2 <= len(rows[0]) <= 4:
        return "csv"
    return "adjacency" if len({row[0] for row in rows}) == len(rows) else "sequences"
