"""A search with everything that a person may ask of its lists: allow and deny lists, what becomes of short ones, and
probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor

from xclass.errors import ConfigError, InputError, lookup
from xclass.index.checks import checked_k
from xclass.index.interface import BatchSearch, RetrievalModel
from xclass.queries.queries import Queries
from xclass.retrieval.item_lists import NO_FILTER, ItemFilter
from xclass.retrieval.parts import Counts
from xclass.retrieval.probabilities import Probabilities
from xclass.retrieval.search import Filters, OwnLists, Searched, Searching, fill_short, restricted
from xclass.types import TopK, concat_ragged

NAMED = 5
SHORT = ("keep", "popular", "error")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a search is to give.

    k: at most so many items for each query.
    include_seen: keep items that a query has in its history.
    allow, deny: nothing but these items; none of these.
    short: what becomes of a list with fewer than k items. keep it; fill it up with the most popular items that the
        query may get, seen ones too, with the score NaN (popular); an InputError that names the query (error).
    probabilities, over: see :class:`xclass.retrieval.probabilities.Probabilities`; None for scores alone.
    """

    k: int
    include_seen: bool = False
    allow: ItemFilter = NO_FILTER
    deny: ItemFilter = NO_FILTER
    short: str = "keep"
    probabilities: str | None = None
    over: int | None = None


class Found(NamedTuple):
    """positions: of some queries. lists: theirs. probabilities: of each row, None where nobody asked for them."""

    positions: Tensor
    lists: TopK
    probabilities: Tensor | None


class FilteredSearch:
    """The same filters for any number of queries.

    Args:
        item_counts: gives int (N,), how popular each item is; asked once, where short lists are filled.

    Raises:
        ConfigError: another word for ``short``. InputError: k below 1; nothing is allowed; own allow lists together
            with short="popular".
    """

    def __init__(
        self, model: RetrievalModel, index: Searched, wanted: Wanted, item_counts: Callable[[], Tensor]
    ) -> None:
        lookup("way with short lists", wanted.short, dict.fromkeys(SHORT), where="short")
        checked_k(wanted.k)
        self._model, self._wanted = model, wanted
        if wanted.over is not None and wanted.probabilities is None:
            raise ConfigError("over goes with probabilities", where="over", got=wanted.over)
        self.probabilities: Probabilities | None = None
        if wanted.probabilities is not None:
            if isinstance(index, BatchSearch):
                raise InputError("sums of several scorers' scores are no log-probabilities", do="ask for scores alone")
            self.probabilities = Probabilities(model, wanted.probabilities, wanted.over)
        self._allow, denied = wanted.allow.own, wanted.deny.everybody
        if self._allow is not None and denied is not None:
            self._allow, denied = self._allow.without(denied), None
        if self._allow is not None and wanted.short == "popular":
            raise InputError("lists among each query's own candidates can't be filled up", do="keep them short")
        self.index, self._exclude = restricted(index, wanted.allow.everybody, denied)
        self._popular = None
        if wanted.short == "popular":
            self._popular = _by_popularity(item_counts(), wanted.allow.everybody, denied)

    def check_own_lists(self) -> None:
        """DataError when allow or deny lists are of other queries than all that came so far."""
        for own, what in ((self._allow, "candidates"), (self._wanted.deny.own, "excluded items")):
            if own is not None:
                own.check_matched(what)

    def lists(self, queries: Queries, counts: Counts | None = None) -> Iterator[Found]:
        """Positions in ``queries`` and lists, batch by batch; ``counts`` grows with them."""
        counts, k = counts or Counts(), self._wanted.k
        own = [None if lists is None else lists.of(queries.ids) for lists in (self._wanted.deny.own, self._allow)]
        filters = Filters(self._wanted.include_seen, self._exclude, _and_hidden(own[0], queries), own[1])
        likely, again = self.probabilities, queries.batches()
        depth = k if likely is None else likely.depth(k)
        for positions, whole in Searching(self._model, self.index, depth, filters).lists(queries.batches()):
            batch = next(again)[1] if likely is not None and likely.wants_queries else None
            sums = None if likely is None else likely.normalisers(whole, batch)
            found = whole.head(k)
            counts.count(found, k)
            if self._wanted.short == "error":
                _check_full(queries.ids, positions, found, k)
            if self._popular is not None:
                found, grown = fill_short(found, k, self._popular, filters.denied(positions))
                counts.filled_lists += grown
            counts.rows += len(found.ids)
            given = None if likely is None or sums is None else likely.of(found, batch, sums)
            yield Found(positions, found, given)


def _and_hidden(own: OwnLists | None, queries: Queries) -> OwnLists | None:
    """The deny lists, and what the dataset hides from these queries."""
    if queries.hidden is None:
        return own
    if own is None:
        return queries.hidden_from
    return lambda positions: concat_ragged(own(positions), queries.hidden_from(positions))


def _by_popularity(item_counts: Tensor, allowed: Tensor | None, denied: Tensor | None) -> Tensor:
    """Item numbers that anybody may get, most popular first."""
    free = torch.full((len(item_counts),), allowed is None)
    if allowed is not None:
        free[allowed] = True
    if denied is not None:
        free[denied] = False
    order = torch.argsort(item_counts, descending=True, stable=True)
    return order[free[order]]


def _check_full(ids: pl.Series, positions: Tensor, found: TopK, k: int) -> None:
    short = (found.lengths() < k).nonzero().squeeze(1)
    if len(short):
        named = [f"{ids[int(positions[b])]} ({int(found.lengths()[b])})" for b in short[:NAMED]]
        do = "let short lists be kept or filled up, ask for a smaller k, or widen the filters"
        raise InputError("a list is short", wanted=f"{k} items for each query", got=", ".join(named), do=do)
