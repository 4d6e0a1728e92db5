"""Sparse features → vectors: weighted bags over a table with one row per feature, for queries and for items.

With the weights a_f of a list F (1 where none are stored) and v_f the row of feature f:

    sum    Σ_f a_f v_f
    mean   Σ_f a_f v_f / Σ_f |a_f|
    sqrtn  Σ_f a_f v_f / √(Σ_f a_f²): the weights become a row of unit length

An empty list gives the zero vector. The names are those of TensorFlow's ``safe_embedding_lookup_sparse``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from xclass.errors import InputError
from xclass.towers.bags import weighted_bags
from xclass.types import Batch, Ragged, Rows

Combiner = Literal["sum", "mean", "sqrtn"]
Weighting = Literal["stored", "idf", "tf-idf"]
SMALLEST = 1e-12


def inverse_frequencies(counts: Tensor, documents: int) -> Tensor:
    """float32 (F,): idf_f = 1 + log((1 + n) / (1 + n_f)), n_f of n documents having feature f (Robertson & Spärck Jones
    1976, smoothed as in scikit-learn: a feature of every document has 1, one of none the most).
    """
    return (1.0 + torch.log((1.0 + documents) / (1.0 + counts.double().clamp(max=documents)))).float()


class FeatureField(nn.Module):
    """One named set of features and how its bags are made.

    Args:
        name: of the set in the dataset.
        table: where the rows of its features are.
        combiner: see the top of this file.
        dropout: the chance of each feature to be left out of a bag, in training only.
        weighting: "stored" takes weights as they are, "idf" times the feature's idf, "tf-idf" sign(a)·log(1 + |a|)·idf.
        idf: (F,), for the other two weightings.
    """

    idf: Tensor | None

    def __init__(
        self,
        name: str,
        table: str,
        combiner: Combiner = "sqrtn",
        dropout: float = 0.0,
        weighting: Weighting = "stored",
        idf: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (idf is None) != (weighting == "stored"):
            raise InputError("idf goes with a weighting that takes it", wanted='"idf" or "tf-idf"', got=weighting)
        self.name, self.table, self.combiner, self.dropout = name, table, combiner, dropout
        self.weighting = weighting
        self.register_buffer("idf", idf)

    def weighed(self, lists: Ragged) -> Ragged:
        """The lists with the weights that the weighting makes of theirs. Cost O(M)."""
        if self.idf is None:
            return lists
        scale, weights = self.idf[lists.values], lists.weights
        if weights is not None:
            scale = scale * (weights if self.weighting == "idf" else torch.sign(weights) * weights.abs().log1p())
        return Ragged(lists.offsets, lists.values, scale)


def bag_shares(lists: Ragged, combiner: Combiner) -> Tensor:
    """(M,) float32: what each value's row is multiplied by. Cost O(M)."""
    weights = torch.ones(len(lists.values), device=lists.values.device)
    weights = weights if lists.weights is None else lists.weights.float()
    if combiner == "sum" or not len(weights):
        return weights
    rows = lists.rows()
    size = torch.zeros(len(lists), device=weights.device)
    size.index_add_(0, rows, weights.abs() if combiner == "mean" else weights.square())
    size = size.sqrt() if combiner == "sqrtn" else size
    return weights / size.clamp(min=SMALLEST)[rows]


def bags(lists: Ragged, combiner: Combiner, rows: Tensor, positions: Tensor) -> Tensor:
    """(B, D) one vector for each list.

    Args:
        lists: Ragged (B) of feature numbers with weights.
        combiner: how the weights of a list are brought to size.
        rows: (U, D) rows of distinct features.
        positions: int64 (M,), where each value of ``lists`` stands in ``rows``.

    Cost O(M·D).
    """
    shares = bag_shares(lists, combiner).to(rows.dtype)
    return weighted_bags(rows, positions, lists.offsets, shares)


