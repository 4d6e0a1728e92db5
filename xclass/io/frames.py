"""The door to polars' readers: a path is a path, never a pattern; what polars can't read is an error that names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from xclass.errors import ArtefactError

Kinds = tuple[pl.DataType | type[pl.DataType], ...]
COUNTS: Kinds = (pl.Int64, pl.Int32, pl.UInt32, pl.UInt64)
MOST = 1 << 40
"""No column of ``COUNTS`` holds more, nor less than 0."""


def scan_parquet(paths: Path | str | Sequence[Path], **options: Any) -> pl.LazyFrame:
    """Polars' reader of the same name. Neither ``[``, ``*``, ``?`` nor ``name=value`` in a path has a meaning."""
    return pl.scan_parquet(paths, glob=False, hive_partitioning=False, **options)  # type: ignore[arg-type]


def read_parquet(path: Path | str, columns: list[str] | None = None) -> pl.DataFrame:
    """As :func:`scan_parquet`, in memory; of ``columns`` only."""
    return pl.read_parquet(path, columns=columns, glob=False, hive_partitioning=False)


def parquet_blocks(path: Path | str, columns: Sequence[pl.Expr | str], rows: int) -> Iterator[pl.DataFrame]:
    """The columns of a Parquet file in blocks of about ``rows`` rows, in order.

    Raises:
        PolarsError: there are fewer rows than the file's footer says. Polars ends a damaged file without an error when
            one of its threads has failed.
    """
    frame, left = scan_parquet(path), count_rows(path)
    for block in frame.select(columns).collect_batches(chunk_size=rows, maintain_order=True):
        left -= len(block)
        yield block
    if left:
        raise pl.exceptions.ComputeError(f"{abs(left):,} rows {'are missing' if left > 0 else 'too many'}")


def count_rows(path: Path | str) -> int:
    """The rows of a Parquet file, by its footer."""
    return int(scan_parquet(path).select(pl.len()).collect().item())


def parquet_schema(path: Path | str) -> pl.Schema:
    """Names and types of the columns of a Parquet file."""
    return scan_parquet(path).collect_schema()


def parse_ndjson(lines: bytes, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Polars' ``read_ndjson`` of bytes: there is no path."""
    return pl.read_ndjson(lines, schema=dict(schema))


def scan_ipc(path: Path | str) -> pl.LazyFrame:
    """Polars' reader of the same name; a path is never a pattern."""
    return pl.scan_ipc(path, glob=False, hive_partitioning=False)


def read_ipc(path: Path | str) -> pl.DataFrame:
    """As :func:`scan_ipc`, in memory."""
    return scan_ipc(path).collect()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What polars says of a damaged file of ours becomes one ArtefactError."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        if isinstance(error, ArtefactError):
            raise
        reason = str(error).strip().split("\n")[0][:200]
        raise ArtefactError("this file can't be read: cut or altered", where=path, got=reason) from None


def check_columns(path: Path, rows: int | None, columns: Mapping[str, Kinds]) -> None:
    """ArtefactError unless a Parquet file of ours has these columns, each of one of these types and without null; and
    those of ``COUNTS`` in their range.

    Args:
        rows: how many there must be; None for any number.
    """
    with reading(path):
        schema = parquet_schema(path)
    for name, kinds in columns.items():
        if schema.get(name) not in kinds:
            raise ArtefactError(
                f'the column "{name}" is missing' if name not in schema else f'the column "{name}" is of another type',
                where=path,
                wanted=" or ".join(str(kind) for kind in kinds),
                got=schema.get(name),
                do="restore the file, or make the directory again",
            )
    with reading(path):
        outside = [
            (~pl.col(name).is_between(0, MOST)).sum().alias(f"{name} outside")
            for name, kinds in columns.items()
            if kinds == COUNTS
        ]
        counted = scan_parquet(path).select(pl.len().alias(""), pl.col(*columns).null_count(), *outside)
        found = counted.collect(engine="streaming").row(0, named=True)
    if rows is not None and found[""] != rows:
        raise ArtefactError("this file has another number of rows", where=path, wanted=rows, got=found[""])
    for name in columns:
        if found[name]:
            raise ArtefactError(f'the column "{name}" has empty values', where=path, got=f"{found[name]:,}")
        if found.get(f"{name} outside"):
            raise ArtefactError(f'the column "{name}" is out of range', where=path, wanted=f"0 … {MOST:,}")
