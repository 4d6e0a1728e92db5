"""One sparse weight vector per item: score(item) = w_item · x + b_item."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.once import once
from xclass.runtime.progress import Progress
from xclass.runtime.rng import torch_generator
from xclass.scorers.config import LinearConfig
from xclass.scorers.dual import Weights, against_all, against_lists
from xclass.scorers.neighbours import NeighboursScorer, joined
from xclass.scorers.products import best_products, list_products, rows_of
from xclass.scorers.reference import Rows
from xclass.scorers.stored import checked_rows, checked_tensor
from xclass.scorers.terms import Terms
from xclass.types import Ragged, offsets_of

MINED_AT_ONCE = 1 << 14  # documents


class LinearScorer:
    """Scores items by sparse weights over a document's features; :mod:`xclass.scorers.dual` trains them.

    Args:
        terms: how features are weighted.
        weights: for each item its features and weights.
        bias: float32 (N,).
        trained: bool (N,), the items that have weights. Others are never suggested and score −1, as sure negatives do.
    """

    name = "linear"

    def __init__(self, config: LinearConfig, terms: Terms, weights: Rows, bias: Tensor, trained: Tensor) -> None:
        self.config, self.terms, self.weights, self.trained = config, terms, weights, trained
        self.bias = torch.where(trained, bias, -1.0)

    @classmethod
    def fit(
        cls,
        config: LinearConfig,
        documents: Ragged,
        size: int,
        items: Ragged,
        num_items: int,
        neighbours: NeighboursScorer | None = None,
        seed: int = 0,
    ) -> LinearScorer:
        """Train the weights. The same seed gives the same weights, whatever the number of threads.

        Args:
            documents: (n) features of the train documents, numbers below ``size``.
            items: (n) their items.
            neighbours: of the same documents; negatives = "mined" mines with it.
        """
        if len(documents) != len(items):
            raise InputError("documents and their items differ in number", wanted=len(documents), got=len(items))
        terms = Terms.fit(config.weighting, documents, size)
        rows, having = rows_of(terms(documents), size), _having(items, num_items, config.min_count)
        if config.negatives == "all":
            parts = against_all(rows, having, config, seed)
        else:
            if neighbours is None:
                raise InputError("mined negatives need neighbours to mine with")
            against = mined_negatives(config, documents, items, num_items, neighbours, seed)
            lists, positives = _with_negatives(having, against)
            parts = against_lists(rows, lists, positives, config)
        weights, bias = _collected(parts, size)
        return cls(config, terms, weights, bias, having.lengths() > 0)

    @once
    def _by_feature(self) -> Rows:
        return self.weights.by_feature()

    def queries(self, features: Ragged) -> Rows:
        """Documents as :meth:`candidates` and :meth:`scores` read them."""
        return rows_of(self.terms(features), self.terms.size)

    def candidates(
        self, queries: Rows, most: int, allowed: Tensor | None = None, asked: Ragged | None = None
    ) -> tuple[Ragged, Tensor]:
        """(B) the ``most`` items of the highest scores for each query, with scores as weights; best first.

        What shares no feature with a document is not suggested. Cost: the weights of the document's features.

        Args:
            allowed: bool (N,), nothing else is suggested.
            asked: (B) items whose scores come second, one for each of ``asked.values``, at no further cost.
        """
        may = self.trained if allowed is None else self.trained & allowed
        found, answers = best_products(queries, self._by_feature, most, self.bias.numpy(), may.numpy(), asked=asked)
        return Ragged(found.offsets, found.ids, found.scores), answers

    def scores(self, queries: Rows, lists: Ragged) -> Tensor:
        """float32, the score of each of ``lists.values`` for its query. Cost: the weights of the items named."""
        return list_products(queries, self.weights, self.bias.numpy(), lists)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that :meth:`of_tensors` needs."""
        arrays = self.weights.offsets, self.weights.features, self.weights.values
        weights = dict(zip(("weights.offsets", "weights.features", "weights.values"), arrays, strict=True))
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        return {"idf": self.terms.idf, "bias": self.bias, "trained": self.trained, **tensors}

    @classmethod
    def of_tensors(cls, config: LinearConfig, tensors: dict[str, Tensor], num_items: int) -> LinearScorer:
        """The scorer whose tensors these are; they may be memory-mapped.

        Raises:
            InputError: they can't be: types, shapes or ranges. KeyError: one is missing.
        """
        terms = Terms(config.weighting, checked_tensor(tensors, "idf", torch.float32))
        bias = checked_tensor(tensors, "bias", torch.float32, num_items)
        trained = checked_tensor(tensors, "trained", torch.bool, num_items)
        names = ("weights.offsets", "weights.features", "weights.values")
        return cls(config, terms, checked_rows(tensors, names, num_items, terms.size), bias, trained)


