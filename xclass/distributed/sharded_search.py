"""Exact search over items that lie in several processes: each searches its own, and the lists are merged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xclass.distributed.placement import Turns
from xclass.distributed.process_group import Group, share_of
from xclass.distributed.sharded_table import ShardedTable
from xclass.errors import InputError, XclassError
from xclass.heads.item_features import FeatureRows
from xclass.heads.item_vectors import ItemVectors
from xclass.index.checks import checked_exclude
from xclass.index.exact import BLOCK_ITEMS, ExactIndex, empty_topk
from xclass.index.merge import merged
from xclass.runtime.memory import is_out_of_memory
from xclass.types import Ragged, TopK, offsets_of
from xclass.types.vectors import RangeOfVectors, TensorVectors, Vectors, as_vectors

FEATURE_ROWS = 1 << 14


class MergedSearch:
    """The exact best of all items; every rank asks the same and gets the same lists.

    Args:
        vectors: of the items that lie here.
        group: the ranks.
        turns: which ranks hold items; all of them unless given: here are the items rank, rank + R, rank + 2R, …
    """

    def __init__(self, vectors: Vectors, group: Group, turns: Turns | None = None) -> None:
        self.group, self._index = group, ExactIndex()
        self.turns = turns or Turns(tuple(range(group.size)))
        self.queries_at_once = self._index.queries_at_once
        if len(vectors):
            self._index.build(vectors)
        self._has_items = len(vectors) > 0

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The best k of each query, equal scores by rising item number. Ranks exchange k ids and scores a query."""
        found = self._search_here(query_BD, k, exclude)
        scores, ids = found.scores.cpu(), found.ids.cpu()
        gathered = zip(
            self.group.gather(found.lengths().cpu(), "a search"),
            self.group.gather(ids, "a search"),
            self.group.gather(scores, "a search"),
            strict=True,
        )
        return merged([TopK(offsets_of(lengths), *lists) for lengths, *lists in gathered], k)

    def _search_here(self, query_BD: Tensor, k: int, exclude: Ragged | None) -> TopK:
        first, turns = self.turns.first(self.group.rank), len(self.turns.holders)
        if first is None or not self._has_items:
            nothing = query_BD.new_empty(0, dtype=torch.float32)
            return TopK(torch.zeros(len(query_BD) + 1, dtype=torch.int64), nothing.long(), nothing)
        mine = None if exclude is None else _divided(exclude, first, turns)
        found = self._index.search(query_BD, k, mine)
        return TopK(found.offsets, found.ids * turns + first, found.scores)


def vectors_here(vectors: ItemVectors, group: Group) -> Vectors:
    """Vectors of the items that lie here, of a model whose tables are sharded; of items with features those of rank,
    rank + R, … Collective.

    As rows are stored; those of items with features are computed, and kept: (N/R, D) numbers.
    """
    if not isinstance(vectors.table, FeatureRows):
        assert isinstance(vectors.table, ShardedTable)
        return ItemVectors(vectors.table.shard, vectors.projection)
    whole, size = len(vectors), group.size
    kept, most = torch.empty(-(-(whole - group.rank) // size), vectors.dim), -(-whole // size)
    for start in range(0, most, FEATURE_ROWS):
        ids = torch.arange(start, min(start + FEATURE_ROWS, most)) * size + group.rank
        ids = ids[ids < whole]
        kept[start : start + len(ids)] = vectors.take(ids).cpu()
    return TensorVectors(kept.to(vectors.device))


def _divided(lists: Ragged, part: int, parts: int) -> Ragged:
    own = lists.filter(lists.values % parts == part)
    return Ragged(own.offsets, torch.div(own.values, parts, rounding_mode="floor"))


class DividedIndex:
    """Every rank asks the same and gets the same lists: those of :class:`ExactIndex` over all items, bit for bit.

    Ranks hold consecutive items, cut where exact search cuts its blocks, so that every product is made of the same
    rows. A rank reads no vectors but its own. It sends at most k numbers and scores of each query to each other rank.

    Args:
        vectors: of all items.
        group: the ranks; all of them search together, in the same order.
    """

    kind = "exact"
    queries_at_once = ExactIndex.queries_at_once

    def __init__(self, vectors: Tensor | Vectors, group: Group) -> None:
        self._group = group
        self.build(vectors)

    @property
    def num_items(self) -> int:
        """Of all ranks together, N."""
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors.dim

    def build(self, vectors: Tensor | Vectors) -> None:
        """Take this rank's part of the vectors of all items."""
        self.vectors = as_vectors(vectors)
        unit = BLOCK_ITEMS // 2
        blocks = -(-len(self.vectors) // unit)
        low, high = share_of(blocks, self._group.rank, self._group.size)
        self._low, self._high = low * unit, min(high * unit, len(self.vectors))
        self._own = ExactIndex()
        if self._high > self._low:
            self._own.build(RangeOfVectors(self.vectors, self._low, self._high))

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The k best of all items of each query, without its excluded ones. Collective.

        Raises:
            InputError: as exact search. XclassError: this rank is out of memory, or another rank is missing.
        """
        exclude = checked_exclude(exclude, len(query_BD), self.num_items)
        try:
            found = self._search_own(query_BD, k, exclude)
        except (MemoryError, RuntimeError) as error:  # a rank that asks again with fewer queries would ask alone
            if not is_out_of_memory(error):
                raise
            do = "start more ranks, or ask for a smaller k"
            raise XclassError("a rank ran out of memory", where=f"rank {self._group.rank}", do=do) from None
        lists = zip(
            self._group.gather(found.lengths().cpu(), "a search"),
            self._group.gather(found.ids.cpu() + self._low, "a search"),
            self._group.gather(found.scores.cpu(), "a search"),
            strict=True,
        )
        return merged([TopK(offsets_of(lengths), *rest) for lengths, *rest in lists], k)

    def describe(self) -> dict[str, Any]:
        """As exact search."""
        return self._own.describe()

    def _search_own(self, query_BD: Tensor, k: int, exclude: Ragged | None) -> TopK:
        if self._high <= self._low:
            if query_BD.shape[1] != self.dim:
                raise InputError("queries have another number of dimensions", wanted=self.dim, got=query_BD.shape[1])
            return empty_topk(len(query_BD))
        return self._own.search(query_BD, k, None if exclude is None else self._here(exclude))

    def _here(self, exclude: Ragged) -> Ragged:
        own = exclude.filter((exclude.values >= self._low) & (exclude.values < self._high))
        return Ragged(own.offsets, own.values - self._low)
