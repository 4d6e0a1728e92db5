"""Columns in the names of folders, as Spark, Hive and Ray write them: ``day=2024-05-01/country=DE/part-0.parquet``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from xclass.ingest.reading.id_encoder import is_canonical_int64

NULL = "__HIVE_DEFAULT_PARTITION__"
FOLDER = re.compile(r"([^=/]+)=(.*)", re.DOTALL)


def split_folder(name: str) -> tuple[str, str] | None:
    """Key and value of a folder's name, or None: ``%3A`` and the like are taken back.

    >>> split_folder("hour=12%3A00"), split_folder("part-0")
    (('hour', '12:00'), None)
    """
    found = FOLDER.fullmatch(name)
    return None if found is None else (unquote(found[1]), unquote(found[2]))


@dataclass(frozen=True)
class FolderKeys:
    """The keys of every file of a source, by the folders between ``root`` and the file.

    A key whose values are all written as an int64 is ("7", not "007") is a column of integers, any other of strings.
    """

    root: Path = field(default_factory=Path)
    integers: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, files: Iterable[Path]) -> FolderKeys:
        """The keys of these files of one source. Reads no file."""
        values: dict[str, set[str]] = {}
        for folder in {file.parent for file in files}:
            for key, value in _keys(root, folder).items():
                values.setdefault(key, set()).update([value] if value is not None else [])
        return cls(root, {key: bool(is_canonical_int64(pl.Series(list(held), dtype=pl.String)).all())
                          for key, held in values.items()})  # fmt: skip

    def values(self, file: Path) -> dict[str, int | str | None]:
        """Key → value for all rows of ``file``; None where its folders lack the key or say that it is null."""
        found = _keys(self.root, file.parent)
        held = {key: found.get(key) for key in self.integers}
        return {key: int(value) if value is not None and self.integers[key] else value for key, value in held.items()}


def _keys(root: Path, folder: Path) -> dict[str, str | None]:
    """Of the folders below ``root`` down to ``folder``; none when ``root`` is the file itself."""
    names = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    pairs = [pair for pair in map(split_folder, names) if pair is not None]
    return {key: None if value == NULL else value for key, value in pairs}
