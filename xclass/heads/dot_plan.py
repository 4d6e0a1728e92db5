"""What a step of the dot head needs beside vectors, known before any is read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.heads.masks import Hits
from xclass.tables.working_set import RowPlan
from xclass.types import Negatives, Ragged


class ItemPlan(NamedTuple):
    """The distinct items of a step with their features, where items have features.

    items: where targets and negatives stand among the distinct items. features: field → Ragged (U), after dropout.
    """

    items: RowPlan
    features: dict[str, Ragged]


class DotPlan(NamedTuple):
    """The candidates of a batch and the cells to mask; the items' features, where they are read; weights of the
    targets, where items have weights; the queries that are normalised, where not all are."""

    negatives: Negatives
    hits: Hits
    items: ItemPlan | None = None
    weights: Tensor | None = None
    normalised: Tensor | None = None

    def to(self, device: torch.device) -> DotPlan:
        """The same plan on another device."""
        negatives = Negatives(*(tensor.to(device) for tensor in self.negatives))
        hits, items = Hits(self.hits.rows.to(device), self.hits.columns.to(device)), self.items
        if items is not None:
            features = {name: lists.to(device) for name, lists in items.features.items()}
            items = ItemPlan(items.items.to(device), features)
        others = (None if each is None else each.to(device) for each in (self.weights, self.normalised))
        return DotPlan(negatives, hits, items, *others)


def no_candidates(positives: Ragged) -> Negatives:
    """Of a batch of which no sum is made."""
    zeros = torch.zeros(len(positives.values))
    return Negatives(positives.values[:0], zeros[:0], zeros)
