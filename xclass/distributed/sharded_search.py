"""Exact search over items that lie in several processes: each searches its own, and the lists are merged."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.distributed.placement import Turns
from xclass.distributed.process_group import Group
from xclass.distributed.sharded_table import ShardedTable
from xclass.heads.item_features import FeatureRows
from xclass.heads.item_vectors import ItemVectors
from xclass.index.exact import ExactIndex
from xclass.index.merge import merged
from xclass.types import Ragged, TopK, offsets_of
from xclass.types.vectors import TensorVectors, Vectors

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