def drop_features(lists: Ragged, chance: float, combiner: Combiner, generator: torch.Generator) -> Ragged:
    """Each value leaves its list with this chance; a list that would lose all of them stays whole.

    The rest of a ``sum`` is scaled by 1/(1 − chance), so that the bag's expectation stays (but for lists that stayed
    whole by the exception); the other combiners bring what is left to size themselves. Cost O(M).

    Source: Srivastava et al. 2014 ("Dropout"), on the input layer; Iyyer et al. 2015 (word dropout in bags).
    """
    if chance == 0.0 or not len(lists.values):
        return lists
    keep = torch.rand(len(lists.values), generator=generator) >= chance
    rows = lists.rows()
    left = torch.zeros(len(lists)).index_add_(0, rows, keep.float())
    rescued = left[rows] == 0
    kept = lists.filter(keep | rescued)
    if combiner != "sum":
        return kept
    weights = torch.ones(len(kept.values)) if kept.weights is None else kept.weights.clone()
    return Ragged(kept.offsets, kept.values, torch.where(rescued[keep | rescued], weights, weights / (1.0 - chance)))


class FeatureSource(nn.Module):
    """The bag of one field of a query's features: a source of :class:`xclass.towers.query.QueryTower`."""

    def __init__(self, field: FeatureField) -> None:
        super().__init__()
        self.field = field
        self.table = field.table
        self.request = f"query.{field.name}"

    def lists(self, batch: Batch) -> Ragged:
        """Ragged (B) of this field."""
        found = batch.features.get(self.field.name)
        if found is None:
            raise InputError(
                f'these queries have no features "{self.field.name}", which the model reads',
                got=", ".join(batch.features) or "no features",
                do="give features (or text) of this name with the queries",
            )
        return found

    def ids(self, batch: Batch) -> Tensor:
        """int64 (M,): the features of all queries."""
        return self.lists(batch).values

    def drop(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch of a training step, with this field's dropout."""
        if self.field.dropout == 0.0:
            return batch
        kept = drop_features(self.lists(batch), self.field.dropout, self.field.combiner, generator)
        return replace(batch, features=batch.features | {self.field.name: kept})

    def forward(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, D) bags."""
        lists = self.field.weighed(self.lists(batch))
        return bags(lists, self.field.combiner, rows.values, rows.positions[self.request])


class ItemFeatures:
    """Item vectors from the items' sparse features: the bags of all fields, added.

    Args:
        fields: which sets are read, and how.
        lists: name → Ragged (N) of feature numbers with weights, memory-mapped as a rule: only lists of items that are
            asked for are read.
    """

    def __init__(self, fields: tuple[FeatureField, ...], lists: Mapping[str, Ragged]) -> None:
        self.fields, self._lists = fields, lists

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that are read."""
        return tuple(dict.fromkeys(field.table for field in self.fields))

    def take(self, ids: Tensor) -> dict[str, Ragged]:
        """Field → lists of these items, in order, with their final weights. Cost O(values taken)."""
        return {field.name: field.weighed(self._lists[field.name].take(ids).long()) for field in self.fields}

    def drop(self, taken: dict[str, Ragged], generator: torch.Generator) -> dict[str, Ragged]:
        """The same with each field's dropout."""
        return {
            field.name: drop_features(taken[field.name], field.dropout, field.combiner, generator)
            for field in self.fields
        }

    def requests(self, taken: dict[str, Ragged]) -> dict[str, dict[str, Tensor]]:
        """Table → request → ids of the features' rows."""
        wanted: dict[str, dict[str, Tensor]] = {}
        for field in self.fields:
            wanted.setdefault(field.table, {})[f"item.{field.name}"] = taken[field.name].values
        return wanted

    def __call__(self, taken: dict[str, Ragged], rows: dict[str, Rows]) -> Tensor:
        """(U, D) the sum over fields of their bags."""
        parts = [
            bags(taken[f.name], f.combiner, rows[f.table].values, rows[f.table].positions[f"item.{f.name}"])
            for f in self.fields
        ]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
