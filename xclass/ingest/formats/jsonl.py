"""JSON lines: one object per line; the item is a string, an integer, or a list of them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from xclass.errors import DataError
from xclass.ingest.columns import Columns, IdKind, resolve_columns
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines as text
from xclass.ingest.text.dates import are_dates, text_numbers
from xclass.ingest.text.first_bad_line import RowChecks, float_ids, mixed_types
from xclass.io.frames import parse_ndjson

SAMPLE_LINES = 1000
INT64 = range(-(2**63), 2**63)
SURROGATE = re.compile("[\ud800-\udfff]")
LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])"
)
BLANK_LINE = re.compile(rb"^[ \t\r]*$\n", re.MULTILINE)
Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


class JsonLines:
    """Ids are strings or integers, as the first lines have them; a column that mixes both is refused.

    A list of items stands for that many pairs; weight and time may be lists of the same length. Numbers and dates may
    be strings. Blank lines are passed over.
    """

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """Names and types of the ids from the first thousand lines."""
        records = sample_objects(path)
        names = list(dict.fromkeys(name for record in records.values() for name in record))
        found = resolve_columns(names, options, path)
        kinds = {f"{role}_kind": _kind(records, str(found[role]), path) for role in ("query", "item")}
        first = {role: _first(records, name) for role, name in found.items() if name is not None}
        lists = tuple(role for role, (_, cell) in first.items() if isinstance(cell, list))
        if "query" in lists:
            number, cell = first["query"]
            raise mixed_types(f"{path}, line {number:,}", str(found["query"]), "one query in a line", cell)
        dates = are_dates(value for record in records.values() for value in _values(record.get(str(found["time"]))))
        unused = [name for name in names if name not in found.values()]
        samples = {name: [record.get(name) for record in records.values()] for name in unused}
        return Columns(**found, names=tuple(names), lists=lists, dates=dates, samples=samples, **kinds)  # type: ignore[arg-type]

    def read(self, path: Path, columns: Columns) -> Generator[pl.DataFrame]:
        """Polars' reader with a schema of the used columns, block by block; lists are exploded.

        Where a block may hold what Polars would read as something else, every line of the file is checked, once.
        """
        used = columns.used()
        kinds = {"query": columns.query_kind, "item": columns.item_kind}
        inner = {role: pl.Int64 if kinds.get(role) == "int64" else pl.String for role in used}
        schema = {name: pl.List(inner[role]) if role in columns.lists else inner[role]() for role, name in used.items()}
        roles = [pl.col(name).alias(role) for role, name in used.items()]
        strings = {columns.used()[role]: role in columns.lists for role, kind in kinds.items() if kind == "string"}
        for rows in json_blocks(path, schema, strings, lambda: self.diagnose(path, columns)):
            yield explode_lists(rows.select(roles), columns.lists).with_columns(text_numbers(columns))

    def diagnose(self, path: Path, columns: Columns) -> None:
        """Every line: UTF-8, JSON, an object, types of the ids, weight, time."""
        used = columns.used()
        with RowChecks(path, dates=columns.dates) as checks, closing(text.numbered_lines(path)) as lines:
            for number, line in lines:
                if not line.strip():
                    continue
                record = parse_object(line, path, number)
                for role, kind in (("query", columns.query_kind), ("item", columns.item_kind)):
                    _check_form(record.get(used[role]), role in columns.lists, used[role], checks.at(number))
                    for value in _values(record.get(used[role])):
                        _check_type(value, kind, used[role], checks.at(number))
                rows = _rows(record, used, checks.at(number))
                for row in rows:
                    checks.row(used, row, number)
                if not rows:
                    checks.id(columns.query, record.get(columns.query), number)


def json_blocks(
    path: Path,
    schema: dict[str, Any],
    strings: dict[str, bool],
    check: Callable[[], None],
    block_bytes: int = text.BLOCK_BYTES,
) -> Iterator[pl.DataFrame]:
    """The columns of ``schema``, block after block; ``check`` is called once, when one may not be what Polars read.

    strings: columns that must hold strings alone, or lists of them (True).
    """
    doubtful, checked = [LONE_SURROGATE, *(_no_strings(*column) for column in strings.items())], False
    for block in text.whole_lines(path, block_bytes):
        rows = parse_ndjson(block, schema)
        lines = _count_lines(block)
        if not checked and (_looks_wrong(block, doubtful, schema) or len(rows) != lines):
            check()
            checked = True
        if len(rows) != lines:
            raise DataError("not every line is one object", where=path, wanted=f"{lines:,} objects", got=len(rows))
        yield rows


def _no_strings(name: str, listed: bool) -> re.Pattern[bytes]:
    """A value of this key that is no string, and of which Polars would make one; null is seen otherwise."""
    key = re.escape(json.dumps(name, ensure_ascii=False).encode()) + rb"\s*:\s*"
    inside = rb'\[\s*(?:(?:"(?:[^"\\]|\\.)*"|null)\s*,\s*)*[^"\s\]n]'
    return re.compile(key + (inside if listed else rb'[^"\sn]'))


def _looks_wrong(block: bytes, doubtful: list[re.Pattern[bytes]], names: Iterable[str]) -> bool:
    """Whether a block holds something doubtful, or some key more often than once a line."""
    keys = [json.dumps(name, ensure_ascii=False).encode() for name in names]
    lines = block.count(b"\n")
    return any(pattern.search(block) for pattern in doubtful) or any(block.count(key) > lines for key in keys)


def _count_lines(block: bytes) -> int:
    """The lines of a block that hold something."""
    return block.count(b"\n") - sum(1 for _ in BLANK_LINE.finditer(block))


def explode_lists(frame: Frame, lists: tuple[str, ...]) -> Frame:
    """Ids as strings, one row per pair. An empty list becomes a null item; a null in or for one becomes empty."""
    strings = pl.col("query").cast(pl.String)
    if not lists:
        return frame.with_columns(strings, pl.col("item").cast(pl.String).fill_null(""))
    items = pl.col("item").cast(pl.List(pl.String)).list.eval(pl.element().fill_null("")).fill_null(pl.lit([""]))
    return frame.with_columns(strings, items).explode(lists, empty_as_null=True)


def parse_object(line: str, path: Path, number: int) -> dict[str, Any]:
    """The JSON object of a line; DataError for anything else, and for a key or a list that has two meanings."""
    try:
        record = text.parse_json(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "this line is not JSON",
            where=f"{path}, line {number:,}",
            wanted="one JSON object per line",
            got=str(error)[:200],
            do="mend the line",
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            "this line is not a JSON object",
            where=f"{path}, line {number:,}",
            wanted='for example {"user_id": "7", "item_id": "12"}',
            got=line[:80],
            do="write one object per line, not one array around all",
        )
    return record


def has_surrogate(value: str) -> bool:
    """Whether a string holds half of a pair of surrogates, which is no character: Polars would make a NUL of it."""
    return SURROGATE.search(value) is not None


def _values(cell: Any) -> list[Any]:
    return cell if isinstance(cell, list) else [cell]


def _first(records: dict[int, dict[str, Any]], column: str) -> tuple[int, Any]:
    """The first line that has something in this column, and what."""
    there = ((number, record[column]) for number, record in records.items() if record.get(column) is not None)
    return next(there, (1, None))


def _kind(records: dict[int, dict[str, Any]], column: str, path: Path) -> IdKind:
    for number, record in records.items():
        for value in _values(record.get(column)):
            if isinstance(value, str):
                return "string"
            if isinstance(value, int) and not isinstance(value, bool):
                return "int64"
            if isinstance(value, float):
                raise float_ids(f"{path}, line {number:,}", column, value)
            if value is not None:
                raise mixed_types(f"{path}, line {number:,}", column, "strings or integers", value)
    return "string"


def _check_form(cell: Any, listed: bool, column: str, where: str) -> None:
    """A column holds lists in every line or in none."""
    if cell is not None and isinstance(cell, list) != listed:
        raise mixed_types(where, column, "a list" if listed else "one id", cell)


def _check_type(value: Any, kind: IdKind, column: str, where: str) -> None:
    if value is None:
        return
    if isinstance(value, float):
        raise float_ids(where, column, value)
    wanted = str if kind == "string" else int
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise mixed_types(where, column, "strings" if kind == "string" else "integers", value)
    if isinstance(value, str) and has_surrogate(value):
        raise DataError(
            f'an id in column "{column}" holds half of a pair of surrogates, which is no character',
            where=where,
            got=ascii(value)[:80],
            do="write the file again as UTF-8",
        )
    if isinstance(value, int) and value not in INT64:
        raise DataError(
            f'an id in column "{column}" does not fit 64 bits',
            where=where,
            got=value,
            do="write the ids of this column as strings",
        )


def _rows(record: dict[str, Any], used: dict[str, str], where: str) -> list[dict[str, Any]]:
    """The pairs of one object, by meaning."""
    lists = {role: record.get(name) for role, name in used.items() if isinstance(record.get(name), list)}
    if not lists:
        return [{role: record.get(name) for role, name in used.items()}]
    lengths = {role: len(value) for role, value in lists.items()}  # type: ignore[arg-type]
    if "item" not in lists or len(set(lengths.values())) > 1:
        raise DataError(
            "the lists of this line differ in length", where=where, got=lengths, do="give every item one value"
        )
    scalars = {role: record.get(name) for role, name in used.items() if role not in lists}
    return [{**scalars, **dict(zip(lists, values, strict=True))} for values in zip(*lists.values(), strict=True)]


def sample_objects(path: Path) -> dict[int, dict[str, Any]]:
    """Number → object of the first thousand lines."""
    text.head(path)
    with closing(text.numbered_lines(path)) as lines:
        some = itertools.islice(lines, SAMPLE_LINES)
        return {number: parse_object(line, path, number) for number, line in some if line.strip()}
