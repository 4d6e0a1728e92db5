"""A small dataset cut out of a large one: whole queries from all over the train split, item numbers folded.

Item i becomes i mod R. Items are numbered by falling frequency, so the popular ones keep their numbers, and a batch
finds about as many different rows as it does in the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor

from xclass.data.dataset import Dataset
from xclass.data.windows import SequenceFacts
from xclass.metrics.propensity import DEFAULT_A, DEFAULT_B
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged, offsets_of

PARTS = 64
MOST_PAIRS = 1 << 22
MOST_VALID = 256
LEAST_FEATURES = 1024


class Shrunk(NamedTuple):
    """What :func:`xclass.training.validation.make_validator` and a model ask of a dataset, over fewer rows.

    train, valid: Ragged by query, in memory. features: side → name → (number of features, lists). sequence,
    windows: how positions of a text are read, and their histories; None elsewhere. read_texts: of all items.
    """

    num_queries: int
    num_items: int
    item_counts: Tensor
    train: Ragged
    valid: Ragged | None
    features: Mapping[str, Mapping[str, tuple[int, Ragged]]] = MappingProxyType({})
    sequence: SequenceFacts | None = None
    windows: Ragged | None = None
    read_texts: Callable[[], pl.Series] = pl.Series

    @property
    def item_texts(self) -> pl.Series:
        """(N,) of the most popular items."""
        return self.read_texts().head(self.num_items)

    @property
    def hidden(self) -> None:
        """None: what is left out of lists beside the history costs no more than the history."""

    @property
    def num_train_queries(self) -> int:
        """Queries with a train pair."""
        return int((self.train.lengths() > 0).sum())

    @property
    def propensity(self) -> tuple[float, float]:
        """As a rule: they do not change what a step costs."""
        return DEFAULT_A, DEFAULT_B

    @property
    def query_features(self) -> dict[str, Ragged]:
        """Name → lists of the queries."""
        return {name: lists for name, (_, lists) in self.features.get("query", {}).items()}

    @property
    def item_features(self) -> dict[str, Ragged]:
        """Name → lists of the items."""
        return {name: lists for name, (_, lists) in self.features.get("item", {}).items()}

    def feature_sizes(self, side: str) -> dict[str, int]:
        """Name → number of different features."""
        return {name: size for name, (size, _) in self.features.get(side, {}).items()}

    def feature_counts(self, side: str, name: str) -> tuple[Tensor, int]:
        """How many lists have each feature, about: values are counted."""
        size, lists = self.features[side][name]
        return torch.bincount(lists.values, minlength=size), len(lists)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return ("train",) if self.valid is None else ("train", "valid")

    def split(self, name: str) -> Ragged:
        """The pairs of a split."""
        return self.train if name == "train" or self.valid is None else self.valid

    def history(self, split: str) -> Ragged:
        """The history before a split."""
        return self.windows or self.seen(split)

    def seen(self, split: str) -> Ragged:
        """What is left out of lists."""
        return self.train.with_values(self.train.values)


def shrink(dataset: Dataset, most_queries: int, most_items: int, feature_share: float = 1.0) -> Shrunk:
    """At most so many queries, in runs of neighbours spread evenly over the split, so many items, and that share of
    the features, folded likewise.

    Reads the pairs and features of these queries only, 4 Mi pairs at most.
    """
    train, items = dataset.split("train"), min(dataset.num_items, most_items)
    per_query = max(len(train.values) / max(len(train), 1), 1.0)
    number = max(min(len(train), most_queries, round(MOST_PAIRS / per_query)), 1)
    taken = _runs(len(train), number)
    few = _folded(train.take(taken), items)
    valid = None
    if "valid" in dataset.splits:
        all_valid = dataset.split("valid").take(taken)
        kept = all_valid.lengths().nonzero().squeeze(1)[:MOST_VALID]
        lengths = torch.zeros(len(taken), dtype=torch.int64)
        lengths[kept] = all_valid.lengths()[kept]
        some = _folded(all_valid.take(kept), items) if len(kept) else Ragged(offsets_of(lengths[:0]), few.values[:0])
        valid = Ragged(offsets_of(lengths), some.values) if len(kept) else None
    counts = torch.bincount(few.values.long(), minlength=items).sort(descending=True).values
    rows = {"query": taken, "item": torch.arange(items)}
    lists = {"query": dataset.query_features, "item": dataset.item_features}
    features = {
        side: {
            name: _fewer_features(lists[side][name].take(rows[side]), size, feature_share)
            for name, size in dataset.feature_sizes(side).items()
        }
        for side in rows
    }
    windows = None if dataset.windows is None else _folded(dataset.windows.take(taken), items)
    return Shrunk(
        len(taken), items, counts, few, valid, features, dataset.sequence, windows, lambda: dataset.item_texts
    )


def _fewer_features(lists: Ragged, size: int, share: float) -> tuple[int, Ragged]:
    fewer = min(size, max(round(share * size), LEAST_FEATURES))
    return fewer, _folded(lists.long(), fewer)


def _runs(lists: int, number: int) -> Tensor:
    """int64, rising: ``number`` of the lists in at most 64 runs."""
    if number >= lists:
        return torch.arange(lists)
    parts = min(PARTS, number)
    edges = torch.arange(parts + 1) * number // parts
    starts = torch.arange(parts) * (lists - edges.diff().max()) // max(parts - 1, 1)
    return torch.cat([start + torch.arange(int(length)) for start, length in zip(starts, edges.diff(), strict=True)])


def _folded(lists: Ragged, items: int) -> Ragged:
    return lists.with_values(torch.remainder(lists.values, items), lists.weights)


def random_lists(queries: int, items: int, length: int) -> Ragged:
    """Ragged by query: ``length`` different items each, in place of candidates that were mined or given."""
    length = min(length, items)
    first = torch.randint(items, (queries, 1), generator=torch_generator(0, "estimate.lists"))
    values = (first + torch.arange(length)) % items
    return Ragged(torch.arange(queries + 1) * length, values.flatten())
