"""What a search must not give: items that nobody may get, and each query's own exclusions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
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
    """The excluded (query, item) pairs of a batch as sorted keys.

    counts: int64 (B,), *distinct* excluded items of each query. left: (B,), items that it may get.
    """

    def __init__(
        self, exclude: Ragged | None, num_queries: int, num_items: int, allowed: Allowed | None = None
    ) -> None:
        self.num_items = num_items
        self._keys = torch.empty(0, dtype=torch.int64)
        self.counts = torch.zeros(num_queries, dtype=torch.int64)
        if exclude is not None:
            exclude = exclude if allowed is None else allowed.only(exclude)
            self._keys = torch.unique(exclude.rows() * num_items + exclude.values)
            rows = torch.div(self._keys, num_items, rounding_mode="floor")
            self.counts = torch.bincount(rows, minlength=num_queries)
        self.left = (num_items if allowed is None else len(allowed)) - self.counts

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
        return self._keys[places] == keys

    def groups(self) -> Iterator[tuple[Tensor, int]]:
        """Queries with about equally many exclusions, and how many that is at most: 0, 1, 2, 4, 8, …

        One query with a long list then costs nothing to the others.
        """
        sizes = torch.zeros_like(self.counts)
        some = self.counts > 0
        sizes[some] = 1 << torch.ceil(torch.log2(self.counts[some].double())).long()
        for size in torch.unique(sizes).tolist():
            yield (sizes == size).nonzero().squeeze(1), int(size)


class Lists:
    """The lists of a batch while they fill: id −1 and score −∞ where there is nothing yet."""

    def __init__(self, num_queries: int, k: int, hidden: Hidden) -> None:
        self.k, self.hidden = k, hidden
        self._ids = torch.full((num_queries, k), -1, dtype=torch.int64)
        self._scores = torch.full((num_queries, k), -torch.inf)
        self._wanted = hidden.left.clamp(max=k)

    def put(self, rows: Tensor, ids_BK: Tensor, scores_BK: Tensor) -> None:
        """Set whole lists, best first."""
        self._ids[rows, : ids_BK.shape[1]], self._scores[rows, : ids_BK.shape[1]] = ids_BK, scores_BK

    def put_topk(self, rows: Tensor, found: TopK) -> None:
        """Set whole lists from another search's result."""
        cells = rows[found.rows()], found.ranks() - 1
        self._ids[rows], self._scores[rows] = -1, -torch.inf
        self._ids[cells], self._scores[cells] = found.ids, found.scores

    def short(self, rows: Tensor) -> Tensor:
        """Those of ``rows`` whose list is shorter than k although more items are left for it."""
        return rows[(self._ids[rows] >= 0).sum(1) < self._wanted[rows]]

    def topk(self) -> TopK:
        """What is there."""
        return TopK.from_padded(self._ids, self._scores)
