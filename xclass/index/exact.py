"""Exact search through torch: one sweep over the items with a running top-k. No other library, CPU or GPU."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.checks import checked_exclude, checked_k, checked_queries, checked_vectors
from xclass.index.running import running_topk
from xclass.progress import Progress
from xclass.types import Ragged, TopK
from xclass.vectors import TensorVectors, Vectors
from xclass.workers import in_parts, scratch

SWEEP_ITEMS = 1 << 15
BLOCK_ITEMS = 2048
BLOCK_SCORES = 1 << 20
CACHED_SCORES = 1 << 18  # of a block on the CPU: they stay in the cache, and a block is worth its dozen calls
WIDEST = 8192
MOST_CANDIDATES = 1 << 22
LONG_SWEEP_SCORES = 1 << 34


class ExactIndex:
    """Every item is scored, block by block; nothing of size queries × items exists.

    Item blocks are the outer loop: vectors are read once a search (widened, projected, taken from a file: once), and
    all of its queries meet them while they are in the cache. Queries beyond about 1.4 M / k take another sweep.

    Cost: 2·B·N·D operations. Memory: the vectors as they are stored, 32 Ki of them as float32, 1 Mi scores (4 MiB) for
    each thread, and 12·k bytes for each query (36·k on an accelerator or without a compiler). Excluded items are masked
    inside the block. Scores are float32 products of float32 vectors. Equal scores: lower item number first.

    Args:
        device: where the search runs; where the vectors are unless given.
    """

    kind = "exact"
    queries_at_once = 4096

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._wanted_device = None if device is None else torch.device(device)
        self.vectors: Vectors = TensorVectors(torch.empty(0, 0))

    @property
    def device(self) -> torch.device:
        """Where the search runs."""
        return self._wanted_device or self.vectors.device

    @property
    def num_items(self) -> int:
        """N, 0 before build."""
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors.dim

    def build(self, vectors: Tensor | Vectors) -> None:
        """Search in these item vectors: (N,D), row number = item number. NaN or infinity is an InputError.

        A matrix is moved to the device; a source is read whenever there is a search.
        """
        held = checked_vectors(vectors)
        if isinstance(held, TensorVectors) and self._wanted_device is not None:
            held = TensorVectors(held.rows.to(self._wanted_device))
        self.vectors = held

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The k items with the largest inner product of each query, without its excluded ones."""
        if not self.num_items:
            raise InputError("the index is empty", do="call build(vectors) first")
        query_BD = checked_queries(query_BD, self.dim)
        exclude = checked_exclude(exclude, len(query_BD), self.num_items)
        k = min(checked_k(k), self.num_items)
        step = max(1, MOST_CANDIDATES // (3 * k))
        parts = []
        for start in range(0, len(query_BD), step):
            stop = min(start + step, len(query_BD))
            hidden = None if exclude is None else exclude.slice(start, stop)
            parts.append(self._sweep(query_BD[start:stop].to(self.device), k, hidden))
        return TopK.concat(parts) if parts else empty_topk(0)

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and parameters, as the manifest stores them."""
        return {"kind": self.kind, "factory": None, "metric": "inner_product", "search_parameters": {}}

    @torch.no_grad()
    def _sweep(self, query_BD: Tensor, k: int, exclude: Ragged | None) -> TopK:
        """Once through the catalogue with these queries, cut into parts that threads take."""
        groups = [
            _Group(query_BD[start:stop], k, None if exclude is None else exclude.slice(start, stop))
            for start, stop in _cut(len(query_BD), self.device)
        ]
        watched = len(query_BD) * self.num_items >= LONG_SWEEP_SCORES
        with Progress("exact search", self.num_items, "items") if watched else contextlib.nullcontext() as progress:
            for start in range(0, self.num_items, SWEEP_ITEMS):
                stop = min(start + SWEEP_ITEMS, self.num_items)
                pieces = self._read(start, stop)

                def feed(low: int, high: int, pieces: list[Tensor] = pieces, start: int = start) -> None:
                    for group in groups[low:high]:
                        group.feed(pieces, start)

                in_parts(feed, len(groups), len(groups), self.device)
                if progress is not None:
                    progress.advance(stop - start)
        return TopK.concat([group.result() for group in groups])

    def _read(self, start: int, stop: int) -> list[Tensor]:
        """Rows ``start … stop − 1`` in consecutive pieces, each read by a thread."""

        def read(low: int, high: int) -> Tensor:
            return self.vectors.read(start + low, start + high).to(self.device)

        return in_parts(read, stop - start, (stop - start) // BLOCK_ITEMS, self.device)


class _Group:
    """Some queries of a sweep, their lists so far, and what is hidden from them."""

    def __init__(self, query_BD: Tensor, k: int, exclude: Ragged | None) -> None:
        self._query_BD = query_BD
        wide = min(CACHED_SCORES // max(len(query_BD), 1), WIDEST)
        self._width = BLOCK_ITEMS if query_BD.is_cuda else max(wide, BLOCK_ITEMS // 2)
        self._running = running_topk(len(query_BD), k, query_BD.device)
        self._hidden = None if exclude is None else _InOrder(exclude, query_BD.device)

    def feed(self, pieces: list[Tensor], first: int) -> None:
        """Score consecutive items, of which the first is number ``first``."""
        queries = self._query_BD.shape[0]
        for piece in pieces:
            for block in piece.split(self._width):
                width = block.shape[0]
                scores = scratch(queries * width, self._query_BD).view(queries, width)
                torch.mm(self._query_BD, block.T, out=scores)
                if self._hidden is not None:
                    self._hidden.mask(scores, first)
                self._running.feed(scores, first)
                first += width

    def result(self) -> TopK:
        return self._running.result()


class _InOrder:
    """Excluded (query, item) pairs in the order of the items; blocks of items come in that order too."""

    def __init__(self, exclude: Ragged, device: torch.device) -> None:
        items, order = torch.sort(exclude.values)
        self._items = items.numpy()
        self._rows, self._columns = exclude.rows()[order].to(device), items.to(device)
        self._done = 0

    def mask(self, scores: Tensor, first: int) -> None:
        low = self._done
        high = self._done = int(np.searchsorted(self._items, first + scores.shape[1]))
        if high > low:
            scores[self._rows[low:high], self._columns[low:high] - first] = -torch.inf


def _cut(num_queries: int, device: torch.device) -> list[tuple[int, int]]:
    """Bounds of groups of queries: as many as threads have work for, none larger than a block of scores allows."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    most = BLOCK_SCORES // BLOCK_ITEMS
    count = max(-(-num_queries // most), min(threads, num_queries), 1)
    bounds = [num_queries * part // count for part in range(count + 1)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def empty_topk(num_queries: int) -> TopK:
    """Lists without an item."""
    return TopK(torch.zeros(num_queries + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0))
