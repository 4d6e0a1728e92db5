"""Items for everybody, or of each query's own: what candidates and exclusions are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from xclass.data.given import as_id_lists, as_id_series, is_nested
from xclass.data.ids import IdMap, check_any_known, unknown
from xclass.errors import DataError, InputError
from xclass.queries.files import read_item_filter
from xclass.queries.queries import histories_of
from xclass.runtime.progress import say
from xclass.types import Ragged


class OwnLists:
    """Item numbers of each query's own, by external query id or by position: 8 bytes for each pair, and the ids.

    Args:
        lists: item numbers.
        query_ids: whose they are; by position in the queries when None.
    """

    def __init__(self, lists: Ragged, query_ids: pl.Series | None = None) -> None:
        self._lists = lists
        self.matched = 0  # queries so far that have a list
        self._map = None if query_ids is None else IdMap(_own_type(query_ids))

    def of(self, query_ids: pl.Series) -> Callable[[Tensor], Ragged]:
        """The lists of these queries, by their positions; an empty one for a query that is not named."""
        if self._map is None:
            self.matched += len(query_ids)
            return self._lists.take
        rows = self._map.numbers(query_ids)
        self.matched += int((rows >= 0).sum())
        rows = torch.where(rows < 0, len(self._lists), rows)
        # one list more, without an item, for the queries that are not named
        lists = Ragged(torch.cat([self._lists.offsets, self._lists.offsets[-1:]]), self._lists.values)
        return lambda positions: lists.take(rows[positions])

    def without(self, items: Tensor) -> OwnLists:
        """The same lists without these items."""
        other = copy.copy(self)
        other._lists = self._lists.filter(~torch.isin(self._lists.values, items))
        return other

    def check_matched(self, what: str) -> None:
        """DataError when these are lists of other queries than those that were asked for.

        Raises:
            DataError: not one query so far has a list.
        """
        if not self.matched and self._map is not None:
            wanted, got = "query ids of the queries to retrieve for", ", ".join(self._map.examples())
            raise DataError(f"the {what} are of other queries: not one query id is the same", wanted=wanted, got=got)


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Items of everybody's, or of each query's own; at most one of the two.

    everybody: int64 item numbers.
    """

    everybody: Tensor | None = None
    own: OwnLists | None = None


NO_FILTER = ItemFilter()


def filter_of_file(path: Path, items: IdMap, what: str) -> ItemFilter:
    """The items of a file, for everybody or each query's own; unknown ones are left out and named on stderr.

    Own lists are what a file of histories is: .jsonl, .adj, or a table with the columns query_id and item_id.

    Raises:
        DataError: as read_query_file; not one item of it is known; an own list does not say whose it is.
    """
    found = read_item_filter(path, items)
    ids = found.query_ids if found.items is None else found.items
    numbers = item_numbers(items, ids, f"{what} of {path}")
    check_any_known(numbers, ids, "item", items, path)
    if found.offsets is None:
        return ItemFilter(numbers[numbers >= 0])
    return ItemFilter(own=OwnLists(Ragged(found.offsets, numbers).filter(numbers >= 0), found.query_ids))


def filter_given(given: Any, items: IdMap, asked: Tensor, what: str) -> ItemFilter:
    """Items for everybody, or a list for each query that was asked for, in any container.

    Args:
        asked: bool, of each query: whether it is known; the lists of the others are left out.

    Raises:
        InputError: no container of ids; another number of lists than queries.
    """
    if given is None:
        return NO_FILTER
    if not is_nested(given):
        numbers = item_numbers(items, as_id_series(given, what), what)
        return ItemFilter(numbers[numbers >= 0])
    if len(given) != len(asked):
        wanted, got = f"{len(asked):,} lists", f"{len(given):,}"
        raise InputError(f"one list of {what} is needed per query", wanted=wanted, got=got)
    lists = histories_of(as_id_lists(given, what))
    assert lists.offsets is not None and lists.items is not None
    numbers = item_numbers(items, lists.items, what)
    rows = asked.nonzero().squeeze(1)
    return ItemFilter(own=OwnLists(Ragged(lists.offsets, numbers).filter(numbers >= 0).take(rows)))


def item_numbers(items: IdMap, ids: pl.Series, what: str) -> Tensor:
    """The number of each item, −1 for unknown ones, which are named on stderr."""
    numbers = items.numbers(ids)
    missing = unknown(ids, numbers)
    if missing.count:
        say(missing.message(what))
    return numbers


def _own_type(ids: pl.Series) -> pl.Series:
    return ids if ids.dtype == pl.String else ids.cast(pl.Int64)