def mined_negatives(
    config: LinearConfig, documents: Ragged, items: Ragged, num_items: int, neighbours: NeighboursScorer, seed: int
) -> Ragged:
    """For each item documents that don't have it: those whose neighbours suggest it most, and some drawn uniformly.

    Drawn ones that have the item by chance are left out, so there may be fewer.
    """
    parts = []
    with Progress("mine negatives", len(documents), "documents") as progress:
        for low in range(0, len(documents), MINED_AT_ONCE):
            high = min(low + MINED_AT_ONCE, len(documents))
            parts.append(_suggested(config, documents, items, neighbours, low, high))
            progress.advance(high - low)
    found = [torch.cat(column) for column in zip(*parts, strict=True)]
    order = torch.argsort(found[2], descending=True, stable=True)
    order = order[torch.argsort(found[0][order], stable=True)]
    rank = _ranks(found[0][order])
    order = order[rank < config.per_item]
    suggested, rows = found[0][order], found[1][order]
    drawn = torch.randint(
        max(len(documents), 1), (num_items * config.drawn,), generator=torch_generator(seed, "linear negatives")
    )
    keys = torch.cat(
        [
            suggested * len(documents) + rows,
            torch.arange(num_items).repeat_interleave(config.drawn) * len(documents) + drawn,
        ]
    ).unique()
    keys = keys[~torch.isin(keys, items.values.long() * len(documents) + items.rows())]
    owners = torch.div(keys, max(len(documents), 1), rounding_mode="floor")
    counts = torch.bincount(owners, minlength=num_items)
    return Ragged(offsets_of(counts), keys - owners * len(documents))


def _suggested(
    config: LinearConfig, documents: Ragged, items: Ragged, neighbours: NeighboursScorer, low: int, high: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(item, document, score) of the items that a document's neighbours, itself left out, suggest most wrongly."""
    found = neighbours.candidates(documents.slice(low, high), own=torch.arange(low, high))
    assert found.weights is not None
    rows, own = found.rows(), items.slice(low, high).long()
    keys = rows * neighbours.num_items + found.values
    wrong = ~torch.isin(keys, own.rows() * neighbours.num_items + own.values)
    rows, values, scores = rows[wrong], found.values[wrong], found.weights[wrong]
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    order = order[_ranks(rows[order]) < config.mined]
    return values[order], rows[order] + low, scores[order]


def _ranks(groups: Tensor) -> Tensor:
    """int64, place of each within its run of equal ``groups``, from 0."""
    counts = torch.unique_consecutive(groups, return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    return torch.arange(len(groups)) - torch.repeat_interleave(starts, counts)


def _having(items: Ragged, num_items: int, min_count: int) -> Ragged:
    """For each item the documents that have it, rising; empty where they are fewer than ``min_count``."""
    values, rows = items.values.long(), items.rows()
    counts = torch.bincount(values, minlength=num_items)
    keep = counts[values] >= min_count
    values, rows = values[keep], rows[keep]
    rows = rows[torch.argsort(values, stable=True)]
    return Ragged(offsets_of(torch.where(counts >= min_count, counts, 0)), rows)


def _with_negatives(having: Ragged, against: Ragged) -> tuple[Ragged, np.ndarray]:
    """Each item's documents, then its negatives; and how many come first. An item without documents has none."""
    wanted = against.filter((having.lengths() > 0)[against.rows()])
    order = torch.argsort(torch.cat([having.rows(), wanted.rows()]), stable=True)
    values = torch.cat([having.values, wanted.values])[order]
    return Ragged(having.offsets + wanted.offsets, values), having.lengths().numpy()


def _collected(parts: Iterator[Weights], size: int) -> tuple[Rows, Tensor]:
    counts, features, values, bias = (np.concatenate(column) for column in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Rows(offsets, features, values, size), torch.from_numpy(bias)


__all__ = ["LinearScorer", "joined", "mined_negatives"]
