"""Rows of predictions, truth and train pairs out of text files, in blocks: what is no Parquet becomes Parquet first.

Each reader gives tables of query_id, item_id (strings) and of what else of rank, score (float64) the file has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pydantic_core

from xclass.errors import DataError
from xclass.ingest.text.first_bad_line import float_ids
from xclass.ingest.text.lines import whole_lines
from xclass.queries.given_files import delimited, json_object, say_unused

QUERY, ITEM, RANK, SCORE = "query_id", "item_id", "rank", "score"
IDS, NUMBERS = (QUERY, ITEM), (RANK, SCORE)
TREC_RUN = (QUERY, "q0", ITEM, RANK, SCORE, "tag")
TREC_QRELS = (QUERY, "iteration", ITEM, "relevance")
JSON_LINE = '{"query_id": "…", "item_id": "…", "rank": 1}'


class Blocks(Protocol):
    """The rows of a file, and what is known of the ids when they have been read."""

    integers: set[str]
    """Columns of ids that hold nothing but integers of 64 bits, as the file's types say."""

    def read(self, path: Path) -> Iterator[pl.DataFrame]:
        """The rows, in blocks; DataError names the line or row that is wrong."""
        ...


class Delimited:
    """CSV and TSV: ids are text."""

    def __init__(self, ending: str) -> None:
        self._ending = ending
        self.integers = set[str]()

    def read(self, path: Path) -> Iterator[pl.DataFrame]:
        """The columns that are there; a rank or score that is empty is null."""
        row = 0
        for block in delimited(path, self._ending):
            names = [name for name in (*IDS, *NUMBERS) if name in block.columns]
            check_ids_there(path, block.columns)
            if not row:
                say_unused(path, block.columns if len(block) else (), names)
            found = block.select(names).with_columns(_float(name) for name in names if name in NUMBERS)
            for name in set(names) & set(NUMBERS):
                bad = block[name].is_not_null() & found[name].is_null()
                if bad.any():
                    place = int(bad.arg_max() or 0)
                    where = f"{path}, row {row + place + 1:,}"
                    raise DataError(f"{name} is no number", where=where, wanted="numbers", got=block[name][place])
            yield found
            row += len(block)


class JsonLines:
    """One object a line: ids are strings or integers, and text if there are both."""

    def __init__(self) -> None:
        self.integers = set(IDS)

    def read(self, path: Path) -> Iterator[pl.DataFrame]:
        """All four columns; one that no line of the first block has is left out."""
        first, names = 1, list[str]()
        for block in whole_lines(path):
            lines = block.split(b"\n")
            numbers = [number for number, line in enumerate(lines, first) if line.strip()]
            entries = _objects(path, numbers, [line for line in lines if line.strip()])
            names = names or [name for name in (*IDS, *NUMBERS) if any(name in entry for entry in entries)]
            columns = {name: self._column(path, numbers, name, entries) for name in names}
            yield pl.DataFrame(columns)
            first += block.count(b"\n")

    def _column(self, path: Path, numbers: list[int], name: str, entries: list[dict[str, Any]]) -> pl.Series:
        values = [entry.get(name) for entry in entries]
        kinds = set(map(type, values)) - {type(None)}
        if name in NUMBERS:
            _check_kinds(path, numbers, name, values, kinds, (int, float))
            return pl.Series(name, values, dtype=pl.Float64, strict=False)
        _check_kinds(path, numbers, name, values, kinds, (str, int))
        if kinds == {int}:
            with contextlib.suppress(TypeError, OverflowError):  # beyond 64 bits
                return pl.Series(name, values, dtype=pl.Int64).cast(pl.String)
        if kinds:
            self.integers.discard(name)
        texts = [None if value in (None, "") else str(value) for value in values]  # an empty id is none
        return pl.Series(name, texts, dtype=pl.String)


class Trec:
    """Fields separated by any spaces or tabs: TREC runs, of which the score decides, and judgements above 0."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self.integers = set[str]()

    def read(self, path: Path) -> Iterator[pl.DataFrame]:
        """query_id and item_id, and score of a run."""
        first, number = 1, self._fields[4] if SCORE in self._fields else self._fields[3]
        pattern = r"^\s*" + r"\s+".join([r"(\S+)"] * len(self._fields)) + r"\s*$"
        for block in whole_lines(path):
            lines = pl.DataFrame({"line": block.decode().split("\n")}).with_row_index("number", first)
            found = lines.filter(pl.col("line").str.strip_chars() != "").with_columns(
                pl.col("line").str.extract_groups(pattern).struct.rename_fields(list(self._fields)).alias("fields")
            )
            rows = found.unnest("fields").with_columns(_float(number))
            bad = rows.filter(pl.col(number).is_null() | pl.col(number).is_nan())
            if len(bad):
                wanted, got = " ".join(self._fields), str(bad["line"][0])[:80]
                raise DataError("this is no TREC line", where=f"{path}:{bad['number'][0]}", wanted=wanted, got=got)
            yield rows.select(*IDS, SCORE) if number == SCORE else rows.filter(pl.col(number) > 0).select(IDS)
            first += block.count(b"\n")


def check_ids_there(path: Path, names: Sequence[str]) -> None:
    """DataError where there is no query_id or no item_id among the columns."""
    missing = [name for name in IDS if name not in names]
    if missing:
        wanted, got = " and ".join(missing), ", ".join(names)
        raise DataError("a column is missing", where=path, wanted=wanted, got=got, do="rename the columns")


def _float(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def _objects(path: Path, numbers: list[int], lines: list[bytes]) -> list[dict[str, Any]]:
    """The objects of some lines, parsed at once; one by one where something is wrong with them."""
    joined = b"[" + b",".join(lines) + b"]"
    once = all(joined.count(f'"{name}"'.encode()) <= len(lines) for name in (*IDS, *NUMBERS))
    with contextlib.suppress(ValueError):
        found = pydantic_core.from_json(joined) if once else []
        if len(found) == len(lines) and set(map(type, found)) <= {dict}:
            return list(found)
    pairs = zip(numbers, lines, strict=True)
    return [json_object(path, number, line.decode(), JSON_LINE) for number, line in pairs]


def _check_kinds(
    path: Path, numbers: list[int], name: str, values: list[Any], kinds: set[type], wanted: tuple[type, ...]
) -> None:
    """DataError that names the first line whose value is of another type."""
    if kinds <= set(wanted):
        return
    number, value = next(
        (number, value) for number, value in zip(numbers, values, strict=True) if type(value) in kinds - set(wanted)
    )
    where = f"{path}:{number}"
    if name in IDS and isinstance(value, float):
        raise float_ids(where, name, value)
    words = "numbers" if name in NUMBERS else "strings or integers"
    raise DataError(f"{name} is of the wrong type", where=where, wanted=words, got=str(value)[:80])


READERS: dict[str, Callable[[], Blocks]] = {
    ".csv": lambda: Delimited(".csv"),
    ".tsv": lambda: Delimited(".tsv"),
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".trec": lambda: Trec(TREC_RUN),
    ".run": lambda: Trec(TREC_RUN),
    ".qrels": lambda: Trec(TREC_QRELS),
}
