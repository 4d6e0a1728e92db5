"""JSON lines: one object per line; the item is a string, an integer, or a list of them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from xclass.data import text
from xclass.data.columns import Columns, IdKind, resolve_columns
from xclass.data.diagnosis import RowChecks, float_ids, mixed_types
from xclass.data.options import IngestOptions
from xclass.errors import DataError
from xclass.frames import scan_ndjson

SAMPLE_LINES = 1000
INT64 = range(-(2**63), 2**63)


class JsonLines:
    """Ids are strings or integers, as the first lines have them; a column that mixes both is refused.

    A list of items stands for that many pairs; weight and time may be lists of the same length. Blank lines are
    passed over.
    """

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """Names and types of the ids from the first thousand lines."""
        records = _sample(path)
        names = list(dict.fromkeys(name for record in records for name in record))
        found = resolve_columns(names, options, path)
        kinds = {f"{role}_kind": _kind(records, str(found[role]), path) for role in ("query", "item")}
        lists = tuple(
            role for role, name in found.items() if name and any(isinstance(r.get(name), list) for r in records)
        )
        times = [value for record in records for value in _values(record.get(str(found["time"])))]
        fractions = any(isinstance(value, float) for value in times)
        return Columns(**found, names=tuple(names), lists=lists, fractions=fractions, **kinds)  # type: ignore[arg-type]

    def read(self, path: Path, columns: Columns) -> pl.LazyFrame:
        """Polars' reader with a schema of the used columns; lists are exploded."""
        used = columns.used()
        inner = {
            "query": pl.Int64 if columns.query_kind == "int64" else pl.String,
            "item": pl.Int64 if columns.item_kind == "int64" else pl.String,
            "weight": pl.Float64,
            "time": pl.Float64 if columns.fractions else pl.Int64,
        }
        schema = {name: pl.List(inner[role]) if role in columns.lists else inner[role]() for role, name in used.items()}
        frame = scan_ndjson(path, schema=schema).select(pl.col(name).alias(role) for role, name in used.items())
        return explode_lists(frame, columns.lists)

    def looks_wrong(self, path: Path, columns: Columns) -> bool:
        """Whether a column of strings may hold something else, which Polars would turn into a string."""
        patterns = []
        for role, kind in (("query", columns.query_kind), ("item", columns.item_kind)):
            if kind == "string":
                key = re.escape(json.dumps(columns.used()[role], ensure_ascii=False)) + r"\s*:\s*"
                patterns += [key + r'[^"\[\s]', key + r'\[\s*(?:"(?:[^"\\]|\\.)*"\s*,\s*)*[^"\s\]]']
        if not patterns:
            return False
        suspects = pl.scan_lines(path, glob=False).filter(pl.col("line").str.contains("|".join(patterns)))
        return len(suspects.head(1).collect(engine="streaming")) > 0

    def diagnose(self, path: Path, columns: Columns) -> None:
        """Every line: UTF-8, JSON, an object, types of the ids, weight, time."""
        used = columns.used()
        with RowChecks(path) as checks:
            for number, line in text.numbered_lines(path):
                if not line.strip():
                    continue
                record = _record(line, path, number)
                for role, kind in (("query", columns.query_kind), ("item", columns.item_kind)):
                    for value in _values(record.get(used[role])):
                        _check_type(value, kind, used[role], checks.at(number))
                for row in _rows(record, used, checks.at(number)):
                    checks.row(used, row, number)


def explode_lists(frame: pl.LazyFrame, lists: tuple[str, ...]) -> pl.LazyFrame:
    """Ids as strings, one row per pair. An empty list becomes a null item; a null in or for one becomes empty."""
    strings = pl.col("query").cast(pl.String)
    if not lists:
        return frame.with_columns(strings, pl.col("item").cast(pl.String).fill_null(""))
    items = pl.col("item").cast(pl.List(pl.String)).list.eval(pl.element().fill_null("")).fill_null(pl.lit([""]))
    return frame.with_columns(strings, items).explode(lists, empty_as_null=True)


def _record(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            "this line is not JSON",
            where=f"{path}, line {number:,}",
            wanted="one JSON object per line",
            got=str(error),
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


def _values(cell: Any) -> list[Any]:
    return cell if isinstance(cell, list) else [cell]


def _kind(records: list[dict[str, Any]], column: str, path: Path) -> IdKind:
    for record in records:
        for value in _values(record.get(column)):
            if isinstance(value, str):
                return "string"
            if isinstance(value, int) and not isinstance(value, bool):
                return "int64"
            if isinstance(value, float):
                raise float_ids(path, column, value)
            if value is not None:
                raise mixed_types(path, column, "strings or integers", value)
    return "string"


def _check_type(value: Any, kind: IdKind, column: str, where: str) -> None:
    if value is None:
        return
    if isinstance(value, float):
        raise float_ids(where, column, value)
    wanted = str if kind == "string" else int
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise mixed_types(where, column, "strings" if kind == "string" else "integers", value)
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


def _sample(path: Path) -> list[dict[str, Any]]:
    text.head(path)
    lines = itertools.islice(text.numbered_lines(path), SAMPLE_LINES)
    return [_record(line, path, number) for number, line in lines if line.strip()]
