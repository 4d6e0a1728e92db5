"""Search among some of the items only: the global candidate list."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.checks import checked_exclude
from xclass.index.exact import ExactIndex
from xclass.types import Ragged, TopK, offsets_of
from xclass.vectors import TensorVectors, Vectors, as_vectors


class SubsetIndex:
    """Exact search over the candidates' vectors; item numbers stay those of the whole catalogue.

    However narrow the list is, nothing is lost: it is searched completely. Cost and memory follow the number of
    candidates.

    Args:
        vectors: (N,D), all item vectors, a matrix or a source.
        candidates: int64, item numbers in any order, repeats allowed.

    Raises:
        InputError: no candidate, or a number that the catalogue does not have.
    """

    kind = "subset"
    queries_at_once = ExactIndex.queries_at_once

    def __init__(self, vectors: Tensor | Vectors, candidates: Tensor, device: torch.device | str | None = None) -> None:
        if not len(candidates):
            raise InputError("the candidate list is empty", wanted="one item or more")
        self._candidates = torch.unique(candidates)
        low, high = int(self._candidates[0]), int(self._candidates[-1])
        if low < 0 or high >= len(vectors):
            got = low if low < 0 else high
            raise InputError("a candidate is not in the catalogue", wanted=f"0 to {len(vectors) - 1}", got=got)
        self._exact = ExactIndex(device)
        self.build(vectors)

    @property
    def num_items(self) -> int:
        """Items of the whole catalogue, N."""
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors.dim

    def build(self, vectors: Tensor | Vectors) -> None:
        """The same candidates with other vectors."""
        self.vectors = as_vectors(vectors)
        self._exact.build(TensorVectors(self.vectors.take(self._candidates)))

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The best k candidates of each query, without its excluded items."""
        exclude = checked_exclude(exclude, len(query_BD), self.num_items)
        found = self._exact.search(query_BD, k, None if exclude is None else self._in_subset(exclude))
        return TopK(found.offsets, self._candidates[found.ids], found.scores)

    def describe(self) -> dict[str, Any]:
        """As :class:`ExactIndex`, and how many candidates there are."""
        return {**self._exact.describe(), "kind": self.kind, "candidates": len(self._candidates)}

    def _in_subset(self, exclude: Ragged) -> Ragged:
        places = torch.searchsorted(self._candidates, exclude.values).clamp_(max=len(self._candidates) - 1)
        inside = self._candidates[places] == exclude.values
        lengths = torch.bincount(exclude.rows()[inside], minlength=len(exclude))
        return Ragged(offsets_of(lengths), places[inside])
