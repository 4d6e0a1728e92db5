"""Batches of training: by pair or by query, shuffled by seed and epoch, each epoch exactly once through the data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import pydantic
import torch
from torch import Tensor

from xclass.config import Config, Count, Exponent, Positive
from xclass.data.lists import Lists
from xclass.data.shuffle import Shuffle
from xclass.errors import InputError
from xclass.runtime.jit import compiles
from xclass.runtime.rng import torch_generator
from xclass.types import Batch, Ragged, Selection, offsets_of

ROWS_PER_BLOCK = 1 << 10
PASS_ROWS = 1 << 20


class BatchConfig(Config):
    """How the train pairs are cut into batches."""

    by: Literal["pair", "query"] = "pair"
    """pair: a row is one pair of a query and a positive. query: a row is one query with several positives."""
    size: Positive = 2048
    """Rows of a batch; the last batch of an epoch may be smaller."""
    positives_per_query: Count = 0
    """by = "query": the largest number of positives for each query, drawn again in each epoch. 0: all positives."""
    weight_power: Exponent = 0.0
    """by = "query": weight of a query with t targets in the mean of the batch, t^weight_power. 0: all queries weigh the
    same. 1: all pairs weigh the same, as with by = "pair", but with one row of logits for each query instead of one for
    each pair. Above 1: queries with many targets weigh more."""

    @pydantic.model_validator(mode="after")
    def _powers_are_for_queries(self) -> BatchConfig:
        if self.by == "pair" and self.weight_power != 0:
            raise ValueError('weight_power is for by = "query": by pair, pairs count alike')
        return self


class TrainBatches:
    """The train split as batches, read from its memory-mapped arrays.

    By query, the weights of the pairs weigh a query's positives against each other. By pair, they weigh the pairs: a
    pair of twice the mean weight counts twice in the mean of the batch.

    Args:
        train: Ragged by query.
        config: how to cut it.
        seed: the order of epoch e depends on (seed, e) only, so training can resume anywhere.
        hold_out: the tower looks at histories, so targets are left out of them. By query, at most half of a query's
            positives (rounded down, at least one) are then targets, so that something is left to look at. Without it
            histories are empty.
        features: the queries' sparse features by name, as ``Dataset.query_features``; batches hold those of their rows.
        windows: histories that stand beside the pairs, by query (``Dataset.windows``): nothing is held out of them.

    Raises:
        InputError: all weights are 0.

    Memory: one window of :class:`Shuffle`, whatever the size of the split.
    """

    def __init__(
        self,
        train: Ragged,
        config: BatchConfig,
        seed: int,
        hold_out: bool,
        features: Mapping[str, Lists] | None = None,
        windows: Lists | None = None,
    ) -> None:
        self.train, self.config, self.seed = train, config, seed
        self.hold_out, self.windows = hold_out and windows is None, windows if hold_out else None
        self.features = features or {}
        self._facts = self._look_through()
        self._shuffle = Shuffle(self._block_rows(), seed)
        self.num_rows = self._shuffle.num_rows

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.num_rows / self.config.size)

    def positives_per_epoch(self) -> int:
        """Targets of a whole epoch."""
        return self.num_rows if self.config.by == "pair" else self._facts.targets

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``first`` on."""
        by_pair, size = self.config.by == "pair", self.config.size
        rows = self._shuffle.batches(epoch, size, first, self._pairs_of if by_pair else self._queries_of)
        for number, columns in enumerate(rows, first):
            if by_pair:
                yield self._by_pair(*columns)
            else:
                yield self._by_query(columns[0], torch_generator(self.seed, "targets", epoch, number))

    def _pairs_of(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """(query, place in values, item) of every pair of these blocks."""
        places = _spread(blocks * ROWS_PER_BLOCK, (blocks + 1) * ROWS_PER_BLOCK, len(self.train.values))
        ends = self.train.offsets[1:]
        first = torch.searchsorted(ends, blocks * ROWS_PER_BLOCK, right=True)
        last = torch.searchsorted(ends, ((blocks + 1) * ROWS_PER_BLOCK).clamp(max=len(self.train.values)))
        queries = _spread(first, last + 1, len(self.train))
        lists = torch.repeat_interleave(torch.arange(len(blocks)), last + 1 - first)
        low = torch.maximum(self.train.offsets[queries], (blocks * ROWS_PER_BLOCK)[lists])
        high = torch.minimum(ends[queries], ((blocks + 1) * ROWS_PER_BLOCK)[lists])
        return torch.repeat_interleave(queries, high - low, output_size=len(places)), places, self.train.values[places]

    def _queries_of(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """The queries of these blocks that have a pair."""
        queries = _spread(blocks * ROWS_PER_BLOCK, (blocks + 1) * ROWS_PER_BLOCK, len(self.train))
        return (queries[self.train.offsets[queries + 1] > self.train.offsets[queries]],)

    def _by_pair(self, queries: Tensor, places: Tensor, items: Tensor) -> Batch:
        weights = None if self.train.weights is None else self.train.weights[places] / self._facts.mean_weight
        positives = Ragged(torch.arange(len(items) + 1), items.long())
        history = take_lists(self.train, queries, places) if self.hold_out else self._given(queries)
        return Batch(
            queries, history, positives, Selection(self.train, queries), weights, take_features(self.features, queries)
        )

    def _by_query(self, queries: Tensor, generator: torch.Generator) -> Batch:
        known = self.train.take(queries).long() if self.train.weights is not None else take_lists(self.train, queries)
        wanted = self._num_targets(known.lengths())
        positives, history = known, self._given(queries)
        if self.hold_out or self.config.positives_per_query:
            target = _choose(known, wanted, generator)
            positives = known.filter(target)
            history = known.filter(~target) if self.hold_out else history
        weights = self._powered(wanted) / self._facts.mean_power if self.config.weight_power else None
        return Batch(
            queries, history, positives, Selection(self.train, queries), weights, take_features(self.features, queries)
        )

    def _given(self, queries: Tensor) -> Ragged:
        """Histories that do not depend on the targets."""
        return _empty_lists(len(queries)) if self.windows is None else self.windows.take(queries)

    def _powered(self, lengths: Tensor) -> Tensor:
        return lengths.float().pow(self.config.weight_power)

    def _num_targets(self, lengths: Tensor) -> Tensor:
        """How many of a query's positives are targets when it has so many."""
        wanted = (lengths // 2).clamp(min=1) if self.hold_out else lengths
        most = self.config.positives_per_query
        return wanted.clamp(max=most) if most else wanted

    def _block_rows(self) -> Tensor:
        """int64: rows of each block of pairs, or queries with a pair of each block of queries."""
        if self.config.by == "query":
            return self._facts.queries
        pairs = len(self.train.values)
        rows = torch.full((math.ceil(pairs / ROWS_PER_BLOCK),), ROWS_PER_BLOCK)
        if pairs % ROWS_PER_BLOCK:
            rows[-1] = pairs % ROWS_PER_BLOCK
        return rows

    def _look_through(self) -> _Facts:
        """One pass over the offsets and weights, a million at a time."""
        queries, targets, powered = [torch.zeros(0, dtype=torch.int64)], 0, 0.0
        for start in range(0, len(self.train), PASS_ROWS):
            ends = self.train.offsets[start : start + PASS_ROWS + 1]
            lengths = ends.diff()
            queries.append(_counts_by_block(lengths > 0))
            wanted = self._num_targets(lengths[lengths > 0])
            targets += int(wanted.sum())
            powered += float(self._powered(wanted).double().sum())
        each = torch.cat(queries)
        return _Facts(each, targets, powered / max(int(each.sum()), 1) or 1.0, _mean(self.train.weights))


class _Facts(NamedTuple):
    """Of the whole split: queries with a pair by block, targets of an epoch by query, two means."""

    queries: Tensor
    targets: int
    mean_power: float
    mean_weight: float


def take_lists(source: Ragged, rows: Tensor, without: Tensor | None = None) -> Ragged:
    """int64 copies of the lists ``rows``, each less the value at place ``without_b`` where given. Weights are dropped.

    >>> take_lists(Ragged.from_lists([[1], [2, 3]]), torch.tensor([1, 0, 1]), torch.tensor([2, 0, 1])).to_lists()
    [[2], [], [3]]
    """
    if not compiles():
        lists = source.with_values(source.values).take(rows).long()
        if without is None:
            return lists
        keep = torch.ones(len(lists.values), dtype=torch.bool)
        keep[lists.offsets[:-1] + without - source.offsets[rows]] = False
        return lists.filter(keep)
    from xclass.data import _numba

    lengths = source.offsets[rows + 1] - source.offsets[rows]
    offsets = offsets_of(lengths if without is None else lengths - 1)
    taken = torch.empty(int(offsets[-1]), dtype=torch.int64)
    left_out = torch.full_like(rows, -1) if without is None else without
    arrays = source.offsets, source.values, rows, left_out, offsets, taken
    _numba.take_lists(*(array.numpy() for array in arrays))
    return Ragged(offsets, taken)


def _spread(starts: Tensor, stops: Tensor, end: int) -> Tensor:
    """The numbers of all ranges start_b … stop_b − 1, none of them above ``end`` − 1."""
    offsets = offsets_of(stops.clamp(max=end) - starts)
    flat = torch.arange(int(offsets[-1]))
    return flat + torch.repeat_interleave(starts - offsets[:-1], offsets.diff(), output_size=len(flat))


def _counts_by_block(there: Tensor) -> Tensor:
    """int64: how many are true in each block."""
    blocks = torch.zeros(math.ceil(len(there) / ROWS_PER_BLOCK) * ROWS_PER_BLOCK, dtype=torch.bool)
    blocks[: len(there)] = there
    return blocks.view(-1, ROWS_PER_BLOCK).sum(1)


def _mean(weights: Tensor | None) -> float:
    """Of all weights; InputError when it is 0."""
    if weights is None or len(weights) == 0:
        return 1.0
    mean = sum(float(part.double().sum()) for part in weights.split(PASS_ROWS)) / len(weights)
    if mean == 0:
        raise InputError(
            "the weights of all train pairs are 0: there is nothing to learn",
            wanted="a weight above 0",
            do='ingest the data without weights (--weight-col "") or with others',
        )
    return mean


def _empty_lists(number: int) -> Ragged:
    return Ragged(torch.zeros(number + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def _choose(lists: Ragged, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Bool (M,): ``wanted[b]`` values of list b, chosen at random."""
    rows = lists.rows()
    keys = torch.rand(len(rows), generator=generator, dtype=torch.float64) + rows
    order = torch.argsort(keys)
    rank = torch.arange(len(rows)) - lists.offsets[rows]
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[order] = rank < wanted[rows]
    return chosen


def take_features(features: Mapping[str, Lists], rows: Tensor) -> dict[str, Ragged]:
    """The lists ``rows`` of every field, with int64 feature numbers. O(values taken)."""
    return {name: lists.take(rows).long() for name, lists in features.items()}


def inference_batches(
    history: Lists, queries: Tensor, size: int, features: Mapping[str, Lists] | None = None
) -> Iterator[Batch]:
    """Batches of known queries for inference: their numbers, histories and features, in the order given."""
    for part in queries.split(size):
        yield Batch(part, history.take(part).long(), features=take_features(features or {}, part))
