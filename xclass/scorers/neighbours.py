"""The nearest train documents of a document, and their items.

    score(item) = Σ_d s_d^p [d has the item] / Σ_d s_d^p      over the k documents of largest cosine s_d

Cosines come from an inverted index: for each feature the documents that have it. Source of the rule: weighted k nearest
neighbours as in Yang & Liu 1999, "A re-examination of text categorization methods", equation 6, with powers of the
cosine and shares instead of sums.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.scorers.config import NeighboursConfig
from xclass.scorers.products import best_products, rows_of, sum_lists
from xclass.scorers.reference import Rows
from xclass.scorers.stored import checked_lists, checked_rows, checked_tensor
from xclass.scorers.terms import Terms
from xclass.types import Ragged, TopK

AT_ONCE = 256  # queries; their neighbours' items are held together


class NeighboursScorer:
    """Scores the items of a document's nearest train documents.

    Memory: 8 bytes for each feature of each document, and 12 a document for each thread that searches.

    Args:
        terms: how features are weighted.
        postings: for each feature the documents that have it with their weights.
        items: for each document its items, weights from the split where it has any.
    """

    name = "neighbours"

    def __init__(self, config: NeighboursConfig, terms: Terms, postings: Rows, items: Ragged, num_items: int) -> None:
        self.config, self.terms, self.postings, self.items, self.num_items = config, terms, postings, items, num_items

    @classmethod
    def fit(
        cls, config: NeighboursConfig, documents: Ragged, size: int, items: Ragged, num_items: int
    ) -> NeighboursScorer:
        """Lay out the inverted index.

        Args:
            documents: (n) features of the train documents, numbers below ``size``.
            items: (n) their items.
        """
        if len(documents) != len(items):
            raise InputError("documents and their items differ in number", wanted=len(documents), got=len(items))
        terms = Terms.fit(config.weighting, documents, size)
        postings = rows_of(terms(documents), size).by_feature()
        if config.max_postings:
            postings = largest_postings(postings, config.max_postings)
        return cls(config, terms, postings, items, num_items)

    def neighbours(self, features: Ragged, own: Tensor | None = None) -> TopK:
        """The k nearest documents of each query, by number, with their cosines; nothing that shares no feature.

        Args:
            own: int64 (B,), a document that query b does not get (itself); −1 for none.
        """
        queries = rows_of(self.terms(features), self.terms.size)
        found, _ = best_products(queries, self.postings, self.config.k, own=None if own is None else own.numpy())
        return found

    def candidates(self, features: Ragged, own: Tensor | None = None) -> Ragged:
        """(B) all items of each query's neighbours, with scores between 0 and 1 as weights, in no order."""
        parts = []
        for low in range(0, max(len(features), 1), AT_ONCE):
            high = min(low + AT_ONCE, len(features))
            found = self.neighbours(features.slice(low, high), None if own is None else own[low:high])
            votes = found.scores.clamp(min=0).pow(self.config.power)
            total = torch.zeros(len(found)).index_add_(0, found.rows(), votes)
            shares = votes / total.clamp(min=torch.finfo(torch.float32).tiny)[found.rows()]
            parts.append(sum_lists(found, self.items, shares, self.num_items))
        return joined(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that :meth:`of_tensors` needs."""
        arrays = self.postings.offsets, self.postings.features, self.postings.values
        names = ("postings.offsets", "postings.documents", "postings.weights")
        items = {"items.offsets": self.items.offsets, "items.values": self.items.values.int()}
        if self.items.weights is not None:
            items["items.weights"] = self.items.weights.float()
        return {"idf": self.terms.idf, **dict(zip(names, map(torch.from_numpy, arrays), strict=True)), **items}

    @classmethod
    def of_tensors(cls, config: NeighboursConfig, tensors: dict[str, Tensor], num_items: int) -> NeighboursScorer:
        """The scorer whose tensors these are; they may be memory-mapped.

        Raises:
            InputError: they can't be: types, shapes or ranges. KeyError: one is missing.
        """
        items = checked_lists(tensors, ("items.offsets", "items.values", "items.weights"), num_items)
        terms = Terms(config.weighting, checked_tensor(tensors, "idf", torch.float32))
        names = ("postings.offsets", "postings.documents", "postings.weights")
        return cls(config, terms, checked_rows(tensors, names, terms.size, len(items)), items, num_items)


def largest_postings(postings: Rows, most: int) -> Rows:
    """Of each list its ``most`` largest weights; equal weights: the lower number."""
    lengths = np.diff(postings.offsets)
    if not len(lengths) or lengths.max() <= most:
        return postings
    lists = np.repeat(np.arange(len(lengths)), lengths)
    keep = np.ones(len(lists), dtype=bool)
    for row in np.flatnonzero(lengths > most):
        own = slice(postings.offsets[row], postings.offsets[row + 1])
        order = np.argsort(-postings.values[own], kind="stable")
        keep[postings.offsets[row] + order[most:]] = False
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))])
    return Rows(offsets, postings.features[keep], postings.values[keep], postings.size)


def joined(parts: list[Ragged]) -> Ragged:
    """The lists of several parts with weights, in order."""
    lengths = torch.cat([part.lengths() for part in parts])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    weights = torch.cat([part.weights for part in parts if part.weights is not None])
    return Ragged(offsets, torch.cat([part.values for part in parts]), weights)
