"""Parquet: ids are strings or integers by the file's own types; the item may be a list column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from xclass.data import text
from xclass.data.columns import Columns, IdKind, resolve_columns
from xclass.data.diagnosis import MAX_NAMED, RowChecks, float_ids
from xclass.data.format_jsonl import explode_lists
from xclass.data.hive import as_time
from xclass.data.options import IngestOptions
from xclass.errors import DataError
from xclass.frames import parquet_schema


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
        lists = tuple(role for role, name in found.items() if isinstance(schema.get(str(name)), pl.List))
        if "query" in lists:
            raise DataError(
                f'the query column "{found["query"]}" holds lists',
                where=path,
                do="name a column with one query per row",
            )
        return Columns(**found, names=tuple(schema), lists=lists, **kinds)  # type: ignore[arg-type]

    def read(self, path: Path, columns: Columns) -> pl.LazyFrame:
        """Polars' reader; lists are exploded."""
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(self._meanings(path, columns))
        return explode_lists(frame, columns.lists)

    def _schema(self, path: Path) -> dict[str, pl.DataType]:
        keys = {key: pl.Int64() if isinstance(value, int) else pl.String() for key, value in self.keys.items()}
        return {**_schema(path), **keys}

    def _meanings(self, path: Path, columns: Columns) -> list[pl.Expr]:
        """The used columns under the names of their meanings."""
        schema = self._schema(path)
        return [self._column(role, name, schema[name]).alias(role) for role, name in columns.used().items()]

    def _column(self, role: str, name: str, dtype: pl.DataType) -> pl.Expr:
        if name not in self.keys:
            return _plain_time(pl.col(name), dtype)
        value = as_time(self.keys[name]) if role == "time" else self.keys[name]
        return pl.repeat(value, pl.len(), dtype=pl.Int64() if isinstance(value, int) else pl.String())

    def looks_wrong(self, path: Path, columns: Columns) -> bool:
        """The file's types leave nothing open."""
        return False

    def diagnose(self, path: Path, columns: Columns) -> None:
        """The first rows with a missing id, a bad weight or a bad time."""
        try:
            bad = self._bad_rows(path, columns).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                "this Parquet file can't be read", where=path, got=_first_line(error), do="write it again"
            ) from None
        used = columns.used()
        with RowChecks(path, unit="row") as checks:
            for row in bad.iter_rows(named=True):
                values = dict(row)
                if values.get("item") is None:
                    continue
                checks.row(used, values, row["row"])

    def _bad_rows(self, path: Path, columns: Columns) -> pl.LazyFrame:
        used = columns.used()
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False, row_index_name="row").select(
            pl.col("row") + 1, *self._meanings(path, columns)
        )
        bad = pl.col("query").is_null() | (pl.col("query") == "") | (pl.col("item") == "")
        for role in ("weight", "time"):
            if role in used:
                value = pl.col(role).cast(pl.Float64, strict=False)
                bad |= pl.col("item").is_not_null() & (value.is_null() | ~value.is_finite())
                bad |= value < 0 if role == "weight" else pl.lit(False)
        return explode_lists(frame, columns.lists).filter(bad).head(MAX_NAMED + 1)


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet file by its footer; None when it can't be read."""
    try:
        return int(pl.scan_parquet(path, glob=False, hive_partitioning=False).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError):
        return None


def _schema(path: Path) -> dict[str, pl.DataType]:
    with text.open_binary(path) as file:
        if not file.read(1):
            raise DataError("this file is empty", where=path, wanted="at least one row")
    try:
        return dict(parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            "this is not a Parquet file, or it is cut", where=path, got=_first_line(error), do="write it again"
        ) from None


def _kind(schema: dict[str, pl.DataType], column: str, path: Path) -> IdKind:
    dtype = schema[column]
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    if inner.is_integer():
        return "int64"
    if isinstance(inner, pl.String | pl.Categorical | pl.Enum):
        return "string"
    if inner.is_float():
        raise float_ids(path, column, str(dtype))
    raise DataError(
        f'column "{column}" can\'t hold ids', where=path, wanted="integers or strings", got=str(dtype), do="cast it"
    )


def _plain_time(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return column.dt.epoch("us") if isinstance(dtype, pl.Datetime | pl.Date) else column


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
