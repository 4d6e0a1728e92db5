"""The best recall@k that anyone could reach on a planted dataset: its own true ranking, seen items left out."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from xclass.data.planted_model import QUERIES_PER_BLOCK, PlantedWorld
from xclass.data.store import Dataset
from xclass.errors import ArtefactError
from xclass.progress import Progress
from xclass.rng import numpy_generator
from xclass.types import Ragged

QUERIES_PER_CHUNK = 4096
CANDIDATES_PER_CHUNK = 1 << 22


def planted_world(dataset: Dataset) -> PlantedWorld:
    """The world that a dataset was drawn from; ArtefactError when it was not planted."""
    if "planted" not in dataset.manifest:
        raise ArtefactError(
            "this dataset was not planted, so nobody knows its true probabilities",
            where=dataset.path,
            do="make one: xclass ingest planted:items=2000,queries=5000,pairs=150000 --out DATASET",
        )
    return PlantedWorld(**dataset.manifest["planted"])


def model_items(dataset: Dataset) -> np.ndarray:
    """int64 (N,): the model number of each item number, from the digits of its external id."""
    world = planted_world(dataset)
    digits = pl.col("item_id").str.split("-").list.last().cast(pl.Int64)
    external = pl.scan_parquet(dataset.path / "items.parquet").select(digits).collect(engine="streaming")["item_id"]
    return world_item(external.to_numpy(), world.num_items)


def external_number(items: np.ndarray, num_items: int) -> np.ndarray:
    """The number in a model item's external id: (a·m + b) mod N, a bijection that hides popularity."""
    multiplier, shift = _affine(num_items)
    return (items.astype(np.int64) * multiplier + shift) % num_items


def world_item(external: np.ndarray, num_items: int) -> np.ndarray:
    """The model item of the number in an external id; the inverse of :func:`external_number`."""
    multiplier, shift = _affine(num_items)
    return (external - shift) % num_items * pow(multiplier, -1, num_items) % num_items


def true_probabilities(dataset: Dataset, query_ids: np.ndarray) -> np.ndarray:
    """P(· | q) over the dataset's item numbers, float64 (B, N), rows sum to 1. For small N."""
    return planted_world(dataset).probabilities(query_ids)[:, model_items(dataset)]


def best_recall(dataset: Dataset, k: int, split: str = "test", max_queries: int | None = None, seed: int = 0) -> float:
    """The mean recall@k (hits / positives) over queries with positives, when items are ranked by the true P(item | query).

    Items the query has seen (train, and valid for the test part) are left out. As positives are a random part of draws
    from P, no ranking does better on average. Only a model that knew every θ could reach it.

    Args:
        max_queries: estimate from that many queries, drawn by ``seed``, instead of from all.

    Raises:
        ArtefactError: the dataset was not planted.

    Cost: O(queries · topics_per_query · (k + seen)), whatever the number of items: the best unseen items of a topic are
    among its first k + seen ranks.
    """
    world, numbers = planted_world(dataset), model_items(dataset)
    positives, seen = dataset.split(split), dataset.seen(split)
    queries = np.flatnonzero(positives.lengths().numpy() > 0)
    if max_queries is not None and len(queries) > max_queries:
        queries = np.sort(numpy_generator(seed, "best recall").choice(queries, max_queries, replace=False))
    total, low = 0.0, 0
    with Progress("best possible", len(queries), "queries") as progress:
        while low < len(queries):
            chunk = _next_chunk(queries, low, seen, k, world)
            total += float(_recalls(world, numbers, chunk, positives, seen, k).sum())
            low += len(chunk)
            progress.advance(len(chunk))
    return total / max(len(queries), 1)


def _next_chunk(queries: np.ndarray, low: int, seen: Ragged, k: int, world: PlantedWorld) -> np.ndarray:
    chunk = queries[low : low + QUERIES_PER_CHUNK]
    longest = int((seen.offsets[chunk + 1] - seen.offsets[chunk]).max())
    return chunk[: max(1, CANDIDATES_PER_CHUNK // ((world.topics_per_query + 1) * (k + longest)))]


def _recalls(world: PlantedWorld, numbers: np.ndarray, chunk: np.ndarray, positives: Ragged, seen: Ragged, k: int) -> np.ndarray:
    """recall@k of each query of the chunk, float64 (B,)."""
    seen_keys, longest = _keys(seen, chunk, numbers, world)
    candidates = _candidates(world, chunk, k + longest)
    rows = np.arange(len(chunk))[:, None]
    weights = world.topic_weights(chunk)[rows, candidates % world.num_topics]
    scores = weights * world.within_topic(np.maximum(candidates, 0))
    hidden = (candidates < 0) | _is_in(rows * world.num_items + candidates, seen_keys)
    scores[hidden] = -1.0
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen, valid = candidates[rows, best], scores[rows, best] >= 0
    positive_keys, _ = _keys(positives, chunk, numbers, world)
    hits = (_is_in(rows * world.num_items + chosen, positive_keys) & valid).sum(axis=1)
    return hits / (positives.offsets[chunk + 1] - positives.offsets[chunk]).numpy()


def _candidates(world: PlantedWorld, chunk: np.ndarray, depth: int) -> np.ndarray:
    """Model items (B, (topics_per_query + 1) · depth) among which the best are; -1 fills up, none comes twice.

    The first ``depth`` ranks of each of the query's topics, and the ``depth`` most popular of all items.
    """
    blocks, place = np.unique(chunk // QUERIES_PER_BLOCK, return_inverse=True)
    profiles = np.concatenate([world.profiles(int(block))[0] for block in blocks])
    topics = profiles[place * QUERIES_PER_BLOCK + chunk % QUERIES_PER_BLOCK]
    ranks = np.arange(depth)
    own = ranks * world.num_topics + topics[:, :, None]
    own = np.where(ranks < world.topic_sizes[topics][:, :, None], own, -1).reshape(len(chunk), -1)
    popular = np.tile(_most_popular(world, depth), (len(chunk), 1))
    popular[(popular[:, :, None] % world.num_topics == topics[:, None, :]).any(axis=2)] = -1
    return np.concatenate([own, popular], axis=1)


def _most_popular(world: PlantedWorld, depth: int) -> np.ndarray:
    ranks = min(depth, int(world.topic_sizes[-1]) + 1)
    items = np.arange(min(ranks * world.num_topics, world.num_items))
    shares = world.topic_shares[items % world.num_topics] * world.within_topic(items)
    best = np.argsort(-shares, kind="stable")[:depth]
    return np.concatenate([items[best], np.full(depth - len(best), -1)])


def _keys(lists: Ragged, chunk: np.ndarray, numbers: np.ndarray, world: PlantedWorld) -> tuple[np.ndarray, int]:
    """Sorted (row · N + model item) of the chunk's lists, and the longest list's length."""
    taken = lists.take(torch.from_numpy(chunk))
    keys = taken.rows().numpy() * world.num_items + numbers[taken.values.numpy()]
    return np.sort(keys), int(taken.lengths().max())


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
