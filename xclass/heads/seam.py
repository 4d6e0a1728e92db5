"""The contract of a head."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from xclass.heads.feature_rows import FeatureRows
from xclass.tables.working_set import Table
from xclass.types import Batch, Ragged, Rows, TopK
from xclass.vectors import Vectors

SearchedBy = Literal["vectors", "head", "beam"]


class Head(Protocol):
    """An output layer over the catalogue.

    A step is cut in two: ``plan`` needs no vectors (it samples, and finds what to mask), so it can be done ahead of
    time; ``loss`` computes on the rows that were pulled.
    """

    searched_by: SearchedBy
    """vectors: items are ranked by an inner product, any index serves. head: its own search, which is exact. beam: its
    own search, which misses some unless it is asked to be exact."""

    def plan(self, batch: Batch, generator: torch.Generator) -> Any:
        """What ``loss`` will need beside vectors, on the CPU; its ``to(device)`` gives it on another device."""
        ...

    def requests(self, batch: Batch, plan: Any) -> dict[str, dict[str, Tensor]]:
        """Table → request → ids of the rows that the loss reads."""
        ...

    def loss(self, query_BD: Tensor, batch: Batch, plan: Any, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query."""
        ...

    def item_vectors(self, tables: dict[str, Table]) -> Vectors | None:
        """(N, D) item vectors, read block by block: their inner product with a query vector ranks items.

        None: not indexable.
        """
        ...

    def topk(
        self,
        query_BD: Tensor,
        k: int,
        tables: dict[str, Table],
        exclude: Ragged | None = None,
        allowed: Tensor | None = None,
        exact: bool = False,
    ) -> TopK:
        """The best k items of each query, equal scores by rising item number; scores rank items of one query.

        Args:
            query_BD: (B, D) query vectors.
            k: items at most.
            tables: the model's.
            exclude: (B) item numbers that each query must not get.
            allowed: int64, distinct rising numbers of the items that anybody may get; None for all.
            exact: miss nothing, where the head's usual search may.
        """
        ...

    def log_probability(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> Tensor:
        """(M,) log of the probability of each item of each query's list: over the catalogue they sum to one."""
        ...

    def item_rows_of(self, tables: dict[str, Table]) -> FeatureRows | None:
        """What items are before the last layers, where several tables make it; None where the table "item" has it."""
        ...


class LogParts(NamedTuple):
    """Of the items of each query's list: log P, on the CPU.

    log_probability: (M,). log_z: (B,) log Σ_i e^{x_i} where log P = x − log Z with a score x of every item; None for a
    head whose probabilities are made otherwise.
    """

    log_probability: Tensor
    log_z: Tensor | None = None


@runtime_checkable
class ScoringHead(Protocol):
    """A head with a score x of every item and query: P(i) = e^{x_i} / Z."""

    def log_parts(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> LogParts:
        """Of each item of each query's list log P, and of each query log Z."""
        ...


class OwnSearching(Head, Protocol):
    """A head that brings its own search: ``searched_by`` is not "vectors"."""

    num_items: int
    """N."""
    dim: int
    """D of the query vectors."""
