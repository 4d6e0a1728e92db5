"""Batch retrieval: queries in, top-k lists out, in memory that does not grow with the number of queries.

queries = dataset_queries(dataset)
results = retrieve(model, index, queries.batches(), k=100)
write_topk("topk.parquet", results, queries.ids, dataset.items["item_id"], k=100)    # xclass.retrieval.parts
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.heads.search import OwnSearch
from xclass.index.approximate import ApproximateIndex
from xclass.index.build import Index
from xclass.index.checks import checked_k
from xclass.index.filtering import Hidden
from xclass.index.interface import BatchSearch, RetrievalModel
from xclass.index.rows import search_lists
from xclass.index.subset import SubsetIndex
from xclass.runtime.memory import is_out_of_memory
from xclass.runtime.progress import Progress, say
from xclass.types import Batch, Ragged, TopK, concat_ragged, offsets_of

LONG_DENY_LIST = 1000

Group = list[tuple[Tensor, Batch]]
OwnLists = Callable[[Tensor], Ragged]
"""Item numbers of the queries at these positions, a list each."""


Searched = Index | BatchSearch


@dataclass(frozen=True, slots=True)
class Filters:
    """What a query does not get.

    include_seen: keep items of a query's history; they are left out otherwise.
    exclude: int64, item numbers that nobody gets. See :func:`restricted` for long lists.
    deny: each query's own list of items that it does not get.
    allow: each query's own list of items: it gets nothing else, and is searched exactly among them.
    """

    include_seen: bool = False
    exclude: Tensor | None = None
    deny: OwnLists | None = None
    allow: OwnLists | None = None

    def hidden(self, positions: Tensor, batch: Batch) -> Ragged | None:
        """Everything that these queries must not get, or None."""
        seen = None if self.include_seen else Ragged(batch.history.offsets, batch.history.values).long()
        denied = self.denied(positions)
        if seen is None or denied is None:
            return denied if seen is None else seen
        return concat_ragged(seen, denied)

    def denied(self, positions: Tensor) -> Ragged | None:
        """The same without what they have seen."""
        own = None if self.deny is None else self.deny(positions)
        if self.exclude is None or not len(self.exclude):
            return own
        offsets = torch.arange(len(positions) + 1) * len(self.exclude)
        everybody = Ragged(offsets, self.exclude.repeat(len(positions)))
        return everybody if own is None else concat_ragged(own, everybody)


def retrieve(
    model: RetrievalModel,
    index: Searched,
    batches: Iterable[tuple[Tensor, Batch]],
    k: int,
    *,
    include_seen: bool = False,
    exclude: Tensor | None = None,
    deny: OwnLists | None = None,
    allow: OwnLists | None = None,
    total: int | None = None,
    label: str = "retrieve",
) -> Iterator[tuple[Tensor, TopK]]:
    """The top k of each query, batch by batch: (positions, lists).

    Batches are searched together, as many queries as the index takes best at once. When memory runs out, half as many:
    once, and it is said on stderr.

    Args:
        batches: (positions, batch), as ``Queries.batches()`` gives them; positions come back with the lists.
        include_seen, exclude, deny, allow: see :class:`Filters`.
        total, label: number of queries and a word, for the progress on stderr.

    Raises:
        InputError: k < 1 at once; NaN in a vector or other dimensions when its batch comes.
    """
    search = Searching(model, index, checked_k(k), Filters(include_seen, exclude, deny, allow))
    return _watched(search.lists(batches), Progress(label, total, "queries"))


def restricted(index: Searched, candidates: Tensor | None, exclude: Tensor | None) -> tuple[Searched, Tensor | None]:
    """The index to search, and what is left to exclude per query, for a global allow and a global deny list.

    :class:`SubsetIndex` says how an allow list is searched. A deny list becomes the allow list of all others; one of up
    to 1000 items is added to each query's exclusions instead where the search is exact.
    """
    inside = isinstance(index, ApproximateIndex | BatchSearch)
    if candidates is None and (exclude is None or (len(exclude) <= LONG_DENY_LIST and not inside)):
        return index, exclude
    allowed = torch.zeros(index.num_items, dtype=torch.bool)
    allowed[slice(None) if candidates is None else candidates] = True
    if exclude is not None:
        allowed[exclude] = False
    if isinstance(index, BatchSearch):
        return index.only(allowed), None
    numbers = allowed.nonzero().squeeze(1)
    return (index.among(numbers) if isinstance(index, OwnSearch) else SubsetIndex(index, numbers)), None


class Searching:
    """A search with its filters, group by group."""

    def __init__(self, model: RetrievalModel, index: Searched, k: int, filters: Filters) -> None:
        self._model, self._index, self._k, self._filters = model, index, k, filters
        self._queries_at_once = index.queries_at_once
        self._halved = False

    def lists(self, batches: Iterable[tuple[Tensor, Batch]]) -> Iterator[tuple[Tensor, TopK]]:
        """(positions, lists), in the batches in which they came."""
        for group in _groups(batches, lambda: self._queries_at_once):
            found, first = self._search(group), 0
            for positions, batch in group:
                yield positions, _lists(found, first, first + len(batch))
                first += len(batch)

    def _search(self, group: Group) -> TopK:
        if isinstance(self._index, BatchSearch):
            return TopK.concat([self._ask(self._index, positions, batch) for positions, batch in group])
        positions = torch.cat([positions for positions, _ in group])
        query_BD = torch.cat([_vectors(self._model, batch) for _, batch in group])
        hidden = _together([self._filters.hidden(positions, batch) for positions, batch in group])
        with contextlib.suppress(_OutOfMemory):
            return self._search_in_pieces(positions, query_BD, hidden)
        return self._search_in_pieces(positions, query_BD, hidden)  # the pieces are smaller now

    def _ask(self, index: BatchSearch, positions: Tensor, batch: Batch) -> TopK:
        allow = None if self._filters.allow is None else self._filters.allow(positions)
        return index.search_batch(batch, self._k, self._filters.hidden(positions, batch), allow)

    def _search_in_pieces(self, positions: Tensor, query_BD: Tensor, hidden: Ragged | None) -> TopK:
        size = max(self._queries_at_once, 1) if self._halved else len(query_BD)
        parts = []
        for start in range(0, len(query_BD), max(size, 1)):
            stop = min(start + size, len(query_BD))
            exclude = None if hidden is None else hidden.slice(start, stop)
            try:
                parts.append(self._found(positions[start:stop], query_BD[start:stop], exclude))
            except (MemoryError, RuntimeError) as error:
                self._halve(error, stop - start)
                raise _OutOfMemory from None
        return TopK.concat(parts)

    def _found(self, positions: Tensor, query_BD: Tensor, exclude: Ragged | None) -> TopK:
        if self._filters.allow is not None and isinstance(self._index, OwnSearch):
            return self._index.search_lists(query_BD, self._k, self._filters.allow(positions), exclude)
        assert not isinstance(self._index, BatchSearch)
        if self._filters.allow is not None:
            return search_lists(self._index.vectors, query_BD, self._k, self._filters.allow(positions), exclude)
        return self._index.search(query_BD, self._k, exclude)

    def _halve(self, error: Exception, queries: int) -> None:
        """Half as many queries at once from now on; what is no lack of memory, or a second one, is raised."""
        if self._halved or queries < 2 or not is_out_of_memory(error):
            raise error
        self._halved, self._queries_at_once = True, -(-queries // 2)
        say(f"out of memory with {queries:,} queries at once; going on with {self._queries_at_once:,}")


class _OutOfMemory(Exception):
    """Try again with smaller pieces."""


def fill_short(found: TopK, k: int, popular: Tensor, denied: Ragged | None) -> tuple[TopK, int]:
    """Short lists filled up to k with the first of ``popular`` that they lack, and how many lists grew.

    What a query has seen may come back so; what is denied may not. What is filled in has the score NaN.

    Args:
        popular: int64, distinct item numbers, most popular first.
        denied: (B) items that these queries must not get.
    """
    short = (found.lengths() < k).nonzero().squeeze(1)
    if not len(short) or not len(popular):
        return found, 0
    held = Ragged(found.offsets, found.ids).take(short)
    taken = held if denied is None else concat_ragged(held, denied.take(short))
    head = popular[: k + int(taken.lengths().max())]
    hidden = Hidden(taken, len(short), int(max(popular.max(), taken.values.max() if len(taken.values) else 0)) + 1)
    free = ~hidden.contains(torch.arange(len(short)), head.expand(len(short), -1))
    missing = k - held.lengths()
    chosen = free & (free.cumsum(1) <= missing[:, None])
    rows, columns = chosen.nonzero(as_tuple=True)
    more = Ragged(
        offsets_of(torch.zeros(len(found), dtype=torch.int64).index_add_(0, short, chosen.sum(1))), head[columns]
    )
    ids = concat_ragged(Ragged(found.offsets, found.ids), more)
    blank = Ragged(more.offsets, torch.full((len(columns),), torch.nan))
    scores = concat_ragged(Ragged(found.offsets, found.scores), blank)
    return TopK(ids.offsets, ids.values, scores.values), len(torch.unique(rows))


def _watched(lists: Iterator[tuple[Tensor, TopK]], progress: Progress) -> Iterator[tuple[Tensor, TopK]]:
    with progress:
        for positions, found in lists:
            yield positions, found
            progress.advance(len(found))


def _groups(batches: Iterable[tuple[Tensor, Batch]], least: Callable[[], int]) -> Iterator[Group]:
    """Consecutive batches with ``least()`` queries together, or what is left at the end."""
    group: Group = []
    for positions, batch in batches:
        group.append((positions, batch))
        if sum(len(other) for _, other in group) >= least():
            yield group
            group = []
    if group:
        yield group


def _vectors(model: RetrievalModel, batch: Batch) -> Tensor:
    with torch.inference_mode():
        query_BD = model.query_vectors(batch)
    if len(query_BD) != len(batch):
        raise InputError("the model gives another number of vectors", wanted=len(batch), got=len(query_BD))
    return query_BD


def _together(parts: list[Ragged | None]) -> Ragged | None:
    """The lists of several batches, in order; all of them are None, or none is."""
    held = [part.long() for part in parts if part is not None]
    if not held:
        return None
    return Ragged(offsets_of(torch.cat([part.lengths() for part in held])), torch.cat([part.values for part in held]))


def _lists(found: TopK, start: int, stop: int) -> TopK:
    """The lists ``start … stop − 1``."""
    low, high = int(found.offsets[start]), int(found.offsets[stop])
    return TopK(found.offsets[start : stop + 1] - low, found.ids[low:high], found.scores[low:high])
