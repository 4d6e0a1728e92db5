"""What an output layer holds, and what one item's probability and a top-k take of a finished run."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xclass.embeddings import Table
from xclass.heads import DotHead, table_shapes
from xclass.index import Index
from xclass.index.interface import BatchSearch
from xclass.models.two_tower import TwoTower
from xclass.queries.queries import dataset_queries
from xclass.recommender import Recommender
from xclass.types import Batch, Ragged

Score = Callable[[Tensor, Ragged, dict[str, Table]], Tensor]
"""Query vectors, a list of items for each, tables → a number for each item."""

ITEMS = "item"  # the table of item vectors; where other parameters make them, a finished run holds them all the same
BATCH = 64
"""Queries that are timed, one by one and as one batch."""
LEAST_S = 0.05
TIMES = ("probability_us", "score_us", "topk_us")
DEFINITIONS = {
    "probability_us": "exact probability of one positive of a query whose vector is known, one query at a time",
    "score_us": "the same without the sum over the catalogue, for layers with item vectors: what training made of the "
    "scores decides whether it is a probability",
    "topk_us": "the best k items of one query at a time, nothing left out, by the search that serves: a run's index, a "
    "layer's own search, or exact search",
    "…_batch_us": f"the same of {BATCH} queries at once, for each of them",
}


class Layer(NamedTuple):
    """parameters: numbers that training chose. memory_bytes: of them as they are stored, and of trees and the like."""

    parameters: int
    memory_bytes: int


class Job(NamedTuple):
    """The queries that are timed; items: a positive of each."""

    batch: Batch
    items: Tensor
    k: int


def layer_of(recommender: Recommender) -> Layer | None:
    """The size of a run's output layer; None for a run without towers."""
    model = recommender.model
    if not isinstance(model, TwoTower):
        return None
    shapes = table_shapes(
        recommender.run.config.head, recommender.run.num_items, recommender.run.config.model.embedding_dim
    )
    dense = list(model.head.parameters()) if isinstance(model.head, nn.Module) else []
    learned = sum(rows * dim for rows, dim in shapes.values()) + sum(each.numel() for each in dense)
    stored = [table.weight for name, table in model.tables.items() if name in shapes or name == ITEMS]
    held = {id(tensor): tensor for tensor in [*stored, *dense, *_tensors(model.head, set())]}
    return Layer(learned, sum(tensor.nbytes for tensor in held.values()))


def _tensors(thing: Any, passed: set[int]) -> Iterator[Tensor | np.ndarray]:
    """Every tensor and array that an object holds, those of objects that it holds included."""
    if id(thing) in passed:
        return
    passed.add(id(thing))
    if isinstance(thing, Tensor | np.ndarray):
        yield thing
        return
    inside = list(thing.values()) if isinstance(thing, Mapping) else []
    inside += list(thing) if isinstance(thing, list | tuple | set) else []
    if type(thing).__module__.startswith("xclass."):
        slots = [getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ())]
        inside += [*getattr(thing, "__dict__", {}).values(), *slots]
    for part in inside:
        yield from _tensors(part, passed)


def queries_to_time(recommender: Recommender, split: str, k: int, seed: int) -> Job:
    """The same queries for every run of a dataset, drawn by ``seed``."""
    dataset = recommender.dataset
    queries = dataset_queries(dataset, split, True, BATCH, seed)
    _, batch = next(queries.batches(BATCH))
    truth = dataset.split(split).take(queries.numbers).long()
    return Job(batch, truth.values[truth.offsets[:-1]], k)


def time_once(recommender: Recommender, job: Job) -> dict[str, float]:
    """µs a query of everything that the run can do; each call is made once before it is timed."""
    found, size = {}, len(job.items)
    for name, call in _calls(recommender, job).items():
        call.one(0)
        call.every()
        found[name] = _seconds(functools.partial(_one_by_one, call.one, size)) / size * 1e6
        found[name.replace("_us", "_batch_us")] = _seconds(call.every) / size * 1e6
    return found


def _one_by_one(call: Callable[[int], object], size: int) -> None:
    for row in range(size):
        call(row)


def medians(turns: list[dict[str, float]]) -> dict[str, float | None]:
    """Over the turns, None for what a run can't do."""
    names = [name for each in TIMES for name in (each, each.replace("_us", "_batch_us"))]
    return {
        name: round(statistics.median(turn[name] for turn in turns), 3) if name in turns[0] else None for name in names
    }


class _Call(NamedTuple):
    """For the query in a row, and for all at once."""

    one: Callable[[int], object]
    every: Callable[[], object]


def _calls(recommender: Recommender, job: Job) -> dict[str, _Call]:
    index, model = recommender.index or recommender.exact_index, recommender.model
    if isinstance(index, BatchSearch) or not isinstance(model, TwoTower):
        assert isinstance(index, BatchSearch)
        return {"topk_us": _document_search(index, job)}
    vectors, head = model.query_vectors(job.batch), model.head
    found = {
        "topk_us": _search(index, vectors, job),
        "probability_us": _scoring(head.log_probability, vectors, job, model),
    }
    if isinstance(head, DotHead):
        found["score_us"] = _scoring(head.unnormalised_log_probability, vectors, job, model)
    return found


def _document_search(index: BatchSearch, job: Job) -> _Call:
    ones = []
    for row in torch.arange(len(job.items)).split(1):
        features = {name: lists.take(row) for name, lists in job.batch.features.items()}
        ones.append(Batch(job.batch.query_ids[row], job.batch.history.take(row), features=features))
    return _Call(
        lambda row: index.search_batch(ones[row], job.k, None, None),
        lambda: index.search_batch(job.batch, job.k, None, None),
    )


def _search(index: Index, vectors: Tensor, job: Job) -> _Call:
    return _Call(lambda row: index.search(vectors[row : row + 1], job.k), lambda: index.search(vectors, job.k))


def _scoring(score: Score, vectors: Tensor, job: Job, model: TwoTower) -> _Call:
    one, every = torch.arange(2), torch.arange(len(job.items) + 1)
    rows = [slice(row, row + 1) for row in range(len(job.items))]
    return _Call(
        lambda row: score(vectors[rows[row]], Ragged(one, job.items[rows[row]]), model.tables),
        lambda: score(vectors, Ragged(every, job.items), model.tables),
    )


def _seconds(call: Callable[[], object]) -> float:
    """Of one call, over as many as fill LEAST_S: of this process's time on one thread, else of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started, calls = clock(), 0
    while (took := clock() - started) < LEAST_S or not calls:
        call()
        calls += 1
    return took / calls
