"""Exact search through torch: item blocks with a running top-k. No other library, CPU or GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.checks import checked_exclude, checked_k, checked_queries, checked_vectors
from xclass.index.running import RunningTopK
from xclass.types import Ragged, TopK

BLOCK_ITEMS = 4096
BLOCK_SCORES = 1 << 21
MOST_CANDIDATES = 1 << 22


class ExactIndex:
    """Every item is scored, block by block; nothing of size queries × items exists.

    Cost: 2·B·N·D operations. Memory: the vectors (not copied when float32 and contiguous) and one block of
    2 Mi scores (8 MiB), plus 36·k bytes for each of its queries. Excluded items are masked inside the block.
    Equal scores: lower item number first.

    Args:
        device: where the search runs; the vectors are moved there by :meth:`build`.
    """

    kind = "exact"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.vectors = torch.empty(0, 0)

    @property
    def num_items(self) -> int:
        """N, 0 before build."""
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors.shape[1]

    def build(self, vectors: Tensor) -> None:
        """Hold these item vectors: (N,D), row number = item number. NaN or infinity is an InputError."""
        self.vectors = checked_vectors(vectors).to(self.device)

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The k items with the largest inner product of each query, without its excluded ones."""
        if not self.num_items:
            raise InputError("the index is empty", do="call build(vectors) first")
        query_BD = checked_queries(query_BD, self.dim)
        exclude = checked_exclude(exclude, len(query_BD), self.num_items)
        k = min(checked_k(k), self.num_items)
        step = max(1, min(BLOCK_SCORES // BLOCK_ITEMS, MOST_CANDIDATES // (3 * k)))
        parts = []
        for start in range(0, len(query_BD), step):
            stop = min(start + step, len(query_BD))
            hidden = None if exclude is None else exclude.slice(start, stop)
            parts.append(self._search_chunk(query_BD[start:stop].to(self.device), k, hidden))
        return TopK.concat(parts) if parts else empty_topk(0)

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and parameters, as the manifest stores them."""
        return {"kind": self.kind, "factory": None, "metric": "inner_product", "search_parameter": None}

    def _search_chunk(self, query_BD: Tensor, k: int, exclude: Ragged | None) -> TopK:
        running = RunningTopK(len(query_BD), k, self.device)
        width = min(BLOCK_ITEMS, self.num_items)
        buffer = torch.empty(len(query_BD), width, device=self.device)
        hidden = None if exclude is None else _ByBlock(exclude, width, self.num_items, self.device)
        for start in range(0, self.num_items, width):
            block = self.vectors[start : start + width]
            full = len(block) == width
            scores = torch.mm(query_BD, block.T, out=buffer) if full else torch.mm(query_BD, block.T)
            if hidden is not None:
                hidden.mask(scores, start // width)
            running.feed(scores, start)
        return running.result()


class _ByBlock:
    """Excluded (query, item) pairs in the order of the items, cut where the blocks are."""

    def __init__(self, exclude: Ragged, width: int, num_items: int, device: torch.device) -> None:
        items, order = torch.sort(exclude.values)
        borders = torch.arange(0, num_items + width, width)
        self._bounds = torch.searchsorted(items, borders).tolist()
        self._rows = exclude.rows()[order].to(device)
        self._columns = (items % width).to(device)

    def mask(self, scores: Tensor, block: int) -> None:
        low, high = self._bounds[block], self._bounds[block + 1]
        if high > low:
            scores[self._rows[low:high], self._columns[low:high]] = -torch.inf


def empty_topk(num_queries: int) -> TopK:
    """Lists without an item."""
    return TopK(torch.zeros(num_queries + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0))
