"""Exact search by the processes of a launch, each among its own items, when one process can't hold or scan them all."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xclass.distributed.process_group import Group, share_of
from xclass.errors import InputError, XclassError
from xclass.index.checks import checked_exclude
from xclass.index.exact import BLOCK_ITEMS, ExactIndex, empty_topk
from xclass.index.merge import merged
from xclass.runtime.memory import is_out_of_memory
from xclass.types import Ragged, TopK, offsets_of
from xclass.types.vectors import RangeOfVectors, Vectors, as_vectors


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
