"""Items for everybody, or of each query's own: what candidates and exclusions are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from xclass.data.lookup import IdMap
from xclass.data.query_files import ITEM_COLUMN, QUERY_COLUMN, QueryFile, checked_suffix, read_item_ids, read_query_file
from xclass.types import Ragged


class OwnLists:
    """Item numbers of each query's own, by external query id or by position: 8 bytes for each pair, and the ids.

    Args:
        lists: item numbers.
        query_ids: whose they are; by position in the queries when None.
    """

    def __init__(self, lists: Ragged, query_ids: pl.Series | None = None) -> None:
        self._lists = lists
        self._map = None if query_ids is None else IdMap(_own_type(query_ids))

    def of(self, query_ids: pl.Series) -> Callable[[Tensor], Ragged]:
        """The lists of these queries, by their positions; an empty one for a query that is not named."""
        if self._map is None:
            return self._lists.take
        rows = self._map.numbers(query_ids)
        rows = torch.where(rows < 0, len(self._lists), rows)
        # one list more, without an item, for the queries that are not named
        lists = Ragged(torch.cat([self._lists.offsets, self._lists.offsets[-1:]]), self._lists.values)
        return lambda positions: lists.take(rows[positions])

    def without(self, items: Tensor) -> OwnLists:
        """The same lists without these items."""
        other = OwnLists(self._lists.filter(~torch.isin(self._lists.values, items)))
        other._map = self._map
        return other


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Items of everybody's, or of each query's own; at most one of the two.

    everybody: int64 item numbers.
    """

    everybody: Tensor | None = None
    own: OwnLists | None = None


NO_FILTER = ItemFilter()


def read_item_filter(path: Path | str) -> pl.Series | QueryFile:
    """Item ids for everybody, or each query's own.

    Own lists are what a file of histories is: .jsonl, .adj, or a table with the columns query_id and item_id.

    Raises:
        DataError: as read_query_file and read_item_ids.
    """
    path = Path(path)
    suffix = checked_suffix(path)
    if suffix in (".jsonl", ".ndjson", ".adj"):
        return read_query_file(path)
    if suffix != ".txt" and {QUERY_COLUMN, ITEM_COLUMN} <= set(_columns(path, suffix)):
        return read_query_file(path)
    return read_item_ids(path)


def _columns(path: Path, suffix: str) -> list[str]:
    if suffix == ".parquet":
        return pl.scan_parquet(path).collect_schema().names()
    separator = "\t" if suffix == ".tsv" else ","
    return pl.scan_csv(path, separator=separator, infer_schema=False).collect_schema().names()


def _own_type(ids: pl.Series) -> pl.Series:
    return ids if ids.dtype == pl.String else ids.cast(pl.Int64)
