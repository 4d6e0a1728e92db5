"""What a step of the dot head needs beside vectors, known before any is read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.embeddings.interface import RowPlan
from xclass.heads.interface import targets_of
from xclass.losses.fused.accidental_hits import Hits
from xclass.types import Batch, Negatives, Ragged


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

    def part(self, whole: Batch, start: int, stop: int, per_pair: bool) -> DotPlan:
        """Of the plan of a whole batch, what its queries ``start … stop-1`` need: the same candidates, their own cells.

        per_pair: rows of the hits are pairs.
        """
        low, high = targets_of(whole).offsets[[start, stop]].tolist()
        ids, log_q, pos_log_q = self.negatives
        own = ids.dim() == 2
        negatives = Negatives(*((ids[start:stop], log_q[start:stop]) if own else (ids, log_q)), pos_log_q[low:high])
        first, last = (low, high) if per_pair else (start, stop)
        cells = slice(*torch.searchsorted(self.hits.rows, torch.tensor([first, last])).tolist())
        hits, items, normalised = Hits(self.hits.rows[cells] - first, self.hits.columns[cells]), self.items, None
        if items is not None:
            places = items.items.positions
            flat = places["negatives"].view(ids.shape)[start:stop].flatten() if own else places["negatives"]
            items = ItemPlan(
                RowPlan(items.items.unique, {"positives": places["positives"][low:high], "negatives": flat}),
                items.features,
            )
        if self.normalised is not None:
            normalised = self.normalised[(self.normalised >= start) & (self.normalised < stop)] - start
        return DotPlan(negatives, hits, items, None if self.weights is None else self.weights[low:high], normalised)


def no_candidates(positives: Ragged) -> Negatives:
    """Of a batch of which no sum is made."""
    zeros = torch.zeros(len(positives.values))
    return Negatives(positives.values[:0], zeros[:0], zeros)


def last_items(history: Ragged) -> Tensor:
    """int64 (B,): the last item of each history, −1 for an empty one.

    >>> last_items(Ragged.from_lists([[4, 7], [], [2]])).tolist()
    [7, -1, 2]
    """
    if not len(history.values):
        return torch.full((len(history),), -1)
    last = history.values.long()[(history.offsets[1:] - 1).clamp(min=0)]
    return torch.where(history.lengths() > 0, last, -1)
