"""The formats that ingest reads: how a file's columns are found, how it is read, how its bad line is found.

A format has three functions over one file:

    columns(path, options) -> Columns      the names and their meaning, from the file's first lines or its schema
    read(path, columns) -> Generator       columns query, item[, weight][, time]; ids as strings, a row per pair. A null
                                           item is a query without items; a missing id is "" or a null query. Weights
                                           are Float64; times are numbers, or the text of numbers; null: not a number
    diagnose(path, columns) -> None        raises the DataError of the first bad line; returns when nothing is wrong
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from xclass.errors import DataError, lookup
from xclass.ingest.columns import Columns
from xclass.ingest.formats.csv import Csv, Inter
from xclass.ingest.formats.detection import detect_format
from xclass.ingest.formats.jsonl import JsonLines
from xclass.ingest.formats.lists import Adjacency, Sequences
from xclass.ingest.formats.parquet import Parquet
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines


class Format(Protocol):
    """The seam; see the module's docstring."""

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """Names and meaning of the columns."""
        ...

    def read(self, path: Path, columns: Columns) -> Generator[pl.DataFrame]:
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
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".inter": "inter", ".adj": "adjacency",
}  # fmt: skip


def find_format(name: str, path: Path) -> str:
    """The format of one file; see :func:`find_formats`."""
    return find_formats([path], IngestOptions(format=name))[0]


def find_formats(paths: Sequence[Path], options: IngestOptions) -> list[str]:
    """The format of each file: the one that is asked for; else by the file's ending; else, one for all other files,
    by their first lines (:func:`xclass.ingest.formats.detection.detect_format`).

    Raises:
        ConfigError: there is no such format; names the nearest.
        DataError: the lines are explained by two formats, or not as the files beside them are.
    """
    if options.format != "auto":
        lookup("format", options.format, {"auto": None, **FORMATS}, where="--format")
        return [options.format] * len(paths)
    known = [SUFFIXES.get(Path(lines.plain_name(path)).suffix.lower()) for path in paths]
    plain = [path for path, name in zip(paths, known, strict=True) if name is None]
    if not plain:
        return [str(name) for name in known]
    found = detect_format(plain, options)
    beside = next((index for index, name in enumerate(known) if name not in (None, found)), None)
    if beside is not None:
        raise DataError(
            "the files of this directory are in different formats",
            where=paths[beside].parent,
            got=f"{paths[beside].name} is {known[beside]}, {plain[0].name} looks like {found}",
            do="keep the files with pairs alone in a directory, or name one file; or pass --format for all of them",
        )
    return [name or found for name in known]
