"""Excluded items behind a search that cannot mask them: ask for more, drop what is hidden, ask again where short."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xclass.types import Ragged, TopK


class Hidden:
    """The excluded (query, item) pairs of a batch as sorted keys.

    counts: int64 (B,), *distinct* excluded items of each query.
    """

    def __init__(self, exclude: Ragged | None, num_queries: int, num_items: int) -> None:
        self.num_items = num_items
        self._keys = torch.empty(0, dtype=torch.int64)
        self.counts = torch.zeros(num_queries, dtype=torch.int64)
        if exclude is not None:
            self._keys = torch.unique(exclude.rows() * num_items + exclude.values)
            rows = torch.div(self._keys, num_items, rounding_mode="floor")
            self.counts = torch.bincount(rows, minlength=num_queries)

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
        self._wanted = (hidden.num_items - hidden.counts).clamp(max=k)

    def put(self, rows: Tensor, ids_BK: Tensor, scores_BK: Tensor) -> None:
        """Set whole lists, best first."""
        self._ids[rows], self._scores[rows] = ids_BK, scores_BK

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
