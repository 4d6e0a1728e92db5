"""Exact search through torch: one sweep over the items with a running top-k. No other library, CPU or GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.checks import checked_exclude, checked_k, checked_queries, checked_vectors
from xclass.index.topk_lists import running_topk
from xclass.runtime.progress import Progress
from xclass.runtime.threads import in_parts, scratch
from xclass.types import Ragged, TopK
from xclass.types.vectors import TensorVectors, Vectors

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
        return _search([(query_BD, self.vectors)], k, exclude, self.device)

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and parameters, as the manifest stores them."""
        return {"kind": self.kind, "factory": None, "metric": "inner_product", "search_parameters": {}}


def search_bands(bands: Sequence[tuple[Tensor, Vectors]], k: int, exclude: Ragged | None) -> TopK:
    """The k items with the largest inner product of each query, where items of different bands meet other vectors.

    Args:
        bands: (B, D_n) and the vectors of the items that it meets; items are numbered through all bands.
        k, exclude: as :meth:`ExactIndex.search` takes them.

    One list for all bands: what the first have found is what an item of the next must beat. Cost: 2·B·Σ N_n·D_n.
    """
    checked = [(checked_queries(part, vectors.dim), checked_vectors(vectors)) for part, vectors in bands]
    return _search(checked, k, exclude, checked[0][1].device)


def _search(bands: list[tuple[Tensor, Vectors]], k: int, exclude: Ragged | None, device: torch.device) -> TopK:
    """As many queries a sweep as there is room for their candidates."""
    queries, items = len(bands[0][0]), sum(len(vectors) for _, vectors in bands)
    exclude, k = checked_exclude(exclude, queries, items), min(checked_k(k), items)
    step, parts = max(1, MOST_CANDIDATES // (3 * k)), []
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        hidden = None if exclude is None else exclude.slice(start, stop)
        some = [(each[start:stop].to(device), vectors) for each, vectors in bands]
        parts.append(_sweep(some, k, hidden, device))
    return TopK.concat(parts) if parts else empty_topk(0)


@torch.no_grad()
def _sweep(bands: list[tuple[Tensor, Vectors]], k: int, exclude: Ragged | None, device: torch.device) -> TopK:
    """Once through the vectors with these queries, cut into parts that threads take."""
    queries, items = len(bands[0][0]), sum(len(vectors) for _, vectors in bands)
    groups = [
        _Group(
            [each[start:stop].contiguous() for each, _ in bands],
            k,
            None if exclude is None else exclude.slice(start, stop),
        )
        for start, stop in _cut(queries, device)
    ]
    watched = queries * items >= LONG_SWEEP_SCORES
    with Progress("exact search", items, "items") if watched else contextlib.nullcontext() as progress:
        for band, first, pieces in _pieces([vectors for _, vectors in bands], device):

            def feed(low: int, high: int, band: int = band, first: int = first, pieces: list[Tensor] = pieces) -> None:
                for group in groups[low:high]:
                    group.feed(band, pieces, first)

            in_parts(feed, len(groups), len(groups), device)
            if progress is not None:
                progress.advance(sum(map(len, pieces)))
    return TopK.concat([group.result() for group in groups])


def _pieces(sources: list[Vectors], device: torch.device) -> Iterator[tuple[int, int, list[Tensor]]]:
    """(source, number of the first item, its rows and the next ones' in consecutive pieces, each read by a thread)."""
    first = 0
    for number, vectors in enumerate(sources):
        for start in range(0, len(vectors), SWEEP_ITEMS):
            stop = min(start + SWEEP_ITEMS, len(vectors))

            def read(low: int, high: int, vectors: Vectors = vectors, start: int = start) -> Tensor:
                return vectors.read(start + low, start + high).to(device)

            yield number, first + start, in_parts(read, stop - start, (stop - start) // BLOCK_ITEMS, device)
        first += len(vectors)


class _Group:
    """Some queries of a sweep, one matrix for each band; their lists so far, and what is hidden from them."""

    def __init__(self, bands: list[Tensor], k: int, exclude: Ragged | None) -> None:
        self._bands, query_BD = bands, bands[0]
        wide = min(CACHED_SCORES // max(len(query_BD), 1), WIDEST)
        self._width = BLOCK_ITEMS if query_BD.is_cuda else max(wide, BLOCK_ITEMS // 2)
        self._running = running_topk(len(query_BD), k, query_BD.device)
        self._hidden = None if exclude is None else _InOrder(exclude, query_BD.device)

    def feed(self, band: int, pieces: list[Tensor], first: int) -> None:
        """Score consecutive items of a band, of which the first is number ``first``."""
        query_BD = self._bands[band]
        queries = len(query_BD)
        for piece in pieces:
            for block in piece.split(self._width):
                width = block.shape[0]
                scores = scratch(queries * width, query_BD).view(queries, width)
                torch.mm(query_BD, block.T, out=scores)
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
