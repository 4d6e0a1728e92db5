"""Pairs that don't fit in memory: written to disk by ranges of query ids, sorted range by range.

1. One pass over the ids: how many pairs there are, whether ids of text files are all integers, and a sample of query
   ids that cuts them into ranges of about as many pairs.
2. A second pass writes every pair, ids and all, behind its range, in the order it came.
3. Range after range is loaded and sorted: queries get their final codes, items the place among the range's own items.
4. The ranges' items are merged into one rising list, and the items of all pairs get their places in it.

What comes out is a :class:`Table` like that of reading into memory, bit for bit, with its arrays and ids on disk.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data.features import stable_order
from xclass.ingest.columns import Columns, IdKind
from xclass.ingest.formats.parquet import count_rows
from xclass.ingest.pairs import PART_CODES, Pairs
from xclass.ingest.reading.id_encoder import check_integers, check_kinds, index_dtype, is_canonical_int64, note_odd_ids
from xclass.ingest.reading.id_sorted import Parted, SavedIds, SortedRuns, encode
from xclass.ingest.reading.reader import File, Reader, Table, kinds_of, plain_times, read_parts, table_of
from xclass.ingest.sources import WHOLE
from xclass.ingest.text.lines import plain_name
from xclass.runtime.progress import Progress

BYTES_PER_PAIR = 64  # in memory, its share of the ids' dictionaries included
BYTES_PER_ROW = 12  # of a text file: few have shorter rows
SAMPLED = 1 << 22
SORTED_BYTES = 200  # per pair, while a range is sorted
MOST_RANGES = 1024
COMPRESSION = 8  # of .gz and .zst, at most
LEAST_MEMORY = 1 << 29


def memory_needed(files: list[File]) -> int:
    """Bytes that reading into memory would take at most, by the rows of Parquet files and the length of others."""
    return sum(_rows_at_most(file) for file in files) * BYTES_PER_PAIR


def read_spilled(files: list[File], folder: Path, memory: int) -> Table:
    """Read every file, with pairs and ids on disk below ``folder``, where they must stay as long as the table is used.

    Args:
        memory: bytes that may be used, beside what Polars reads ahead; half a gigabyte at least serves.

    Cost: two passes over the files; on disk two copies of the pairs with their ids.
    """
    scout = Scout({role: kinds_of(files, role) for role in ("query", "item")})
    plain = [file._replace(columns=_ids_alone(file.columns)) for file in files]
    read_parts(plain, scout, "look through")
    integers = {role: _are_integers(scout, files, role) for role in ("query", "item")}
    ranges = min(max(-(-scout.pairs_read * SORTED_BYTES // (max(memory, LEAST_MEMORY) // 4)), 1), MOST_RANGES)
    spiller = Spiller(folder, scout.cuts(integers["query"], ranges), integers)
    counts = read_parts(files, spiller)
    spiller.pairs.flush()
    spiller.lonely.flush()
    return _sorted(spiller, counts, files, folder)


def _ids_alone(columns: Columns) -> Columns:
    lists = tuple(role for role in columns.lists if role in ("query", "item"))
    return dataclasses.replace(columns, weight=None, time=None, lists=lists)


def _are_integers(scout: Scout, files: list[File], role: str) -> bool:
    """Whether the ids of a role are int64, by the rules of :meth:`IdEncoder.finish`."""
    kinds, where = kinds_of(files, role), files[0].path
    check_kinds(kinds, where, role)
    if "int64" in kinds:
        check_integers(scout.odd[role], where, role)
    return "string" not in kinds and not scout.odd[role]


class Scout(Reader):
    """Looks through the ids: a sample of those of the queries, and whether all of them are integers.

    odd: up to three ids of "query" and "item" that are not written as an int64; of columns of strings none.
    """

    def __init__(self, kinds: dict[str, set[IdKind]]) -> None:
        super().__init__()
        self.odd: dict[str, list[str]] = {"query": [], "item": []}
        self._kinds = kinds
        self._sample: list[pl.Series] = []
        self._noted: set[str] = set()
        self._step, self._held, self._empty = 1, 0, False

    def ids(self, role: str) -> pl.Expr:
        """As they are."""
        return pl.col(role)

    def take(self, batch: dict[str, pl.Series]) -> None:
        """Look at the ids; every so-maniest query is kept."""
        self._look("query", batch["query"])
        self._look("item", batch["item"])
        self._keep(batch["query"])

    def take_lonely(self, queries: pl.Series) -> None:
        """As those with items."""
        self._look("query", queries)
        self._keep(queries)

    def met_empty_ids(self) -> bool:
        """Whether one came by."""
        return self._empty

    def cuts(self, integers: bool, ranges: int) -> pl.Series:
        """Rising ids that cut the queries into at most so many ranges of about as many pairs."""
        sample = pl.concat(self._sample)
        sample = (sample.cast(pl.Int64) if integers else sample).sort()
        return sample.gather([len(sample) * place // ranges for place in range(1, ranges)]).unique().sort()

    def _look(self, role: str, ids: pl.Series) -> None:
        self._empty = self._empty or bool((ids == "").any())
        if role not in self._noted and note_odd_ids(ids, role):
            self._noted.add(role)
        kinds = self._kinds[role]
        if "string" in kinds or self.odd[role]:
            return
        fine = ids.cast(pl.Int64, strict=False).is_not_null() if kinds == {"int64"} else is_canonical_int64(ids)
        self.odd[role] = ids.filter(~fine).head(3).to_list()

    def _keep(self, queries: pl.Series) -> None:
        self._sample.append(queries.gather_every(self._step))
        self._held += len(self._sample[-1])
        if self._held > SAMPLED:
            thinner = pl.concat(self._sample).gather_every(2)
            self._sample, self._held, self._step = [thinner], len(thinner), 2 * self._step


class Spiller(Reader):
    """Writes pairs, and queries that stand alone, behind their range of query ids."""

    def __init__(self, folder: Path, cuts: pl.Series, integers: dict[str, bool]) -> None:
        super().__init__()
        self.ranges, self.num_lonely = len(cuts) + 1, 0
        self.pairs, self.lonely = Parted(folder / "pairs"), Parted(folder / "lonely")
        self.dtypes: dict[str, pl.DataType] = {}
        self._cuts, self._integers, self._part = cuts, integers, 0

    def ids(self, role: str) -> pl.Expr:
        """Integers, or strings as they are."""
        return pl.col(role).cast(pl.Int64) if self._integers[role] else pl.col(role)

    def take(self, batch: dict[str, pl.Series]) -> None:
        """Put them behind those that wait."""
        frame = pl.DataFrame(list(batch.values()), schema=list(batch)).with_columns(part=pl.lit(self._part, pl.Int8))
        for role, values in batch.items():
            if values.dtype.is_float() or role not in self.dtypes:
                self.dtypes[role] = values.dtype
        self.pairs.add(frame, self._range(frame["query"]))

    def take_lonely(self, queries: pl.Series) -> None:
        """They have files of their own."""
        self.num_lonely += len(queries)
        self.lonely.add(queries.to_frame("query"), self._range(queries))

    def met_empty_ids(self) -> bool:
        """The first pass has looked."""
        return False

    def begin_part(self, part: str) -> None:
        """The pairs to come are of this part."""
        self._part = PART_CODES.get(part, 0)

    def _range(self, queries: pl.Series) -> pl.Series:
        return self._cuts.search_sorted(queries, side="right")


def _sorted(spiller: Spiller, counts: dict[str, int], files: list[File], folder: Path) -> Table:
    """Steps 3 and 4."""
    arrays, ends = _arrays(spiller, counts, folder), [0]
    items, queries = SortedRuns(folder / "items"), SavedIds(folder / "queries")
    lonely = [np.empty(0, dtype=np.int64)]
    with Progress("sort by query", spiller.pairs_read, "pairs") as progress:
        for number in range(spiller.ranges):
            rows, alone = spiller.pairs.take(number), spiller.lonely.take(number)
            present = [frame["query"] for frame in (rows, alone) if frame is not None]
            if not present:
                continue
            distinct, codes = encode(pl.concat(present))
            if rows is not None:
                items.add(_place(rows, codes[: len(rows)], len(queries), arrays, ends[-1]))
                ends.append(ends[-1] + len(rows))
                progress.advance(len(rows))
            low = 0 if rows is None else len(rows)
            lonely.append(np.unique(codes[low:]).astype(np.int64) + len(queries))
            queries.append(distinct)
    item_ids, places = items.merge()
    for (low, high), found in zip(itertools.pairwise(ends), places, strict=True):
        arrays["item"][low:high] = found[arrays["item"][low:high]]
    pairs = Pairs(arrays["query"], arrays["item"], arrays.get("weight"), plain_times(arrays.get("time")))
    pairs.part = arrays.get("part")
    return table_of(pairs, {"query": queries, "item": item_ids}, counts, np.concatenate(lonely), files)


def _arrays(spiller: Spiller, counts: dict[str, int], folder: Path) -> dict[str, np.ndarray]:
    """An array on disk for each column of the pairs."""
    codes = index_dtype(spiller.pairs_read + spiller.num_lonely)
    dtypes: dict[str, type] = {"query": codes, "item": codes}
    if "weight" in spiller.dtypes:
        dtypes["weight"] = np.float32
    if "time" in spiller.dtypes:
        dtypes["time"] = np.float64 if spiller.dtypes["time"].is_float() else np.int64
    if WHOLE not in counts:
        dtypes["part"] = np.int8
    shape = (spiller.pairs_read,)
    return {
        role: np.lib.format.open_memmap(folder / f"{role}.npy", mode="w+", dtype=dtype, shape=shape)
        for role, dtype in dtypes.items()
    }


def _place(pairs: pl.DataFrame, codes: np.ndarray, base: int, arrays: dict[str, np.ndarray], low: int) -> pl.Series:
    """Write one range's pairs from row ``low`` on, by query; returns their distinct items, which ``item`` numbers."""
    order = stable_order(codes, np.zeros(len(codes), dtype=np.int8))
    distinct, places = encode(pairs["item"])
    columns = {"query": codes.astype(np.int64) + base, "item": places}
    for role, array in arrays.items():
        values = columns[role] if role in columns else pairs[role].to_numpy()
        array[low : low + len(order)] = values[order]
    return distinct


def _rows_at_most(file: File) -> int:
    """Pairs of a file: exactly for Parquet without lists; else by its length, so that it will not be more."""
    size = file.path.stat().st_size
    if file.format == "parquet":
        rows = None if file.columns.lists else count_rows(file.path)
        return size // 2 if rows is None else rows
    return size * (1 if plain_name(file.path) == file.path.name else COMPRESSION) // BYTES_PER_ROW
