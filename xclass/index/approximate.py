"""Any Faiss index behind the seam: over-fetching for exclusions, true scores, no padding, exact where short."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from xclass.errors import ConfigError, InputError
from xclass.index.checks import checked_exclude, checked_k, checked_queries, checked_vectors
from xclass.index.exact import ExactIndex
from xclass.index.factory import (
    default_factory,
    faiss_bytes,
    faiss_reason,
    fit_lists,
    make_faiss,
    num_lists,
    search_parameter_name,
    set_parameter,
    stores_vectors,
    threads,
)
from xclass.index.filtering import Hidden, Lists
from xclass.index.running import best_first
from xclass.types import Ragged, TopK
from xclass.vectors import Vectors

MOST_WIDENINGS = 3
CHUNK_CELLS = 1 << 20
EXACT_SHARE = 0.25
EF_CONSTRUCTION = 40
START_PARAMETER = {"efSearch": 64, "nprobe": 16}
ADD_BYTES = 1 << 28
TRAIN_ROWS = 1 << 20
TRAIN_ROWS_PER_LIST = 64


class FaissIndex:
    """A Faiss index named by a factory string.

    Scores are inner products of the vectors themselves: where Faiss compresses them, or searches by L2, what it found
    is scored again. Exclusions: k + as many as are hidden are fetched, queries with similar numbers together; a list
    that is still short is fetched twice as wide with twice the search parameter, three times, then searched exactly.
    So a list is short only when fewer than k items are left.

    Vectors are given to Faiss in blocks of 256 MB, and it is trained on at most a million of them (64 for each inverted
    list, if that is more), evenly spaced: beside what Faiss keeps there is no second copy of the catalogue.

    Args:
        kind: flat, hnsw, ivf: the factory string fits the catalogue; or factory, with ``factory``.
        factory: a Faiss factory string. ``IVF`` with too many lists for the catalogue gets fewer.
        metric: "inner_product", or "l2_augmented": one more dimension makes all norms equal, [x, √(M² − |x|²)],
            so that L2 neighbours are the largest inner products.
        deterministic: build on one thread: the same vectors give the same index, more slowly.
    """

    queries_at_once = 1024

    def __init__(
        self, kind: str, factory: str | None = None, metric: str = "inner_product", deterministic: bool = False
    ) -> None:
        if metric not in ("inner_product", "l2_augmented"):
            raise ConfigError("there is no such metric", wanted="inner_product or l2_augmented", got=metric)
        self.kind, self.metric, self.deterministic = kind, metric, deterministic
        self._wanted_factory = factory
        self.factory = factory or ""
        self.faiss: Any = None
        self.parameter: str | None = None
        self.parameter_value: int | None = None
        self.build_s = 0.0
        self._exact = ExactIndex("cpu")

    @property
    def num_items(self) -> int:
        """N, 0 before build."""
        return self._exact.num_items

    @property
    def dim(self) -> int:
        """D."""
        return self._exact.dim

    @property
    def vectors(self) -> Vectors:
        """The item vectors as given."""
        return self._exact.vectors

    def build(self, vectors: Tensor | Vectors) -> None:
        """Train where the kind needs it, and add the item vectors: (N,D), row number = item number."""
        started = time.perf_counter()
        held = checked_vectors(vectors)
        wanted = self._wanted_factory or default_factory(self.kind, len(held))
        self.factory = fit_lists(wanted, len(held))
        index = make_faiss(held.dim + self._l2, self.factory, self._l2)
        with threads(1 if self.deterministic else None):
            try:
                self._fill(index, held)
            except RuntimeError as error:
                raise InputError(
                    "Faiss cannot build this index",
                    where=self.factory,
                    wanted="vectors enough to train it",
                    got=f"{len(held):,} vectors: {faiss_reason(error)}",
                    do="choose the kind exact, or a factory string for a smaller catalogue",
                ) from None
        self._take(index, held, time.perf_counter() - started)

    def restore(self, index: Any, vectors: Tensor | Vectors, build_s: float) -> None:
        """Take a Faiss index that holds ``vectors`` already and took ``build_s`` to build."""
        self._take(index, checked_vectors(vectors), build_s)

    def _take(self, index: Any, checked: Vectors, build_s: float) -> None:
        self.faiss, self.build_s = index, build_s
        self._exact.vectors = checked
        self.parameter = search_parameter_name(index)
        if self.parameter is not None:
            self.set_search_parameter(START_PARAMETER[self.parameter])

    def set_search_parameter(self, value: int) -> None:
        """How far a search looks: efSearch or nprobe. Larger finds more and takes longer."""
        if self.parameter is None:
            raise InputError("this index has no search parameter", where=self.factory)
        self.parameter_value = value
        set_parameter(self.faiss, self.parameter, value)

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """About the k items with the largest inner product of each query, never one of its excluded items."""
        if not self.num_items:
            raise InputError("the index is empty", do="call build(vectors) first")
        query_BD = checked_queries(query_BD, self.dim)
        exclude = checked_exclude(exclude, len(query_BD), self.num_items)
        k = min(checked_k(k), self.num_items)
        lists = Lists(len(query_BD), k, Hidden(exclude, len(query_BD), self.num_items))
        for rows, size in lists.hidden.groups():
            self._search_rows(query_BD, rows, k + size, lists)
        short = lists.short(torch.arange(len(query_BD)))
        if len(short):
            left = None if exclude is None else exclude.take(short)
            lists.put_topk(short, self._exact.search(query_BD[short], k, left))
        return lists.topk()

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and parameters, as the manifest stores them."""
        return {
            "kind": self.kind,
            "factory": self.factory,
            "metric": self.metric,
            "search_parameter": self.parameter and {"name": self.parameter, "value": self.parameter_value},
            "build_s": round(self.build_s, 3),
        }

    @property
    def num_lists(self) -> int:
        """Inverted lists of an IVF index, 1 for another."""
        return num_lists(self.faiss)

    def faiss_bytes(self) -> int:
        """What Faiss would write: about what it holds in memory."""
        return faiss_bytes(self.faiss)

    @property
    def _l2(self) -> bool:
        return self.metric == "l2_augmented"

    def _fill(self, index: Any, vectors: Vectors) -> None:
        """Train where the kind needs it, then add everything, in blocks."""
        largest = max(float(_squares(block).max()) for _, block in vectors.blocks()) if self._l2 else 0.0
        if search_parameter_name(index) == "efSearch":
            set_parameter(index, "efConstruction", EF_CONSTRUCTION)
        if not index.is_trained:
            index.train(self._augmented(_training_rows(vectors, num_lists(index)), largest).numpy())
        for _, block in vectors.blocks(max(1, ADD_BYTES // (4 * vectors.dim))):
            index.add(self._augmented(block, largest).numpy())

    def _augmented(self, rows: Tensor, largest: float) -> Tensor:
        """Rows on the CPU as Faiss takes them; by L2 with √(largest − |x|²) as one more dimension."""
        rows = rows.cpu().contiguous()
        if not self._l2:
            return rows
        last = (largest - _squares(rows)).clamp_(min=0).sqrt_().float()
        return torch.cat([rows, last[:, None]], 1)

    def _search_rows(self, query_BD: Tensor, rows: Tensor, fetch: int, lists: Lists) -> None:
        """Fill the lists of ``rows``, wider and wider; what stays short is left to the exact search."""
        before = self.parameter_value
        try:
            for widening in range(MOST_WIDENINGS + 1):
                fetch = min(fetch << widening, self.num_items)
                if self.factory != "Flat" and fetch > lists.k and fetch > EXACT_SHARE * self.num_items:
                    return
                if before is not None:
                    self.set_search_parameter(before << widening)
                for chunk in rows.split(max(1, CHUNK_CELLS // fetch)):
                    lists.put(chunk, *self._fetch(query_BD, chunk, fetch, lists))
                rows = lists.short(rows)
                if not len(rows):
                    return
        finally:
            if before is not None:
                self.set_search_parameter(before)

    def _fetch(self, query_BD: Tensor, rows: Tensor, fetch: int, lists: Lists) -> tuple[Tensor, Tensor]:
        """(b,k) ids and scores of these queries, best first, −1 and −∞ behind the last."""
        queries = query_BD if len(rows) == len(query_BD) else query_BD[rows]
        asked = torch.nn.functional.pad(queries, (0, 1)) if self._l2 else queries
        scores_np, ids_np = self.faiss.search(asked.numpy(), fetch)
        ids, scores = torch.from_numpy(ids_np), torch.from_numpy(scores_np)
        gone = (ids < 0) | lists.hidden.contains(rows, ids)
        if self._l2 or not stores_vectors(self.factory):
            scores = torch.einsum("bd,bkd->bk", queries, self._vectors_of(ids.clamp(min=0)))
        elif bool((scores[:, 1:] < scores[:, :-1]).all()) and not bool(gone.any()):
            return ids[:, : lists.k], scores[:, : lists.k]
        scores, ids = scores.masked_fill(gone, -torch.inf), ids.masked_fill(gone, self.num_items)
        ids, scores = best_first(ids, scores)
        ids = torch.where(scores > -torch.inf, ids, -1)
        return ids[:, : lists.k], scores[:, : lists.k]

    def _vectors_of(self, ids_BK: Tensor) -> Tensor:
        return self.vectors.take(ids_BK.flatten()).cpu().view(*ids_BK.shape, -1)


def _squares(rows: Tensor) -> Tensor:
    return rows.double().square().sum(1)


def _training_rows(vectors: Vectors, lists: int) -> Tensor:
    """All rows, or so many of them, evenly spaced, that training has plenty."""
    most = max(TRAIN_ROWS, TRAIN_ROWS_PER_LIST * lists)
    if len(vectors) <= most:
        return vectors.read(0, len(vectors))
    return vectors.take(torch.arange(most) * len(vectors) // most)
