"""Batches of training: by pair or by query, shuffled by seed and epoch, each epoch exactly once through the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import pydantic
import torch
from torch import Tensor

from xclass.config import Config
from xclass.rng import torch_generator
from xclass.types import Batch, Ragged


class BatchConfig(Config):
    """How the train pairs are cut into batches."""

    by: Literal["pair", "query"] = "pair"
    """pair: a row is one (query, positive); query: a row is one query with several positives."""
    size: int = pydantic.Field(2048, ge=1)
    """Rows in a batch; the last one of an epoch may be shorter."""
    positives_per_query: int = pydantic.Field(0, ge=0)
    """By query: at most so many positives, drawn anew each epoch; 0 takes all."""
    weight_power: float = pydantic.Field(0.0, ge=0)
    """By query: a query with t targets counts t^weight_power in the batch's mean. 0: queries count alike; 1: pairs do,
    as by pair, for the cost of one row of logits a query instead of one a pair; above 1: long lists count more."""

    @pydantic.model_validator(mode="after")
    def _powers_are_for_queries(self) -> BatchConfig:
        if self.by == "pair" and self.weight_power != 0:
            raise ValueError('weight_power is for by = "query": by pair, pairs count alike')
        return self


class TrainBatches:
    """The train split as batches.

    By query, the weights of the pairs weigh a query's positives against each other. By pair, they weigh the pairs: a
    pair of twice the mean weight counts twice in the mean of the batch.

    Args:
        train: Ragged by query.
        config: how to cut it.
        seed: the order of epoch e depends on (seed, e) only, so training can resume anywhere.
        hold_out: the tower looks at histories, so targets are left out of them. By query, at most half of a query's
            positives (rounded down, at least one) are then targets, so that something is left to look at.
    """

    def __init__(self, train: Ragged, config: BatchConfig, seed: int, hold_out: bool) -> None:
        self.train, self.config, self.seed, self.hold_out = train, config, seed, hold_out
        lengths = train.lengths()
        self._mean_weight = 1.0 if train.weights is None else float(train.weights.double().mean())
        self._queries = lengths.nonzero().squeeze(1) if config.by == "query" else None
        self.num_rows = len(train.values) if self._queries is None else len(self._queries)
        self._mean_power = self._powered(self._num_targets(lengths[lengths > 0])).mean() if self.num_rows else 1.0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.num_rows / self.config.size)

    def positives_per_epoch(self) -> int:
        """Targets of a whole epoch."""
        if self._queries is None:
            return self.num_rows
        return int(self._num_targets(self.train.lengths()[self._queries]).sum())

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``first`` on."""
        order = torch.randperm(self.num_rows, generator=torch_generator(self.seed, "order", epoch))
        for number in range(first, len(self)):
            rows = order[number * self.config.size : (number + 1) * self.config.size]
            if self._queries is None:
                yield self._by_pair(rows)
            else:
                yield self._by_query(self._queries[rows], torch_generator(self.seed, "targets", epoch, number))

    def _by_pair(self, pairs: Tensor) -> Batch:
        queries = torch.searchsorted(self.train.offsets, pairs, right=True) - 1
        known = self.train.take(queries).long()
        weights = None if self.train.weights is None else self.train.weights[pairs] / self._mean_weight
        positives = Ragged(torch.arange(len(pairs) + 1), self.train.values[pairs].long())
        if not self.hold_out:
            return Batch(queries, known, positives, known, weights)
        others = torch.ones(len(known.values), dtype=torch.bool)
        others[known.offsets[:-1] + pairs - self.train.offsets[queries]] = False
        return Batch(queries, known.filter(others), positives, known, weights)

    def _by_query(self, queries: Tensor, generator: torch.Generator) -> Batch:
        known = self.train.take(queries).long()
        target = _choose(known, self._num_targets(known.lengths()), generator)
        history = known.filter(~target) if self.hold_out else known
        positives = known.filter(target)
        weights = self._powered(positives.lengths()) / self._mean_power if self.config.weight_power else None
        return Batch(queries, history, positives, known, weights)

    def _powered(self, lengths: Tensor) -> Tensor:
        return lengths.float().pow(self.config.weight_power)

    def _num_targets(self, lengths: Tensor) -> Tensor:
        """How many of a query's positives are targets when it has so many."""
        wanted = (lengths // 2).clamp(min=1) if self.hold_out else lengths
        most = self.config.positives_per_query
        return wanted.clamp(max=most) if most else wanted


def _choose(lists: Ragged, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Bool (M,): ``wanted[b]`` values of list b, chosen at random."""
    rows = lists.rows()
    keys = torch.rand(len(rows), generator=generator, dtype=torch.float64) + rows
    order = torch.argsort(keys)
    rank = torch.arange(len(rows)) - lists.offsets[rows]
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[order] = rank < wanted[rows]
    return chosen


def inference_batches(history: Ragged, queries: Tensor, size: int) -> Iterator[Batch]:
    """Batches of known queries for inference: their numbers and histories, in the order given."""
    for part in queries.split(size):
        yield Batch(part, history.take(part).long())
