"""What a build will take, from building the same thing over a small sample."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.index.approximate import ApproximateIndex
from xclass.index.faiss_index import TRAIN_ROWS, TRAIN_ROWS_PER_LIST
from xclass.index.kinds import IndexConfig, built
from xclass.vectors import TensorVectors, Vectors

SAMPLE_ROWS = 1 << 14
TRAIN_ROUNDS = 10
GRAPH_SLOWER = 3.0


@dataclass(frozen=True, slots=True)
class Cost:
    """About what a build takes. memory_bytes: beside the item vectors."""

    factory: str
    build_s: float
    memory_bytes: int


def expected_cost(vectors: Vectors, config: IndexConfig) -> Cost | None:
    """Time and memory of a build over ``vectors``; None where there is nothing to build or it takes no time.

    16,384 evenly spaced vectors are indexed. Memory grows with the vectors. Time grows with them, in a graph with
    their logarithm and with what no longer fits the cache as well, and with inverted lists as every vector meets every
    centroid, once when it is added and ten times in training; that product is timed alone. Right within a factor of
    three where it was tried.
    """
    rows = len(vectors)
    if rows <= 2 * SAMPLE_ROWS or config.kind in ("exact", "auto"):
        return None
    sample = vectors.take(torch.arange(SAMPLE_ROWS) * rows // SAMPLE_ROWS).cpu()
    index = built(TensorVectors(sample), config)
    if not isinstance(index, ApproximateIndex):
        return None
    factory, scale = config.factory or index.factory, rows / SAMPLE_ROWS
    lists, few = _lists(factory), _lists(index.factory)
    if not lists:
        slower = GRAPH_SLOWER * math.log2(rows) / math.log2(SAMPLE_ROWS) if "HNSW" in factory else 1.0
        return Cost(factory, index.build_s * scale * slower, int(index.extra_bytes() * scale))
    pair_s = _seconds_per_pair(sample)
    trained = min(rows, max(TRAIN_ROWS, TRAIN_ROWS_PER_LIST * lists))
    other_s = max(index.build_s - pair_s * few * SAMPLE_ROWS * (1 + TRAIN_ROUNDS), 0.0)
    centroids = 4 * vectors.dim * (lists - few * scale)
    seconds = pair_s * lists * (rows + TRAIN_ROUNDS * trained) + other_s * scale
    return Cost(factory, seconds, max(int(index.extra_bytes() * scale + centroids), 0))


def _lists(factory: str) -> int:
    found = re.search(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


def _seconds_per_pair(sample: Tensor) -> float:
    """Of the product and maximum of one vector with one centroid."""
    from xclass.index.factory import faiss_module

    faiss, rows = faiss_module(), sample.numpy()
    best = math.inf
    for _ in range(2):
        started = time.perf_counter()
        faiss.knn(rows, rows[:1024], 1, metric=faiss.METRIC_INNER_PRODUCT)
        best = min(best, time.perf_counter() - started)
    return best / (len(rows) * 1024)
