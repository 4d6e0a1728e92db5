"""The dot head: score = ⟨query vector, item vector⟩ / temperature, trained against sampled items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from xclass.errors import InputError
from xclass.heads.blocked import Scoring, blocked_loss
from xclass.heads.masks import Hits, find_hits
from xclass.losses import Loss
from xclass.sampling import Sampler
from xclass.tables.working_set import Table
from xclass.towers.projection import Projection
from xclass.types import Batch, Negatives, Ragged, Rows

VECTOR_BLOCK_ROWS = 1 << 16


class DotPlan(NamedTuple):
    """The candidates of a batch and the cells to mask."""

    negatives: Negatives
    hits: Hits

    def to(self, device: torch.device) -> DotPlan:
        """The same plan on another device."""
        negatives = Negatives(*(tensor.to(device) for tensor in self.negatives))
        return DotPlan(negatives, Hits(self.hits.rows.to(device), self.hits.columns.to(device)))


class DotHead(nn.Module):
    """Item table → projection → inner product; sampler and loss belong to it.

    Args:
        sampler, loss: how the catalogue is stood in for, and what is minimised.
        projection: the end of the item tower.
        temperature: scores are divided by it in training; a ranking does not depend on it.
        subtract_log_q: logits are score − log_q, for negatives and positives.
        remove_accidental_hits: a candidate that is a target of the query is masked for that query.
        remove_known_positives: so is every train positive of the query.
        product_dtype: float32, or bfloat16 for the large products (logits are then rounded to 8 bits).
    """

    def __init__(
        self,
        sampler: Sampler,
        loss: Loss,
        projection: Projection,
        *,
        temperature: float = 1.0,
        subtract_log_q: bool = True,
        remove_accidental_hits: bool = True,
        remove_known_positives: bool = True,
        product_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError("temperature is out of range", wanted="a number > 0", got=temperature)
        self.sampler, self.loss_kind, self.projection = sampler, loss, projection
        self.temperature, self.subtract_log_q, self.product_dtype = temperature, subtract_log_q, product_dtype
        self.remove_accidental_hits, self.remove_known_positives = remove_accidental_hits, remove_known_positives

    def plan(self, batch: Batch, generator: torch.Generator) -> DotPlan:
        """Sample, and find the candidates that are no negatives."""
        positives = _targets(batch)
        negatives = self.sampler.sample(positives, generator)
        if self.remove_known_positives and batch.known is not None:
            return DotPlan(negatives, find_hits(batch.known, negatives.ids))
        if self.remove_accidental_hits:
            return DotPlan(negatives, find_hits(positives, negatives.ids))
        nothing = torch.empty(0, dtype=torch.int64)
        return DotPlan(negatives, Hits(nothing, nothing))

    def requests(self, batch: Batch, plan: DotPlan) -> dict[str, dict[str, Tensor]]:
        """The item rows of targets and candidates."""
        return {"item": {"positives": _targets(batch).values, "negatives": plan.negatives.ids}}

    def loss(self, query_BD: Tensor, batch: Batch, plan: DotPlan, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query times its weight in the batch. Cost O(B·K·D); memory O((B + K)·D), never B·K."""
        items = rows["item"]
        vectors = self.projection(items.values)
        scoring = Scoring(
            _targets(batch),
            plan.negatives,
            plan.hits,
            1.0 / self.temperature,
            self.subtract_log_q,
            self.loss_kind.block,
            self.product_dtype,
            batch.weights,
        )
        positive = vectors.index_select(0, items.positions["positives"])
        negative = vectors.index_select(0, items.positions["negatives"])
        return blocked_loss(query_BD, positive, negative, scoring)

    def item_vectors(self, tables: dict[str, Table]) -> Tensor:
        """(N, D) item vectors; the table's own memory when the projection changes nothing."""
        table = tables["item"]
        if self.projection.is_identity:
            return table.weight
        vectors = torch.empty(table.num_rows, table.dim, device=table.weight.device)
        for start in range(0, table.num_rows, VECTOR_BLOCK_ROWS):
            block = table.weight[start : start + VECTOR_BLOCK_ROWS]
            vectors[start : start + len(block)] = self.projection(block)
        return vectors


def _targets(batch: Batch) -> Ragged:
    if batch.positives is None:
        raise InputError("this batch has no positives", wanted="a training batch", got="an inference batch")
    return batch.positives
