"""A file of queries in blocks: as many queries at a time as asked for, however many it holds.

Text and JSON lines are read line by line, Parquet by rows; CSV and TSV are turned into Parquet first, in a temporary
folder. Tables of (query_id, item_id) of more than a million rows must have a query's rows together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data.ids import IdMap
from xclass.errors import DataError
from xclass.queries.files import (
    ITEM_COLUMN,
    LINES,
    QUERY_COLUMN,
    QUERY_FORMATS,
    TEXT_COLUMN,
    QueryFile,
    lines_of,
    table_of,
)
from xclass.queries.given_files import (
    count_lines,
    delimited,
    ending_of,
    say_unused,
    scan_parquet,
    temporary_folder,
    unreadable,
    write_blocks,
)

SLICE_ROWS = 1 << 20


def read_query_blocks(path: Path | str, size: int, known: IdMap | None = None) -> Iterator[QueryFile]:
    """What ``read_query_file`` reads, ``size`` queries at a time (the last block has what is left).

    Memory: a block, and where a table gives histories a million rows and 8 bytes for each query so far.

    Raises:
        DataError: as read_query_file; rows of a query that lie apart in a table of more than a million rows.
    """
    path = Path(path)
    ending = ending_of(path, QUERY_FORMATS)
    found = _lines(path, ending, size) if ending in LINES else _table(path, ending, size, known)
    with unreadable(path):
        first = next(found, None)
        if first is None or not len(first.query_ids):
            raise DataError("this file holds no query", where=path)
        yield first
        yield from found


def count_queries(path: Path | str) -> int:
    """About how many queries a file holds, for the time that is left: lines, rows, or different query ids of pairs."""
    path = Path(path)
    ending = ending_of(path, QUERY_FORMATS)
    with unreadable(path):
        if ending == ".parquet":
            scan = scan_parquet(path, path)
            counted = pl.col(QUERY_COLUMN).approx_n_unique() if _has_pairs(scan) else pl.len()
            return int(scan.select(counted).collect(engine="streaming").item())
        lines = count_lines(path)
        first = None if ending in LINES else next((some for some in delimited(path, ending) if len(some)), None)
        if first is None or not _has_pairs(first.lazy()):
            return lines
        return max(round(lines * first[QUERY_COLUMN].n_unique() / len(first)), 1)


def _has_pairs(table: pl.LazyFrame) -> bool:
    return {QUERY_COLUMN, ITEM_COLUMN} <= set(table.collect_schema().names())


def _lines(path: Path, ending: str, size: int) -> Iterator[QueryFile]:
    lines = lines_of(path, ending)
    while block := list(itertools.islice(lines, size)):
        yield LINES[ending](path, block)


def _table(path: Path, ending: str, size: int, known: IdMap | None) -> Iterator[QueryFile]:
    if ending == ".parquet":
        yield from _rows(scan_parquet(path, path), path, size)
        return
    with temporary_folder() as folder:
        files = write_blocks(delimited(path, ending, known), folder)
        yield from _rows(scan_parquet(files, path), path, size)


def _rows(scan: pl.LazyFrame, path: Path, size: int) -> Iterator[QueryFile]:
    say_unused(path, scan.collect_schema().names(), (QUERY_COLUMN, ITEM_COLUMN, TEXT_COLUMN))
    rows = int(scan.select(pl.len()).collect().item())
    if rows <= SLICE_ROWS:
        yield from _split(table_of(path, scan.collect(), QUERY_COLUMN, ITEM_COLUMN), size)
        return
    for block in (_histories if _has_pairs(scan) else _plain)(scan, rows, size):
        yield from _split(table_of(path, block, QUERY_COLUMN, ITEM_COLUMN), size)


def _plain(scan: pl.LazyFrame, rows: int, size: int) -> Iterator[pl.DataFrame]:
    for start in range(0, rows, size):
        yield scan.slice(start, size).collect()


def _histories(scan: pl.LazyFrame, rows: int, size: int) -> Iterator[pl.DataFrame]:
    """Rows of ``size`` whole queries together."""
    apart = _Apart()
    waiting: list[pl.DataFrame] = []
    for start in range(0, rows, SLICE_ROWS):
        waiting.append(scan.select(QUERY_COLUMN, ITEM_COLUMN).slice(start, SLICE_ROWS).collect())
        table = pl.concat(waiting)
        runs = table[QUERY_COLUMN].rle_id()
        last = start + SLICE_ROWS >= rows
        whole = int(runs[-1]) + 1 if last else int(runs[-1])
        ready = whole if last else whole // size * size
        for low in range(0, ready, size):
            block = table.filter((runs >= low) & (runs < min(low + size, ready)))
            apart.check(block[QUERY_COLUMN])
            yield block
        waiting = [table.filter(runs >= ready)]


class _Apart:
    """Notices a query whose rows come back later on: 8 bytes for each query."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray] = []

    def check(self, queries: pl.Series) -> None:
        heads = queries.filter(queries.rle_id().diff().fill_null(1) > 0)
        hashes = heads.hash().to_numpy()
        again = len(np.unique(hashes)) < len(hashes) or any(np.isin(hashes, old).any() for old in self._hashes)
        if again:
            twice = heads.filter(heads.is_duplicated()) if heads.is_duplicated().any() else heads
            wanted = f"rows sorted by {QUERY_COLUMN} in a table of more than {SLICE_ROWS:,} rows"
            raise DataError(
                "the rows of a query lie apart", wanted=wanted, got=f"one of the block from {twice[0]!r} on"
            )
        self._hashes.append(hashes)


def _split(file: QueryFile, size: int) -> Iterator[QueryFile]:
    for start in range(0, len(file.query_ids), size):
        ids = file.query_ids.slice(start, size)
        if file.texts is not None:
            yield QueryFile(ids, texts=file.texts.slice(start, size))
            continue
        if file.offsets is None or file.items is None:
            yield QueryFile(ids)
            continue
        offsets = file.offsets[start : start + len(ids) + 1]
        low, high = int(offsets[0]), int(offsets[-1])
        yield QueryFile(ids, offsets - low, file.items.slice(low, high - low))
