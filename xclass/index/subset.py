"""Search among some of the items only: the global candidate list."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xclass.index.approximate import ApproximateIndex
from xclass.index.build import Index
from xclass.index.checks import checked_exclude
from xclass.index.exact import ExactIndex
from xclass.index.filtering import Allowed
from xclass.index.rows import exact_among
from xclass.types import Ragged, TopK
from xclass.types.vectors import Vectors, as_vectors

NARROW_SHARE = 0.25


class SubsetIndex:
    """Another index, but nothing except the candidates comes out; item numbers stay those of the whole catalogue.

    A narrow list (a quarter of the catalogue or less), or one in front of exact search, is searched completely, among
    its own vectors: nothing is lost however few they are, and the cost follows their number. A wide list is looked up
    inside the approximate search, which reaches farther by as much as the list is narrower than the catalogue.

    Args:
        index: the index to restrict.
        candidates: int64, item numbers in any order, repeats allowed.

    Raises:
        InputError: no candidate, or a number that the catalogue does not have.
    """

    kind = "subset"

    def __init__(self, index: Index, candidates: Tensor, device: torch.device | str | None = None) -> None:
        self._inner, self._candidates, self._device = index, candidates, device
        self._restrict()

    @property
    def num_items(self) -> int:
        """Items of the whole catalogue, N."""
        return self._inner.num_items

    @property
    def dim(self) -> int:
        """D."""
        return self._inner.dim

    @property
    def vectors(self) -> Vectors:
        """Of the whole catalogue."""
        return self._inner.vectors

    def build(self, vectors: Tensor | Vectors) -> None:
        """The same candidates with other vectors."""
        self._inner.build(as_vectors(vectors))
        self._restrict()

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The best k candidates of each query, without its excluded items."""
        if self._wide is not None:
            return self._wide.search(query_BD, k, exclude, self._allowed)
        return self._narrow.search(query_BD, k, checked_exclude(exclude, len(query_BD), self.num_items))

    def describe(self) -> dict[str, Any]:
        """As the search that is made, and how many candidates there are."""
        inner = {"kind": "exact"} if self._wide is None else self._wide.describe()
        return {**inner, "kind": self.kind, "candidates": len(self._allowed)}

    def _restrict(self) -> None:
        self._allowed = Allowed(self._candidates, self._inner.num_items)
        wide = isinstance(self._inner, ApproximateIndex) and self._allowed.share > NARROW_SHARE
        self._wide = self._inner if wide and isinstance(self._inner, ApproximateIndex) else None
        if self._wide is not None:
            self.queries_at_once = self._wide.queries_at_once
        else:
            self.queries_at_once = ExactIndex.queries_at_once
            self._narrow = exact_among(self._inner.vectors, self._allowed, self._device)
