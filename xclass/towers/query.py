"""Query towers made of sources: each source reads rows of one table and gives one vector per query; they are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from xclass.errors import InputError
from xclass.towers.bags import weighted_bags
from xclass.towers.features import FeatureSource
from xclass.towers.projection import Projection
from xclass.types import Batch, Rows


class Source(Protocol):
    """One kind of knowledge about a query."""

    table: str
    request: str

    def ids(self, batch: Batch) -> Tensor:
        """int64: the rows of ``table`` that this batch reads."""
        ...

    def __call__(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, D)."""
        ...


class IdSource:
    """One learned vector per query number, table "query". A query never seen in training (−1) has the zero vector."""

    table = "query"
    request = "query"

    def ids(self, batch: Batch) -> Tensor:
        """int64 (B,)."""
        return batch.query_ids.clamp(min=0)

    def __call__(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, D) rows of the queries."""
        vectors, unseen = rows.of(self.request), batch.query_ids < 0
        return vectors * ~unseen.unsqueeze(1) if bool(unseen.any()) else vectors


class HistorySource:
    """Weighted mean of the vectors of the history's items: (1/|H_b|) Σ_{i∈H_b} a_i h_i; an empty history gives 0.

    Args:
        table: where the item vectors h are: "history" (its own) or "item" (shared with the head).
        item_weights: float32 (N,), a_i; None for 1. The degree weighting is a_i = count_i^-power.
    """

    request = "history"

    def __init__(self, table: str, item_weights: Tensor | None = None) -> None:
        self.table = table
        self.item_weights = item_weights

    def ids(self, batch: Batch) -> Tensor:
        """int64 (M,): the items of all histories."""
        return batch.history.values

    def __call__(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, D) weighted means."""
        history = batch.history
        lengths, number = history.lengths(), len(history.values)
        each = lengths.clamp(min=1).reciprocal().to(rows.values.dtype)
        share = torch.repeat_interleave(each, lengths, output_size=number)
        if self.item_weights is not None:
            share = share * self.item_weights[history.values]
        positions = rows.positions[self.request]
        return weighted_bags(rows.values, positions, history.offsets, share)


QUERY_TOWERS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "history": ("history",),
    "id+history": ("id", "history"),
    "context": ("context",),
    "features": ("features",),
    "id+features": ("id", "features"),
    "history+features": ("history", "features"),
    "id+history+features": ("id", "history", "features"),
}


class QueryTower(nn.Module):
    """The sum of its sources, then the projection."""

    def __init__(self, sources: Sequence[Source], projection: Projection) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.fields = nn.ModuleList([source for source in sources if isinstance(source, nn.Module)])
        self.projection = projection

    @property
    def tables(self) -> set[str]:
        """The tables that are read."""
        return {source.table for source in self.sources}

    @property
    def uses_history(self) -> bool:
        """Whether a history changes the vector."""
        return any(source.request == HistorySource.request for source in self.sources)

    @property
    def uses_features(self) -> bool:
        """Whether a query's sparse features change the vector."""
        return any(isinstance(source, FeatureSource) for source in self.sources)

    def drop(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch of a training step with the features that dropout leaves; the same batch without dropout."""
        for source in self.sources:
            if isinstance(source, FeatureSource):
                batch = source.drop(batch, generator)
        return batch

    def requests(self, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """Table → request → ids of the rows that this batch reads."""
        wanted: dict[str, dict[str, Tensor]] = {}
        for source in self.sources:
            wanted.setdefault(source.table, {})[source.request] = source.ids(batch)
        return wanted

    def forward(self, batch: Batch, rows: dict[str, Rows]) -> Tensor:
        """(B, D) query vectors."""
        vectors = [source(batch, rows[source.table]) for source in self.sources]
        return self.projection(torch.stack(vectors).sum(0) if len(vectors) > 1 else vectors[0])

    def check_new_queries(self) -> None:
        """InputError when this tower can't embed a query that it was not trained on."""
        if not (self.uses_history or self.uses_features):
            raise InputError(
                "this model knows queries by id only and can't embed a new history",
                wanted='a query tower of kind "history", "context", "features", or one that has them among others',
                do="train with model.query.kind set to one of them, or retrieve by query id",
            )
