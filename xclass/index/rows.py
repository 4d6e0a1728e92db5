"""Exact search among some rows of the vectors: all that are allowed, or each query's own."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.index.checks import checked_k, checked_queries
from xclass.index.exact import ExactIndex
from xclass.index.filtering import Allowed, Hidden
from xclass.types import Ragged, TopK, offsets_of
from xclass.types.vectors import TensorVectors, Vectors

COPIED_BYTES = 1 << 28
PAIRS_AT_ONCE = 1 << 18


class SomeVectors(Vectors):
    """Rows ``numbers`` of other vectors, in that order, fetched as they are read: nothing is copied beforehand."""

    def __init__(self, vectors: Vectors, numbers: Tensor) -> None:
        self._vectors, self._numbers = vectors, numbers

    def __len__(self) -> int:
        """How many rows."""
        return len(self._numbers)

    @property
    def dim(self) -> int:
        """D."""
        return self._vectors.dim

    @property
    def device(self) -> torch.device:
        """Of the other vectors."""
        return self._vectors.device

    def read(self, start: int, stop: int) -> Tensor:
        """A copy."""
        return self._vectors.take(self._numbers[start:stop])

    def take(self, ids: Tensor) -> Tensor:
        """A copy."""
        return self._vectors.take(self._numbers[ids])


class ExactAmong:
    """Exact search among the allowed items; numbers in and out are those of the whole catalogue."""

    def __init__(self, exact: ExactIndex, allowed: Allowed) -> None:
        self._exact, self._allowed = exact, allowed

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The best k of each query, without its excluded items."""
        found = self._exact.search(query_BD, k, None if exclude is None else self._places(exclude))
        return TopK(found.offsets, self._allowed.numbers[found.ids], found.scores)

    def _places(self, exclude: Ragged) -> Ragged:
        places = self._allowed.places(exclude.values)
        return Ragged(exclude.offsets, places).filter(places >= 0)


def exact_among(vectors: Vectors, allowed: Allowed, device: torch.device | str | None = None) -> ExactAmong:
    """Exact search among these rows; up to 256 MB of them are copied together, more are fetched in each search."""
    exact = ExactIndex(device)
    some = SomeVectors(vectors, allowed.numbers)
    if some.nbytes <= COPIED_BYTES:
        exact.build(TensorVectors(some.tensor()))
    else:
        exact.vectors = some  # their rows were checked with the others'
    return ExactAmong(exact, allowed)


def search_lists(vectors: Vectors, query_BD: Tensor, k: int, allow: Ragged, exclude: Ragged | None = None) -> TopK:
    """The best k of each query's own list, without its excluded items: exact.

    Cost: D operations and a fetched row for each distinct (query, item) pair. Memory: 256 Ki rows at a time.

    Args:
        allow: (B) item numbers that each query may get; an empty list gives an empty list.
    """
    query_BD, k = checked_queries(query_BD, vectors.dim), checked_k(k)
    pairs = Hidden(allow, len(query_BD), len(vectors)).pairs()
    kept = ~Hidden(exclude, len(query_BD), len(vectors)).contains(pairs[0], pairs[1][:, None]).squeeze(1)
    rows, ids = pairs[0][kept], pairs[1][kept]
    scores = torch.empty(len(ids))
    for start in range(0, len(ids), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        fetched = vectors.take(ids[some]).cpu()
        scores[some] = torch.linalg.vecdot(query_BD[rows[some]].cpu(), fetched)
    best = torch.argsort(scores, descending=True, stable=True)  # pairs rise by item, so equal scores do, too
    order = best[torch.argsort(rows[best], stable=True)]
    lengths = torch.bincount(rows, minlength=len(query_BD))
    return TopK(offsets_of(lengths), ids[order], scores[order]).head(k)
