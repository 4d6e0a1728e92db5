"""What a search must not give: items that nobody may get, and each query's own exclusions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.once import once
from xclass.types import Ragged, TopK


class Allowed:
    """The items that anybody may get, of a catalogue of N: N / 8 bytes, and 8 for each of them.

    Args:
        candidates: int64, item numbers in any order, repeats allowed.

    Raises:
        InputError: no candidate, or a number that the catalogue does not have.
    """

    def __init__(self, candidates: Tensor, num_items: int) -> None:
        if not len(candidates):
            raise InputError("the candidate list is empty", wanted="one item or more")
        self.num_items = num_items
        self.numbers = torch.unique(candidates)
        low, high = int(self.numbers[0]), int(self.numbers[-1])
        if low < 0 or high >= num_items:
            got = low if low < 0 else high
            raise InputError("a candidate is not in the catalogue", wanted=f"0 to {num_items - 1}", got=got)
        mask = np.zeros(num_items, dtype=bool)
        mask[self.numbers.numpy()] = True
        self.bits = np.packbits(mask, bitorder="little")

    def __len__(self) -> int:
        """How many items are allowed."""
        return len(self.numbers)

    @property
    def share(self) -> float:
        """Of the catalogue, above 0 and at most 1."""
        return len(self) / self.num_items

    def contains(self, ids: Tensor) -> Tensor:
        """Bool, the shape of ``ids``; false for numbers below 0."""
        held = ids.clamp(min=0).numpy()
        return torch.from_numpy(((self.bits[held >> 3] >> (held & 7)) & 1).astype(bool)) & (ids >= 0)

    def places(self, ids: Tensor) -> Tensor:
        """int64, the place of each of ``ids`` among the allowed, −1 where it is not."""
        places = torch.searchsorted(self.numbers, ids).clamp_(max=len(self) - 1)
        return torch.where(self.numbers[places] == ids, places, -1)

    def only(self, lists: Ragged) -> Ragged:
        """The lists without the items that are not allowed anyway."""
        return lists.filter(self.contains(lists.values))


class Hidden:
    """The excluded (query, item) pairs of a batch. What needs them sorted sorts them when it is first asked for.

    counts: int64 (B,), excluded items of each query, repeats counted.
    """

    def __init__(
        self, exclude: Ragged | None, num_queries: int, num_items: int, allowed: Allowed | None = None
    ) -> None:
        self.num_items, self.lists = num_items, exclude
        self._num_queries, self._allowed = num_queries, allowed
        self.counts = torch.zeros(num_queries, dtype=torch.int64) if exclude is None else exclude.lengths()

    @once
    def _keys(self) -> Tensor:
        """The distinct pairs as rising numbers: query · N + item."""
        if self.lists is None:
            return torch.empty(0, dtype=torch.int64)
        lists = self.lists if self._allowed is None else self._allowed.only(self.lists)
        return torch.unique(lists.rows() * self.num_items + lists.values)

    @once
    def left(self) -> Tensor:
        """int64 (B,): different items that each query may get."""
        rows = torch.div(self._keys, self.num_items, rounding_mode="floor")
        items = self.num_items if self._allowed is None else len(self._allowed)
        return items - torch.bincount(rows, minlength=self._num_queries)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The distinct pairs, by query, then item: two int64 vectors."""
        rows = torch.div(self._keys, self.num_items, rounding_mode="floor")
        return rows, self._keys - rows * self.num_items

    def contains(self, rows_B: Tensor, ids_BK: Tensor) -> Tensor:
        """Is item ``ids_BK[b]`` excluded for query ``rows_B[b]``? bool (B,K)."""
        if not len(self._keys):
            return torch.zeros_like(ids_BK, dtype=torch.bool)
        keys = rows_B[:, None] * self.num_items + ids_BK
        places = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        return (self._keys[places] == keys) & (ids_BK >= 0)

    def of(self, rows: Tensor) -> Ragged | None:
        """The lists of these queries, None when there are none at all."""
        return None if self.lists is None else self.lists if len(rows) == self._num_queries else self.lists.take(rows)

    def first_groups(self, room: int) -> Iterator[tuple[Tensor, int]]:
        """Queries without exclusions with 0 beside them, then the others with ``room``."""
        yield from _equal((self.counts > 0).long() * room, torch.arange(self._num_queries))

    def groups(self, rows: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Of ``rows`` those with about equally many exclusions, and how many that is at most: 0, 1, 2, 4, 8, …

        One query with a long list then costs nothing to the others.
        """
        counts = self.counts[rows]
        sizes = torch.zeros_like(counts)
        sizes[counts > 0] = 1 << torch.ceil(torch.log2(counts[counts > 0].double())).long()
        yield from _equal(sizes, rows)


def _equal(sizes: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, int]]:
    for size in torch.unique(sizes).tolist():
        yield rows[sizes == size], int(size)


class Lists:
    """The lists of a batch while they fill: id −1 and score −∞ where there is nothing yet."""

    def __init__(self, num_queries: int, k: int, hidden: Hidden) -> None:
        self.k, self.hidden = k, hidden
        self._ids = torch.full((num_queries, k), -1, dtype=torch.int64)
        self._scores = torch.full((num_queries, k), -torch.inf)
        self._lengths = torch.zeros(num_queries, dtype=torch.int64)

    def put(self, rows: Tensor, ids_BK: Tensor, scores_BK: Tensor, lengths_B: Tensor) -> None:
        """Set whole lists of k, best first."""
        if len(rows) == len(self._ids):
            self._ids, self._scores, self._lengths = ids_BK, scores_BK, lengths_B
        else:
            self._ids[rows], self._scores[rows], self._lengths[rows] = ids_BK, scores_BK, lengths_B

    def put_topk(self, rows: Tensor, found: TopK) -> None:
        """Set whole lists from another search's result."""
        cells = rows[found.rows()], found.ranks() - 1
        self.forget(rows)
        self._ids[cells], self._scores[cells], self._lengths[rows] = found.ids, found.scores, found.lengths()

    def forget(self, rows: Tensor) -> None:
        """Empty these lists."""
        self._ids[rows], self._scores[rows], self._lengths[rows] = -1, -torch.inf, 0

    def short(self) -> Tensor:
        """The rows whose list is shorter than k although more items are left for it."""
        rows = (self._lengths < self.k).nonzero().squeeze(1)
        return rows[self._lengths[rows] < self.hidden.left[rows]] if len(rows) else rows

    def topk(self) -> TopK:
        """What is there."""
        if bool((self._lengths == self.k).all()):
            return TopK(torch.arange(len(self._ids) + 1) * self.k, self._ids.flatten(), self._scores.flatten())
        return TopK.from_padded(self._ids, self._scores)
