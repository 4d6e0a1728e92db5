"""A dataset's pairs and the pairs of new files in one table: one numbering of ids, each (query, item) once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from xclass.data.dataset import Dataset
from xclass.data.features import stable_order
from xclass.errors import DataError
from xclass.ingest.pairs import PART_CODES, TRAIN, Pairs, group_by_query, query_blocks
from xclass.ingest.reading.id_encoder import index_dtype, recode, samples
from xclass.ingest.reading.reader import Table

# While pairs are joined, `part` holds 0, 1, 2 for an old pair's part, and 4 more for a new pair's: 7 where it has none.
NEW = 4
UNDIVIDED = NEW + 3
EXACT_FLOAT = 2**53


class Union(NamedTuple):
    """The ids of both, rising, and where the old numbers and the new codes stand among them. old: mask over ids."""

    ids: pl.Series
    old_places: np.ndarray
    new_places: np.ndarray
    old: np.ndarray

    @classmethod
    def of(cls, old: pl.Series, new: pl.Series) -> Union:
        """Cost: one sort of all ids."""
        both = pl.concat([old.alias("id"), new.alias("id")])
        order = both.arg_sort()
        ordered = both.gather(order)
        first = (ordered != ordered.shift(1)).fill_null(True).to_numpy()
        places = np.empty(len(both), dtype=index_dtype(len(both)))
        places[order.to_numpy()] = np.cumsum(first, dtype=places.dtype) - 1
        known = np.zeros(int(first.sum()), dtype=bool)
        known[places[: len(old)]] = True
        return cls(ordered.filter(pl.Series(first)), places[: len(old)], places[len(old) :], known)


def join_tables(old: Dataset, table: Table, queries: Union, items: Union, cut_train: bool) -> Table:
    """Old pairs (train, valid, test: the order they came in, as far as it matters), then new ones; grouped by query."""
    new = table.pairs
    part = np.full(len(new), UNDIVIDED, dtype=np.int8) if new.part is None else new.part + np.int8(NEW)
    if cut_train:
        part[part == NEW + TRAIN] = UNDIVIDED
    columns = [*_old_columns(old, queries, items)]
    columns.append(
        (recode(new.query, queries.new_places), recode(new.item, items.new_places), new.weight, new.time, part)
    )
    whole = [None if column[0] is None else np.concatenate(column) for column in zip(*columns, strict=True)]
    assert whole[0] is not None and whole[1] is not None
    pairs = Pairs(whole[0], whole[1], *whole[2:])
    group_by_query(pairs)
    lonely = np.union1d(np.flatnonzero(queries.old), queries.new_places[table.lonely])
    return Table(pairs, queries.ids, items.ids, table.counts, lonely, table.formats, table.columns)


def _old_columns(old: Dataset, queries: Union, items: Union) -> Iterator[tuple[np.ndarray | None, ...]]:
    """(query, item, weight, time, part) of each part of the dataset, by place among all ids."""
    for name in old.splits:
        split = old.split(name)
        yield (
            np.repeat(queries.old_places, split.lengths().numpy()),
            items.old_places[split.values.numpy()],
            None if split.weights is None else split.weights.numpy(),
            old.times(name),
            np.full(len(split.values), PART_CODES[name], dtype=np.int8),
        )


def merge_into_old(pairs: Pairs) -> int:
    """Make every (query, item) unique where each side is already: the first in place stays, in the old one's part,
    with the sum of the weights. Returns how many went."""
    assert pairs.part is not None
    keep = np.ones(len(pairs), dtype=bool)
    for low, high in query_blocks(pairs.query, "merge with what is there"):
        order = low + stable_order(pairs.query[low:high], pairs.item[low:high])
        query, item = pairs.query[order], pairs.item[order]
        again = np.flatnonzero((query[1:] == query[:-1]) & (item[1:] == item[:-1])) + 1
        first, second = order[again - 1], order[again]
        keep[second] = False
        pairs.part[first] = np.minimum(pairs.part[first], pairs.part[second])
        if pairs.weight is not None:
            with np.errstate(over="ignore"):  # what is too large is refused later, by name
                pairs.weight[first] += pairs.weight[second]
    merged = len(keep) - int(np.count_nonzero(keep))
    if merged:
        pairs.select(keep)
    return merged


def item_columns(old: Dataset, items: Union) -> pl.DataFrame | None:
    """What items.parquet says besides, null for new items; a planted truth is left out."""
    names = [name for name in old.items.columns if name not in ("item_id", "train_count")]
    if not names or "planted" in old.manifest:
        return None
    rows = np.full(len(items.ids), len(old.items), dtype=np.int64)
    rows[items.old_places] = np.arange(len(old.items))
    columns = old.items.select(names)
    return pl.concat([columns, columns.clear(1)])[rows]


def as_type_of(old: Dataset, table: Table, role: str, source: Path) -> pl.Series:
    """The new ids in the type of the dataset's. Integers from a text file are strings where the dataset's ids are."""
    ids = table.query_ids if role == "query" else table.item_ids
    assert isinstance(ids, pl.Series)
    there = old.queries["query_id"] if role == "query" else old.items["item_id"]
    wanted, got = ("int64" if each.dtype == pl.Int64 else "string" for each in (there, ids))
    if wanted == "string" and got == "int64" and role not in table.integers:
        return ids.cast(pl.String)
    if wanted == got:
        return ids
    odd = ids if got == "int64" else ids.filter(ids.cast(pl.Int64, strict=False).cast(pl.String) != ids)
    odd = odd if len(odd) else ids
    raise DataError(
        f"the {role} ids are of another type than the dataset's",
        where=source,
        wanted=f"{wanted}, as in {old.path}",
        got=f"{got}: {', '.join(map(str, samples(odd, np.arange(min(3, len(odd))))))}",
        do="write them as the dataset's ids are written, or ingest all files anew",
    )


def check_values(old: Dataset, table: Table, source: Path) -> None:
    """Weights and times must be in both or in neither."""
    for role in ("weight", "time"):
        there, here = f"train/{role}s.npy" in old.manifest["files"], getattr(table.pairs, role) is not None
        if there != here:
            raise DataError(
                f"the dataset has {role}s and this source has none" if there else f"the dataset has no {role}s",
                where=source,
                wanted=f"a {role} column" if there else f"no {role} column",
                do=f"name it: --{role}-col NAME" if there else f"leave out --{role}-col",
            )
        if there and role == "time":
            _check_times(old, table.pairs, source)


def _check_times(old: Dataset, new: Pairs, source: Path) -> None:
    """Whole numbers beyond 2^53 and fractions have no common type that holds both exactly."""
    assert new.time is not None
    arrays = [times for times in map(old.times, old.splits) if times is not None]
    whole = [times for times in [*arrays, new.time] if times.dtype.kind == "i" and len(times)]
    mixed = any(times.dtype.kind == "f" for times in [*arrays, new.time]) and whole
    if mixed and max(max(abs(int(times.min())), abs(int(times.max()))) for times in whole) > EXACT_FLOAT:
        raise DataError(
            "times with fractions and whole numbers beyond 2^53 do not go together",
            where=source,
            do="write the times in the dataset's unit",
        )
