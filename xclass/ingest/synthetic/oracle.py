"""The best recall@k that anyone could reach on a planted dataset: its own true ranking, seen items left out."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.data.dataset import Dataset
from xclass.data.lists import Lists
from xclass.errors import ArtefactError
from xclass.ingest.synthetic.world import PlantedWorld
from xclass.io.frames import scan_parquet
from xclass.io.records import check_record
from xclass.runtime.progress import Progress
from xclass.runtime.rng import numpy_generator
from xclass.types import Ragged

Numbers = TypeVar("Numbers", np.ndarray, pl.Expr)
QUERIES_PER_CHUNK = 4096
CELLS_PER_CHUNK = 1 << 22


def planted_world(dataset: Dataset) -> PlantedWorld:
    """The world that a dataset was drawn from; ArtefactError when it was not planted."""
    if "planted" not in dataset.manifest:
        raise ArtefactError(
            "this dataset was not planted, so nobody knows its true probabilities",
            where=dataset.path,
            do="make one: xclass ingest planted:items=2000,queries=5000,pairs=150000 --out DATASET",
        )
    return check_record(PlantedWorld, dataset.manifest["planted"], f"{dataset.path}: planted")


def model_items(dataset: Dataset) -> np.ndarray:
    """int64 (N,): the model number of each item number, from the digits of its external id."""
    world = planted_world(dataset)
    digits = pl.col("item_id").str.split("-").list.last().cast(pl.Int64)
    external = scan_parquet(dataset.file("items.parquet")).select(digits).collect(engine="streaming")["item_id"]
    return world_item(external.to_numpy(), world.num_items)


def external_number(items: np.ndarray, num_items: int) -> np.ndarray:
    """The number in a model item's external id: (a·m + b) mod N, a bijection that hides popularity."""
    multiplier, shift = _affine(num_items)
    return (items.astype(np.int64) * multiplier + shift) % num_items


def world_item(external: Numbers, num_items: int) -> Numbers:
    """The model item of the number in an external id; the inverse of :func:`external_number`."""
    multiplier, shift = _affine(num_items)
    return (external - shift) % num_items * pow(multiplier, -1, num_items) % num_items


def true_probabilities(dataset: Dataset, query_ids: np.ndarray) -> np.ndarray:
    """P(· | q) over the dataset's item numbers, float64 (B, N), rows sum to 1. For small N."""
    return planted_world(dataset).probabilities(query_ids)[:, model_items(dataset)]


def best_recall(dataset: Dataset, k: int, split: str = "test", max_queries: int | None = None, seed: int = 0) -> float:
    """The mean recall@k (hits / positives) over queries with positives, of the ranking by the true P(item | query).

    Items the query has seen (train, and valid for the test part) are left out. As positives are a random part of draws
    from P, no ranking does better on average. Only a model that knew every θ could reach it.

    Args:
        max_queries: estimate from that many queries, drawn by ``seed``, instead of from all.

    Raises:
        ArtefactError: the dataset was not planted.

    Cost: O(queries · topics · (k + seen)), whatever the number of items: the best unseen items of a topic are among its
    first k + seen ranks.
    """
    world, numbers = planted_world(dataset), model_items(dataset)
    positives, seen = dataset.split(split), dataset.seen(split)
    queries = np.flatnonzero(positives.lengths().numpy() > 0)
    if max_queries is not None and len(queries) > max_queries:
        queries = np.sort(numpy_generator(seed, "best recall").choice(queries, max_queries, replace=False))
    total, low, seen_lengths = 0.0, 0, seen.lengths()
    with Progress("best possible", len(queries), "queries") as progress:
        while low < len(queries):
            chunk = _next_chunk(queries, low, seen_lengths, k, world)
            total += float(_recalls(world, numbers, chunk, positives, seen, k).sum())
            low += len(chunk)
            progress.advance(len(chunk))
    return total / max(len(queries), 1)


def _next_chunk(queries: np.ndarray, low: int, seen_lengths: Tensor, k: int, world: PlantedWorld) -> np.ndarray:
    chunk = queries[low : low + QUERIES_PER_CHUNK]
    longest = int(seen_lengths[chunk].max())
    return chunk[: max(1, CELLS_PER_CHUNK // (world.num_topics * (k + longest)))]


def _recalls(
    world: PlantedWorld, numbers: np.ndarray, chunk: np.ndarray, positives: Ragged, seen: Lists, k: int
) -> np.ndarray:
    """recall@k of each query of the chunk, float64 (B,)."""
    seen_rows, seen_items, longest = _model_lists(seen, chunk, numbers)
    depth = min(k + longest, int(world.topic_sizes[0]))
    ranks, topics = np.arange(depth), np.arange(world.num_topics)
    items = topics[:, None] + ranks * world.num_topics
    within = np.where(ranks < world.topic_sizes[:, None], world.within_topic(items), -1.0)
    scores = world.topic_weights(chunk)[:, :, None] * within
    topic, rank = seen_items % world.num_topics, seen_items // world.num_topics
    near = rank < depth
    scores[seen_rows[near], topic[near], rank[near]] = -1.0
    scores = scores.reshape(len(chunk), -1)
    best = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
    rows = np.arange(len(chunk))[:, None]
    valid = scores[rows, best] >= 0
    positive_rows, positive_items, _ = _model_lists(positives, chunk, numbers)
    keys = np.sort(positive_rows * world.num_items + positive_items)
    hits = (_is_in(rows * world.num_items + items.ravel()[best], keys) & valid).sum(axis=1)
    return hits / (positives.offsets[chunk + 1] - positives.offsets[chunk]).numpy()


def _model_lists(lists: Lists, chunk: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and model item of every value of the chunk's lists, and the longest list's length."""
    taken = lists.take(torch.from_numpy(chunk))
    return taken.rows().numpy(), numbers[taken.values.numpy()], int(taken.lengths().max())


def _is_in(keys: np.ndarray, sorted_keys: np.ndarray) -> np.ndarray:
    if len(sorted_keys) == 0:
        return np.zeros(keys.shape, dtype=bool)
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[place] == keys


def _affine(num_items: int) -> tuple[int, int]:
    multiplier = int(num_items * 0.6180339887498949) | 1
    while np.gcd(multiplier, num_items) != 1:
        multiplier += 2
    return multiplier % num_items, num_items // 3
