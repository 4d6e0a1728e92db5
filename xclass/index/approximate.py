"""Approximate search behind the seam: over-fetching for exclusions, true scores, no padding, exact where short."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.checks import checked_exclude, checked_k, checked_queries, checked_vectors
from xclass.index.exact import ExactIndex
from xclass.index.filtering import Allowed, Hidden, Lists
from xclass.index.rescoring import Found, best_scored
from xclass.index.rows import exact_among
from xclass.runtime.threads import short_operations
from xclass.types import Ragged, TopK
from xclass.types.vectors import Vectors

MOST_WIDENINGS = 3
CHUNK_CELLS = 1 << 20
EXACT_SHARE = 0.25
LEAST_ROOM = 8
ROOM_SHARE = 4

Settings = Mapping[str, int]
"""The parameters of one search, by name."""


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, … and ``largest`` itself.

    >>> powers_of_two(6), powers_of_two(1)
    ([1, 2, 4, 6], [1])
    """
    return [*(1 << step for step in range((largest - 1).bit_length())), largest]


class ApproximateIndex(ABC):
    """What every approximate kind shares; a kind says how it is built and how it finds.

    Scores are inner products of the vectors themselves. Exclusions: a quarter more than k is fetched (8 or more), and
    what is hidden is dropped. A query with more hits than that is searched again for k + as many as are hidden, queries
    with similar numbers together: nothing is proposed less often than without exclusions. A list that is still short
    is fetched twice as wide with twice the reach, three times, then searched exactly. So a list is short only when
    fewer than k items are left. Items that nobody may get are passed over inside the search where the kind can do
    that, and cost a wider one where it can't. What a query gets does not depend on the queries beside it, nor on
    searches that run at the same time in other threads.

    Attributes:
        parameters: of a search, by name; :meth:`set_parameters` changes them.
        reach: the parameter that widening doubles, None where nothing can be turned.
        build_s: seconds that the build took.
    """

    queries_at_once = 4096

    def __init__(self, kind: str, factory: str | None, metric: str = "inner_product") -> None:
        self.kind, self.metric = kind, metric
        self._wanted_factory = factory
        self.factory = factory or ""
        self.parameters: dict[str, int] = {}
        self.reach: str | None = None
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
        """Learn what the kind needs and take in the item vectors: (N,D), row number = item number."""
        started = time.perf_counter()
        held = checked_vectors(vectors)
        self._build(held)
        self._exact.vectors = held
        self.build_s = time.perf_counter() - started
        self._start()

    def set_parameters(self, **values: int) -> None:
        """How far a search looks: larger finds more and takes longer.

        Raises:
            InputError: a name that this index does not have, or a value below 1.
        """
        for name, value in values.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise InputError("this index has no such search parameter", where=self.factory, wanted=known, got=name)
            if value < 1:
                raise InputError("a search parameter is too small", where=name, wanted="1 or more", got=value)
        self.parameters.update(values)
        self._apply()

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None, allowed: Allowed | None = None) -> TopK:
        """About the k items with the largest inner product of each query, never one of its excluded items.

        Args:
            allowed: nothing but these items; the reach grows as they get fewer. See :class:`SubsetIndex`.
        """
        if not self.num_items:
            raise InputError("the index is empty", do="call build(vectors) first")
        with short_operations():
            query_BD = checked_queries(query_BD, self.dim)
            exclude = checked_exclude(exclude, len(query_BD), self.num_items)
            k = min(checked_k(k), self.num_items)
            if exclude is None and allowed is None and len(query_BD) * k <= CHUNK_CELLS:
                found = self._find(query_BD, k, k, None, self.parameters)
                if bool((found.lengths == k).all()):
                    return TopK(torch.arange(len(query_BD) + 1) * k, found.ids.flatten(), found.scores.flatten())
            return self._search(query_BD, k, exclude, allowed)

    def _search(self, query_BD: Tensor, k: int, exclude: Ragged | None, allowed: Allowed | None) -> TopK:
        lists = Lists(len(query_BD), k, Hidden(exclude, len(query_BD), self.num_items, allowed))
        hidden, search = lists.hidden, _Search(query_BD, lists, allowed)
        deeper = [torch.empty(0, dtype=torch.int64)]
        for rows, size in hidden.first_groups(max(LEAST_ROOM, k // ROOM_SHARE)):
            deeper.append(self._propose(search, rows, k + size))
        for rows, size in hidden.groups(torch.cat(deeper).sort().values):
            self._propose(search, rows, k + size)
        for rows, size in hidden.groups(lists.short()):
            self._widen(search, rows, k + size)
        short = lists.short()
        if len(short):
            left = None if exclude is None else exclude.take(short)
            exact = self._exact if allowed is None else exact_among(self.vectors, allowed)
            lists.put_topk(short, exact.search(query_BD[short], k, left))
        return lists.topk()

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and parameters, as the manifest stores them."""
        return {
            "kind": self.kind,
            "factory": self.factory,
            "metric": self.metric,
            "search_parameters": dict(self.parameters),
            "build_s": round(self.build_s, 3),
        }

    @abstractmethod
    def extra_bytes(self) -> int:
        """Bytes held beside the item vectors."""

    @abstractmethod
    def largest_reach(self) -> int:
        """The value of the reach beyond which a search finds nothing more."""

    def choices(self, name: str, k: int) -> list[int]:
        """Values of a parameter that are worth trying for lists of k, the one that finds the least first."""
        return powers_of_two(self.largest_reach())

    @abstractmethod
    def _build(self, vectors: Vectors) -> None:
        """Make the structure over these vectors; ``factory`` says what was made."""

    @abstractmethod
    def _start(self) -> None:
        """Name the parameters of the structure that is there now, with their first values."""

    @abstractmethod
    def _apply(self) -> None:
        """Hand the parameters on to what searches."""

    @abstractmethod
    def _find(self, query_BD: Tensor, k: int, fetch: int, hidden: Ragged | None, settings: Settings) -> Found:
        """The best k of each query by true scores, of as many proposals as it takes for lists of k and ``fetch`` − k
        more that may be hidden; searched with ``settings``, which leave those of other searches alone."""

    def _find_among(
        self, query_BD: Tensor, k: int, fetch: int, hidden: Ragged | None, settings: Settings, allowed: Allowed
    ) -> Found:
        """As :meth:`_find`, allowed items only. A kind that can pass over the others while it searches overrides it."""
        wide = min(math.ceil(fetch / allowed.share), self.num_items)
        found = self._find(query_BD, wide, wide, None, settings)
        return best_scored(torch.where(allowed.contains(found.ids), found.ids, -1), found.scores, k, hidden)

    def _propose(self, search: _Search, rows: Tensor, fetch: int, factor: int = 1) -> Tensor:
        """Fill the lists of ``rows``; those that met more hidden items than there was room for.

        Lists that would need a large part of the items are left empty for the exact search.
        """
        k, allowed = search.lists.k, search.allowed
        items, again = self.num_items if allowed is None else len(allowed), [rows[:0]]
        fetch = min(fetch, items)
        if self.factory != "Flat" and fetch > k and fetch > EXACT_SHARE * items:
            search.lists.forget(rows)
            return rows[:0]
        settings = self._farther(factor * self.num_items / items)
        for chunk in rows.split(max(1, CHUNK_CELLS // fetch)):
            queries, hidden = search.of(chunk)
            if allowed is None:
                found = self._find(queries, k, fetch, hidden, settings)
            else:
                found = self._find_among(queries, k, fetch, hidden, settings, allowed)
            search.lists.put(chunk, found.ids, found.scores, found.lengths)
            again.append(chunk[found.hits > fetch - k])
        return torch.cat(again)

    def _widen(self, search: _Search, rows: Tensor, fetch: int) -> None:
        """Lists that are short although nothing hidden is in the way: wider and wider."""
        for widening in range(1, MOST_WIDENINGS + 1):
            self._propose(search, rows, fetch << widening, 1 << widening)
            rows = rows[torch.isin(rows, search.lists.short(), assume_unique=True)]
            if not len(rows):
                return

    def _farther(self, factor: float) -> Settings:
        """The parameters with so many times the reach. Other searches may run meanwhile, so nothing is set."""
        if factor == 1 or self.reach is None:
            return self.parameters
        return {**self.parameters, self.reach: math.ceil(self.parameters[self.reach] * factor)}


class _Search(NamedTuple):
    """What one call searches for."""

    query_BD: Tensor
    lists: Lists
    allowed: Allowed | None

    def of(self, rows: Tensor) -> tuple[Tensor, Ragged | None]:
        """The vectors of these queries and what is hidden from them."""
        queries = self.query_BD if len(rows) == len(self.query_BD) else self.query_BD[rows]
        return queries, self.lists.hidden.of(rows)
