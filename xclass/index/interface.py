"""What a search and a model are to those who retrieve with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from xclass.types import Batch, Ragged, TopK


class RetrievalModel(Protocol):
    """What retrieval needs of a model."""

    def query_vectors(self, batch: Batch) -> Tensor:
        """(B,D) vectors of the queries of a batch."""


class BatchSearch(ABC):
    """A search that is asked with the queries themselves, where no vector of theirs says it all."""

    kind: str
    queries_at_once: int

    @property
    @abstractmethod
    def num_items(self) -> int:
        """N."""

    @abstractmethod
    def search_batch(self, batch: Batch, k: int, exclude: Ragged | None, allow: Ragged | None) -> TopK:
        """The k best items of each query, without its excluded ones; with ``allow`` among its own."""

    @abstractmethod
    def only(self, allowed: Tensor) -> BatchSearch:
        """The same search where nothing but these items comes out: bool (N,)."""
