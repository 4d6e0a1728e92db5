"""Parquet: ids are strings or integers by the file's own types; the item may be a list column."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from xclass.errors import DataError
from xclass.ingest.columns import Columns, IdKind, resolve_columns
from xclass.ingest.formats.jsonl import Frame, explode_lists
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines
from xclass.ingest.text.dates import ACCEPTED, are_dates, text_number
from xclass.ingest.text.first_bad_line import LARGEST_FLOAT32, MAX_NAMED, RowChecks, float_ids
from xclass.io import frames
from xclass.io.frames import parquet_blocks, parquet_schema, scan_parquet

ROWS_PER_BATCH = 500_000
LISTS_PER_BATCH = 20_000
SAMPLED_ROWS = 1000


@dataclass(frozen=True)
class Parquet:
    """A list of items stands for that many pairs; weight and time may be lists of the same length.

    Dates and times of day become microseconds since 1970. keys: columns that the names of the file's folders give, the
    same value in every row; they go before columns of the same name inside.
    """

    keys: Mapping[str, int | str | None] = field(default_factory=dict)

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """From the file's schema."""
        schema = self._schema(path)
        found = resolve_columns(list(schema), options, path)
        kinds = {f"{role}_kind": _kind(schema, str(found[role]), path) for role in ("query", "item")}
        for role in ("weight", "time"):
            if found[role] is not None:
                _check_values(role, str(found[role]), _inner(schema[str(found[role])]), path)
        lists = tuple(role for role, name in found.items() if isinstance(schema.get(str(name)), pl.List))
        if "query" in lists:
            raise DataError(
                f'the query column "{found["query"]}" holds lists',
                where=path,
                do="name a column with one query per row",
            )
        time = found["time"]
        dates = time is not None and _inner(schema[time]) == pl.String and are_dates(self._first_values(path, time))
        samples = {
            name: list(self._first_values(path, name))
            for name, kind in schema.items()
            if name not in found.values() and not kind.is_nested()
        }
        return Columns(**found, names=tuple(schema), lists=lists, dates=dates, samples=samples, **kinds)  # type: ignore[arg-type]

    def read(self, path: Path, columns: Columns) -> Generator[pl.DataFrame]:
        """Polars' reader; lists are exploded."""
        size = LISTS_PER_BATCH if columns.lists else ROWS_PER_BATCH
        for block in parquet_blocks(path, self._meanings(columns), size):
            yield self._plain(block, path, columns)

    def diagnose(self, path: Path, columns: Columns) -> None:
        """The first rows with a missing id, a bad weight or a bad time."""
        frame = scan_parquet(path, row_index_name="row").select(pl.col("row") + 1, *self._meanings(columns))
        bad = self._plain(frame, path, columns).filter(_is_bad(columns)).head(MAX_NAMED + 1)
        try:
            rows = bad.collect(engine="streaming")
        except (*lines.POLARS_ERRORS, OSError) as error:
            raise DataError(
                "this Parquet file can't be read", where=path, got=_first_line(error), do="write it again"
            ) from None
        used = columns.used()
        with RowChecks(path, unit="row", dates=columns.dates) as checks:
            for row in rows.iter_rows(named=True):
                checks.row(used if row["item"] is not None else {"query": columns.query}, row, row["row"])

    def _schema(self, path: Path) -> dict[str, pl.DataType]:
        keys = {key: pl.Int64() if isinstance(value, int) else pl.String() for key, value in self.keys.items()}
        return {**_schema(path), **keys}

    def _meanings(self, columns: Columns) -> list[pl.Expr]:
        """The used columns under the names of their meanings."""
        return [self._column(name).alias(role) for role, name in columns.used().items()]

    def _column(self, name: str) -> pl.Expr:
        if name not in self.keys:
            return pl.col(name)
        value = self.keys[name]
        return pl.repeat(value, pl.len(), dtype=pl.Int64() if isinstance(value, int) else pl.String())

    def _plain(self, frame: Frame, path: Path, columns: Columns) -> Frame:
        """A row per pair, weights and times as numbers; times in text that are no dates stay text."""
        schema = self._schema(path)
        values = [
            _plain_value(role, _inner(schema[name]), columns.dates)
            for role, name in columns.used().items()
            if role in ("weight", "time")
        ]
        return explode_lists(frame, columns.lists).with_columns(values)

    def _first_values(self, path: Path, name: str) -> Iterable[object]:
        if name in self.keys:
            return [self.keys[name]]
        frame = scan_parquet(path).select(name).head(SAMPLED_ROWS)
        values = frame.collect().to_series()
        return values.explode() if isinstance(values.dtype, pl.List) else values


def _is_bad(columns: Columns) -> pl.Expr:
    """Which rows :class:`RowChecks` is to look at."""
    bad = pl.col("query").is_null() | (pl.col("query") == "") | (pl.col("item") == "")
    for role, most in (("weight", LARGEST_FLOAT32), ("time", 2.0**63)):
        if getattr(columns, role) is not None:
            value = pl.col(role).cast(pl.Float64, strict=False)
            wrong = value.is_null() | value.is_nan() | (value > most) | (value < (0 if role == "weight" else -most))
            bad |= pl.col("item").is_not_null() & (wrong | ((value == most) & (role == "time")))
    return bad


def _plain_value(role: str, kind: pl.DataType, dates: bool) -> pl.Expr:
    column = pl.col(role)
    if isinstance(kind, pl.Datetime | pl.Date):
        return column.dt.epoch("us")
    if kind == pl.String:
        return text_number(role, dates)
    return column.cast(pl.Float64) if role == "weight" or kind.is_decimal() else column


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet file by its footer; None when it can't be read."""
    try:
        return frames.count_rows(path)
    except (*lines.POLARS_ERRORS, OSError):
        return None


def _schema(path: Path) -> dict[str, pl.DataType]:
    lines.check_regular(path)
    if path.stat().st_size == 0:
        raise DataError("this file is empty", where=path, wanted="at least one row")
    try:
        return dict(parquet_schema(path))
    except (*lines.POLARS_ERRORS, OSError) as error:
        raise DataError(
            "this is not a Parquet file, or it is cut", where=path, got=_first_line(error), do="write it again"
        ) from None


def _kind(schema: dict[str, pl.DataType], column: str, path: Path) -> IdKind:
    dtype, inner = schema[column], _inner(schema[column])
    if inner.is_integer():
        return "int64"
    if isinstance(inner, pl.String | pl.Categorical | pl.Enum):
        return "string"
    if inner.is_float():
        raise float_ids(path, column, str(dtype))
    raise DataError(
        f'column "{column}" can\'t hold ids', where=path, wanted="integers or strings", got=str(dtype), do="cast it"
    )


def _check_values(role: str, column: str, kind: pl.DataType, path: Path) -> None:
    """DataError when a column of this type can't hold weights or times."""
    dates = role == "time" and isinstance(kind, pl.Datetime | pl.Date)
    if not (kind.is_numeric() or kind == pl.String or dates or (role == "weight" and kind == pl.Boolean)):
        raise DataError(
            f'column "{column}" can\'t hold {role}s',
            where=path,
            wanted="numbers" if role == "weight" else f"numbers, dates, or texts like {ACCEPTED}",
            got=str(kind),
            do=f'cast it, or leave the {role}s out: --{role}-col ""',
        )


def _inner(dtype: pl.DataType) -> pl.DataType:
    """The type of what a list holds, or the type itself."""
    return dtype.inner if isinstance(dtype, pl.List) else dtype  # type: ignore[return-value]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
