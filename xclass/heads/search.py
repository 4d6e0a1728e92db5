"""A head's own search where an index is wanted: retrieval, evaluation and filters work with it as with any other."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from xclass.embeddings.interface import Table
from xclass.errors import InputError
from xclass.heads.interface import Head
from xclass.index.checks import checked_exclude, checked_k, checked_queries
from xclass.index.filtering import Allowed, Hidden
from xclass.types import Ragged, TopK, offsets_of


class OwnSearch:
    """The search of a head over the model's tables, as an :class:`xclass.index.Index` that is never built.

    Args:
        head, tables: of the model; what they hold at the time of a search counts.
        exact: miss nothing.
        allowed: the items that anybody may get; None for all.
    """

    kind = "head"
    queries_at_once = 1024

    def __init__(
        self,
        head: Head,
        tables: dict[str, Table],
        exact: bool = False,
        allowed: Allowed | None = None,
    ) -> None:
        self._head, self._tables, self._exact, self._allowed = head, tables, exact, allowed
        self.num_items, self.dim = head.num_items, head.dim

    @property
    def misses_some(self) -> bool:
        """Whether it may miss items that an exact search would find."""
        return self._head.searched_by == "beam" and not self._exact

    @property
    def vectors(self) -> NoReturn:
        """InputError: what ranks items is not an inner product."""
        raise InputError("the items of this model have no vectors", do="use its head's own search")

    def build(self, vectors: object) -> None:
        """InputError: there is nothing to build."""
        raise InputError("a head's own search is not built", do="search right away")

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The best k items of each query by the head, without its excluded ones."""
        query_BD, exclude = checked_queries(query_BD, self.dim), checked_exclude(exclude, len(query_BD), self.num_items)
        numbers = None if self._allowed is None else self._allowed.numbers
        return self._head.topk(query_BD, checked_k(k), self._tables, exclude, numbers, self._exact)

    def search_lists(self, query_BD: Tensor, k: int, allow: Ragged, exclude: Ragged | None = None) -> TopK:
        """The best k of each query's own list, by their exact probabilities."""
        query_BD, k = checked_queries(query_BD, self.dim), checked_k(k)
        lists = allow.long() if self._allowed is None else self._allowed.only(allow.long())
        rows, ids = Hidden(lists, len(query_BD), self.num_items).pairs()
        kept = ~Hidden(exclude, len(query_BD), self.num_items).contains(rows, ids[:, None]).squeeze(1)
        rows, ids = rows[kept], ids[kept]
        offsets = offsets_of(torch.bincount(rows, minlength=len(query_BD)))
        scores = self._head.log_probability(query_BD, Ragged(offsets, ids), self._tables)
        best = torch.argsort(scores, descending=True, stable=True)  # pairs rise by item, so equal scores do, too
        order = best[torch.argsort(rows[best], stable=True)]
        return TopK(offsets, ids[order], scores[order]).head(k)

    def among(self, candidates: Tensor) -> OwnSearch:
        """The same search where nothing but these items comes out."""
        allowed = Allowed(candidates, self.num_items)
        return OwnSearch(self._head, self._tables, self._exact, allowed)

    def describe(self) -> dict[str, Any]:
        """As manifests and jobs store it."""
        parameters = {"exact": self._exact, "beam": getattr(self._head, "beam", None)}
        kept = {name: value for name, value in parameters.items() if value is not None}
        return {"kind": self.kind, "factory": None, "metric": "log_probability", "search_parameters": kept}
