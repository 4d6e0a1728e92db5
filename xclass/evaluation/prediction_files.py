"""Predictions and truth of any system, as lazy frames with one row per (query, item).

    predictions   query_id, item_id, and rank (1 = best) or score (higher = better) or both
    truth, train  query_id, item_id

    .parquet .csv .tsv .jsonl    columns by these names, others are not read
    .trec .run                   predictions as TREC runs: query Q0 item rank score tag; the score decides
    .qrels                       truth as TREC relevance judgements: query 0 item relevance; above 0 is a positive
    a directory                  of such files, all with the same ending, read one after the other in the order of their
                                 names; names that begin with "_" or "." are passed over
    a table                      of Polars, pandas or Arrow in memory

All but Parquet also with .gz or .zst behind. Ids are text or integers, never floats. Inside, an id is a 64-bit key: an
integer itself, or the hash of a text (two different texts among a million are taken for one with a chance of
3 in 10^8).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from xclass.data.given import as_list, checked_path
from xclass.errors import DataError, InputError
from xclass.evaluation.pair_blocks import IDS, ITEM, NUMBERS, QUERY, RANK, READERS, SCORE, Blocks, check_ids_there
from xclass.ingest.text.first_bad_line import float_ids
from xclass.queries.given_files import ending_of, say_unused, scan_parquet, unreadable, write_blocks

PARQUET = ".parquet"
OLD_MANIFEST = "topk.json"  # of a directory of lists; now its name begins with "_"


@dataclass(frozen=True, slots=True)
class PairFile:
    """One file, directory or table, not read yet.

    path: what it is called in messages.
    frame: with query_id, item_id and what else of rank, score the file has.
    names: those columns.
    """

    path: Path
    frame: pl.LazyFrame
    names: tuple[str, ...]

    def has_text(self, name: str) -> bool:
        """Whether this id column holds text; DataError when it holds neither text nor integers."""
        kind = self.frame.collect_schema()[name]
        if kind.is_float():
            raise float_ids(self.path, name, kind)
        if kind != pl.String and not kind.is_integer():
            where = f"{self.path}, column {name}"
            raise DataError("ids are of the wrong type", where=where, wanted="text or integers", got=kind)
        return kind == pl.String

    def examples(self, name: str) -> list[str]:
        """A few of the ids of a column, for a message."""
        with unreadable(self.path):
            found = self.frame.select(pl.col(name).drop_nulls().head(1000)).collect(engine="streaming")
        return [str(each) for each in found[name].unique(maintain_order=True).head(3)]

    def keyed(self, text_queries: bool, text_items: bool) -> pl.LazyFrame:
        """Columns query, item (int64 keys, null where the id is), and for predictions order (rising) and tie (float64).

        Lists are sorted by ``order``; equal ``tie`` side by side are a tie.
        """
        columns = self.keyed_columns(text_queries, text_items)
        rank, falling = pl.col(RANK).cast(pl.Float64), -pl.col(SCORE).cast(pl.Float64)
        if SCORE in self.names:
            columns += [(rank if RANK in self.names else falling).alias("order"), falling.alias("tie")]
        elif RANK in self.names:
            columns += [rank.alias("order"), rank.alias("tie")]
        return self.frame.select(columns)

    def keyed_columns(self, text_queries: bool, text_items: bool) -> list[pl.Expr]:
        """The columns query and item."""
        return [_key(QUERY, text_queries).alias("query"), _key(ITEM, text_items).alias("item")]


def scan_predictions(given: Any, folder: Path) -> PairFile:
    """Predictions; ``folder`` is for what has to become Parquet first.

    Raises:
        DataError: the file or a column is missing, its ending is not known, or it can't be read.
    """
    file = _scan(given, "predictions", folder)
    schema = file.frame.collect_schema()
    if not set(NUMBERS) & set(file.names):
        wanted = "a column rank (1 = best) or score (higher = better)"
        raise DataError("predictions need an order", where=file.path, wanted=wanted, got=", ".join(schema.names()))
    for name in file.names[2:]:
        if not schema[name].is_numeric():
            raise DataError(f"{name} is of the wrong type", where=file.path, wanted="numbers", got=schema[name])
    return file


def scan_pairs(given: Any, folder: Path, called: str = "truth") -> PairFile:
    """Truth or train pairs; DataError as for :func:`scan_predictions`."""
    file = _scan(given, called, folder)
    return PairFile(file.path, file.frame.select(IDS), IDS)


def _key(name: str, as_text: bool) -> pl.Expr:
    if not as_text:
        return pl.col(name).cast(pl.Int64)
    text = pl.col(name).cast(pl.String)
    return pl.when(text.is_not_null()).then(text.hash(0).reinterpret(signed=True))


def _scan(given: Any, called: str, folder: Path) -> PairFile:
    if isinstance(given, str | os.PathLike):
        path = checked_path(given, called)
        frame = _of_files(path, folder / called)
    else:
        path = Path(f"the table of {called}")
        frame = _of_table(given, called)
    there = frame.collect_schema().names()
    check_ids_there(path, there)
    names = (*IDS, *(name for name in NUMBERS if name in there))
    say_unused(path, there, (*IDS, *NUMBERS))
    return PairFile(path, frame.select(names), names)


def _of_files(path: Path, folder: Path) -> pl.LazyFrame:
    """The rows of a file, or of those of a directory."""
    files = _files_of(path) if path.is_dir() else [path]
    endings = sorted({ending_of(file, (PARQUET, *READERS)) for file in files})
    if len(endings) > 1:
        raise DataError("this directory holds files of several kinds", where=path, got=" ".join(endings))
    if endings == [PARQUET]:
        return scan_parquet(files, path)
    reader = READERS[endings[0]]()
    folder.mkdir()
    with unreadable(path):
        parts = write_blocks(_blocks_of(files, reader), folder)
        if not parts:
            return pl.LazyFrame(schema=dict.fromkeys(IDS, pl.String) | dict.fromkeys(NUMBERS, pl.Float64))
        frame = scan_parquet(parts, path)
        integers = [name for name in frame.collect_schema().names() if name in reader.integers]
        return frame.with_columns(pl.col(name).cast(pl.Int64) for name in integers)


def _blocks_of(files: Sequence[Path], reader: Blocks) -> Iterator[pl.DataFrame]:
    """The rows of all files; DataError where one has other columns than those before."""
    names: list[str] = []
    for file in files:
        for block in reader.read(file):
            names = names or block.columns
            if block.columns != names:
                wanted, got = ", ".join(names), ", ".join(block.columns)
                raise DataError("the files of a directory have the same columns", where=file, wanted=wanted, got=got)
            yield block


def _files_of(directory: Path) -> list[Path]:
    """What a directory holds, in the order of the names."""
    found = [path for path in sorted(directory.iterdir()) if path.name[0] not in "._" and path.name != OLD_MANIFEST]
    folders = [path.name for path in found if not path.is_file()]
    if folders or not found:
        got = f"the directory {folders[0]}" if folders else "nothing"
        raise DataError("a directory of files is wanted", where=directory, wanted="files side by side", got=got)
    return found


def _of_table(given: Any, called: str) -> pl.LazyFrame:
    """The columns of a table in memory that are read."""
    if isinstance(given, pl.DataFrame | pl.LazyFrame):
        named = [name for name, kind in given.lazy().collect_schema().items() if kind in (pl.Categorical, pl.Enum)]
        return given.lazy().with_columns(pl.col(name).cast(pl.String) for name in named)
    names = getattr(given, "column_names", getattr(given, "columns", None))
    if names is None:
        wanted = "a path, or a table of Polars, pandas or Arrow"
        raise InputError(f"{called}: neither a path nor a table", wanted=wanted, got=type(given).__name__)
    columns: dict[str, Sequence[Any]] = {
        str(name): as_list(given[name], str(name)) for name in names if name in (*IDS, *NUMBERS)
    }
    try:
        return pl.LazyFrame(columns, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        got = str(error).splitlines()[0]
        raise InputError("a column of this table has values of several types", where=called, got=got) from None


__all__ = ["IDS", "ITEM", "NUMBERS", "QUERY", "RANK", "SCORE", "PairFile", "scan_pairs", "scan_predictions"]
