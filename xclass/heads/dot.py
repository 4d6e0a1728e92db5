"""The dot head: score = ⟨query vector, item vector⟩ / temperature, trained against sampled items."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from xclass.embeddings.interface import Table, plan_rows
from xclass.errors import InputError
from xclass.heads.dot_plan import DotPlan, ItemPlan, last_items, no_candidates
from xclass.heads.interface import Asked, Head, LogParts, SearchedBy, targets_of
from xclass.heads.item_features import FeatureRows
from xclass.heads.item_vectors import ItemVectors
from xclass.heads.log_partition import log_normaliser, scores_of_pairs
from xclass.index.exact import ExactIndex
from xclass.index.filtering import Allowed
from xclass.index.rows import exact_among
from xclass.losses import Loss
from xclass.losses.fused.accidental_hits import Hits, find_hits
from xclass.losses.fused.adaptive_sample_size import Growth, growing_loss
from xclass.losses.fused.infrequent_normalization import chosen_queries, infrequent_loss
from xclass.losses.fused.sampled_loss import Scoring, blocked_loss
from xclass.losses.fused.top_k_weights import TopWeights
from xclass.losses.interface import normalised_weights
from xclass.runtime.threads import short_operations
from xclass.sampling import Sampler
from xclass.sampling.adaptive import TAUGHT_QUERIES
from xclass.sampling.interface import without_counts
from xclass.towers.features import ItemFeatures
from xclass.towers.item_texts import ItemTexts
from xclass.towers.projection import Projection
from xclass.types import Batch, Negatives, Ragged, Rows, Selection, TopK

__all__ = ["DotHead", "DotPlan"]


class DotHead(Head):
    """Item vectors → projection → inner product; sampler and loss belong to it.

    An item's vector before the projection is its row of the table "item", the bags of its features, or both added.

    Args:
        sampler, loss: how the catalogue is stood in for, and what is minimised.
        projection: the end of the item tower.
        temperature: scores are divided by it in training; a ranking does not depend on it.
        subtract_log_q: logits are score − log_q, for negatives and positives; None as the loss wants it.
        corrected_log_q: for negatives only (with the loss's ``corrected``).
        remove_accidental_hits: a candidate that is a target of the query is masked for it; None as the loss wants it.
        remove_known_positives: so is every train positive of the query.
        per_pair: every (query, target) is a row of its own, and only its own target is masked for it.
        product_dtype: float32, or bfloat16 for the large products (logits are then rounded to 8 bits).
        top_weights: weigh each target by its place among the items.
        features: of the items, or their texts; None when they have their rows alone.
        item_rows: whether items have rows of their own beside their features.
        normalised_share: of the queries for which the sum over candidates is made at all; below 1 with a loss that
            needs it for a penalty only.
        whole_batches: the share is one of batches, not of the queries of each: a batch without a sum reads no
            candidate.
        growth: each query takes as many of the candidates as their effective size asks for; with a loss that leaves the
            positive out of its sum.
        log_z: log Z of NCE, subtracted from scores; None for a loss without one.
        learn_log_z: log_z is a parameter; what is given is its start.
        item_weights: (N,) weight of a target by its item; with a loss that takes weights as they are. None for 1.
    """

    searched_by: SearchedBy = "vectors"
    sampler: Sampler

    def __init__(
        self,
        sampler: Sampler,
        loss: Loss,
        projection: Projection,
        *,
        temperature: float = 1.0,
        subtract_log_q: bool | None = None,
        corrected_log_q: bool = False,
        remove_accidental_hits: bool | None = None,
        remove_known_positives: bool = True,
        per_pair: bool = False,
        product_dtype: torch.dtype = torch.float32,
        top_weights: TopWeights | None = None,
        features: ItemFeatures | ItemTexts | None = None,
        item_rows: bool = True,
        item_weights: Tensor | None = None,
        normalised_share: float = 1.0,
        whole_batches: bool = False,
        growth: Growth | None = None,
        log_z: float | None = None,
        learn_log_z: bool = False,
    ) -> None:
        super().__init__()
        if item_weights is not None and loss.normalise:
            raise InputError("this loss divides weights by their sum", wanted="one built with item_weights")
        self.item_weights, self.normalised_share = item_weights, normalised_share
        self.whole_batches, self.growth = whole_batches, growth
        self.fixed_log_z = log_z
        self.log_z = nn.Parameter(torch.tensor(log_z or 0.0)) if learn_log_z else None
        if not (item_rows or features):
            raise InputError("items have neither rows nor features", wanted="one of them, or both")
        self.features, self.item_rows = features, item_rows
        if not temperature > 0:
            raise InputError("temperature is out of range", wanted="a number > 0", got=temperature)
        self.sampler, self.loss_kind, self.projection = sampler, loss, projection
        self.temperature, self.product_dtype, self.top_weights = temperature, product_dtype, top_weights
        self.num_items, self.dim, self.score_scale = sampler.num_items, projection.dim, 1.0 / temperature
        subtract = loss.subtract_log_q if subtract_log_q is None else subtract_log_q
        self.log_q_of: Literal["both", "negatives", "none"] = (
            "none" if not subtract else "negatives" if corrected_log_q or not loss.positive_log_q else "both"
        )
        hits = loss.remove_accidental_hits if remove_accidental_hits is None else remove_accidental_hits
        self.remove_accidental_hits, self.remove_known_positives = hits, remove_known_positives
        self.own_hits_only, self.per_pair = per_pair, per_pair or loss.per_pair

    def plan(self, batch: Batch, generator: torch.Generator) -> DotPlan:
        """Sample, and find the candidates that are no negatives."""
        with short_operations():
            positives = targets_of(batch)
            normalised = self._normalised(len(positives), generator)
            if self.whole_batches and normalised is not None:
                negatives = no_candidates(positives)
            else:
                asked = last_items(batch.history) if self.sampler.by_context else batch.query_ids
                sample = self.sampler.sample if self._reads_log_q else partial(without_counts, self.sampler)
                negatives = sample(positives, generator, asked)
            hits = self._hits(batch, positives, negatives.ids)
            items = None if self.features is None else self._item_plan(self.features, positives, negatives, generator)
            return DotPlan(negatives, hits, items, self._weights(positives), normalised)

    @property
    def _reads_log_q(self) -> bool:
        return self.log_q_of != "none" or bool(self.top_weights or self.growth or self.sampler.adapts)

    def _normalised(self, queries: int, generator: torch.Generator) -> Tensor | None:
        """int64, rising: the queries of which a sum is made; None for all."""
        share = self.normalised_share
        if share == 1:
            return None
        if not self.whole_batches:
            return chosen_queries(queries, share, generator)
        return None if float(torch.rand((), generator=generator)) < share else torch.empty(0, dtype=torch.int64)

    def plan_part(self, whole: Batch, start: int, stop: int, generator: torch.Generator) -> DotPlan:
        """The candidates, the log-Q and what the sampler learns are the whole batch's."""
        return self.plan(whole, generator).part(whole, start, stop, self.per_pair)

    def _weights(self, positives: Ragged) -> Tensor | None:
        """(P,) weights of the targets: the pairs' own, as the loss means them when nothing else is said, times the
        items'; None without weights of items."""
        if self.item_weights is None:
            return None
        own, rows = positives.weights, positives.rows()
        own = torch.ones(len(rows)) if own is None else own.float()
        if self.loss_kind.mean_weights:
            own = normalised_weights(rows, len(positives), own, own)
        return own * self.item_weights[positives.values]

    def _item_plan(
        self, features: ItemFeatures | ItemTexts, positives: Ragged, negatives: Negatives, generator: torch.Generator
    ) -> ItemPlan:
        items = plan_rows({"positives": positives.values, "negatives": negatives.ids.flatten().clamp(min=0)})
        return ItemPlan(items, features.drop(features.take(items.unique), generator))

    def _hits(self, batch: Batch, positives: Ragged, ids: Tensor) -> Hits:
        """Cells of (B, K), or of (P, K) when rows are pairs."""
        excluded: Ragged | Selection = Ragged(torch.zeros_like(positives.offsets), positives.values[:0])
        if self.remove_known_positives and batch.known is not None:
            excluded = batch.known
        elif self.remove_accidental_hits:
            excluded = positives
        if ids.dim() == 1 and not isinstance(excluded, Selection) and not len(excluded.values):
            return Hits(excluded.values, excluded.values)
        if self.per_pair:
            owners = positives.rows()
            own = self.own_hits_only and self.remove_accidental_hits
            pairs = Ragged(torch.arange(len(owners) + 1), positives.values)
            excluded = pairs if own else excluded.take(owners)
            ids = ids if ids.dim() == 1 else ids[owners]
        return find_hits(excluded, ids)

    def requests(self, batch: Batch, plan: DotPlan) -> dict[str, dict[str, Tensor]]:
        """The item rows of targets and candidates, and the rows of their features."""
        if self.features is None or plan.items is None:
            negatives = plan.negatives.ids.flatten().clamp(min=0)
            wanted_items = {"positives": targets_of(batch).values, "negatives": negatives}
            if self.growth is not None and self.growth.exact_when_short:
                wanted_items["every"] = torch.arange(self.num_items)
            return {"item": wanted_items}
        wanted = self.features.requests(plan.items.features)
        if self.item_rows:
            wanted.setdefault("item", {})["items"] = plan.items.items.unique
        return wanted

    def _items(self, plan: DotPlan, rows: dict[str, Rows]) -> tuple[Tensor, dict[str, Tensor]]:
        """(U, D) vectors of the distinct items, and where targets and negatives stand among them."""
        if self.features is None or plan.items is None:
            return self.projection(rows["item"].values), rows["item"].positions
        vectors = self.features(plan.items.features, rows)
        if self.item_rows:
            vectors = vectors + rows["item"].of("items")
        return self.projection(vectors), plan.items.items.positions

    def loss(self, query_BD: Tensor, batch: Batch, plan: DotPlan, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query times its weight in the batch. Cost O(B·K·D); memory O((B + K)·D), never B·K."""
        items, positions = self._items(plan, rows)
        query_BD, items, shift = self._less_log_z(query_BD, items)
        targets = targets_of(batch)
        if plan.weights is not None:
            targets = Ragged(targets.offsets, targets.values, plan.weights)
        scoring = Scoring(
            targets,
            plan.negatives if not shift else _shifted(plan.negatives, shift),
            plan.hits,
            self.loss_kind,
            1.0 / self.temperature,
            self.log_q_of,
            self.product_dtype,
            batch.weights,
            self.per_pair,
            self.top_weights,
        )
        negatives = positions["negatives"].view(plan.negatives.ids.shape)
        if self.sampler.adapts and len(query_BD):
            self._tell(query_BD, items, negatives, scoring)
        if self.growth is not None:
            every = positions.get("every")
            return growing_loss(query_BD, items, positions["positives"], negatives, scoring, self.growth, every)
        if plan.normalised is not None:
            return infrequent_loss(query_BD, items, positions["positives"], negatives, scoring, plan.normalised)
        return blocked_loss(query_BD, items, positions["positives"], negatives, scoring)

    @torch.no_grad()
    def _tell(self, query_BD: Tensor, items: Tensor, negatives: Tensor, scoring: Scoring) -> None:
        """The sampler hears how probable the model finds its candidates."""
        some, log_q = query_BD[:TAUGHT_QUERIES] * scoring.inverse_temperature, scoring.negatives.log_q
        if negatives.dim() == 1:
            self.sampler.tell(scoring.negatives.ids.cpu(), (some @ items[negatives].T - log_q).cpu())
            return
        own = items[negatives[:TAUGHT_QUERIES]]
        ratios = torch.einsum("bkd,bd->bk", own, some) - log_q[:TAUGHT_QUERIES]
        self.sampler.tell(scoring.negatives.ids.cpu(), ratios.cpu())

    def _less_log_z(self, query_BD: Tensor, items: Tensor) -> tuple[Tensor, Tensor, float]:
        """Query and item vectors whose products are less log Z, where it is learned, through one dimension more; else
        the vectors, and the number that is left to subtract."""
        if self.log_z is None:
            return query_BD, items, self.fixed_log_z or 0.0
        ones = query_BD.new_full((len(query_BD), 1), self.temperature)
        return torch.cat([query_BD, ones], 1), torch.cat([items, -self.log_z.expand(len(items), 1)], 1), 0.0

    def item_vectors(self, tables: dict[str, Table]) -> ItemVectors:
        """(N, D) item vectors, made from rows and features and projected when they are read."""
        return ItemVectors(self.item_rows_of(tables) or tables["item"], self.projection)

    def item_rows_of(self, tables: dict[str, Table]) -> FeatureRows | None:
        """What items with features are before the projection; None when the table "item" has it."""
        if self.features is None:
            return None
        return FeatureRows(self.features, tables, tables["item"] if self.item_rows else None, self.sampler.num_items)

    def _search(self, query_BD: Tensor, tables: dict[str, Table], asked: Asked) -> TopK:
        """By inner product, exactly."""
        vectors = self.item_vectors(tables)
        if asked.allowed is not None:
            return exact_among(vectors, Allowed(asked.allowed, len(vectors))).search(query_BD, asked.k, asked.exclude)
        index = ExactIndex()
        index.build(vectors)
        return index.search(query_BD, asked.k, asked.exclude)

    def unnormalised_log_probability(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> Tensor:
        """(M,) score / temperature − c: what a self-normalised loss makes near to :meth:`log_probability`.

        c is the log Z of NCE, fixed or learned, else log N. Cost O(M·D): there is no sum over the catalogue.
        """
        vectors = self.item_vectors(tables)
        scores = scores_of_pairs(query_BD, vectors, items.rows(), items.values.long())
        return (scores / self.temperature - self.log_constant).cpu()

    @property
    def log_constant(self) -> float:
        """What log Z is taken for where no sum is made."""
        if self.log_z is not None:
            return float(self.log_z.detach())
        return math.log(self.num_items) if self.fixed_log_z is None else self.fixed_log_z

    def log_probability(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> Tensor:
        """(M,) score / temperature less the log of the sum over the catalogue: the full softmax. Cost O(B·N·D)."""
        return self.log_parts(query_BD, items, tables).log_probability

    def log_parts(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> LogParts:
        """The same with log Z of each query: of score / temperature over the catalogue."""
        vectors, rows, inverse = self.item_vectors(tables), items.rows(), 1.0 / self.temperature
        scores = scores_of_pairs(query_BD, vectors, rows, items.values.long()) * inverse
        log_z = log_normaliser(query_BD, vectors, inverse)
        logs = (scores - log_z[rows.to(scores.device)]).float().cpu()
        return LogParts(logs, log_z.float().cpu(), self.log_constant)


def _shifted(negatives: Negatives, log_z: float) -> Negatives:
    """log-Q and log Z together, which are both subtracted from the scores."""
    return negatives._replace(log_q=negatives.log_q + log_z, pos_log_q=negatives.pos_log_q + log_z)
