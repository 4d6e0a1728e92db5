"""What a build will take, from building the same thing over a small sample."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.index.approximate import ApproximateIndex
from xclass.index.build import IndexConfig, built
from xclass.index.faiss.index import TRAIN_ROWS, TRAIN_ROWS_PER_LIST, FaissIndex
from xclass.types.vectors import TensorVectors, Vectors

SAMPLE_ROWS = 1 << 14
TRAIN_ROUNDS = 10
GRAPH_SLOWER = 3.0
PAIR_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """About what a build takes. memory_bytes: beside the item vectors."""

    factory: str
    build_s: float
    memory_bytes: int


def expected_cost(vectors: Vectors, config: IndexConfig) -> Cost | None:
    """Time and memory of a build over ``vectors``; None where there is nothing to build or it takes no time.

    16,384 evenly spaced vectors are indexed, training and adding timed apart. Memory grows with the vectors. Adding
    grows with them, in a graph with their logarithm and with what no longer fits the cache as well. With inverted
    lists every vector meets every centroid, once when it is added and ten times in training; that product is timed
    alone. What else is trained are codes, from 256 vectors a codeword at most.
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
    train_s = index.train_s if isinstance(index, FaissIndex) else 0.0
    pair_s, pairs = _seconds_per_pair(sample, lists), few * SAMPLE_ROWS
    trained = min(rows, max(TRAIN_ROWS, TRAIN_ROWS_PER_LIST * lists))
    codes_s = max(train_s - pair_s * pairs * TRAIN_ROUNDS, 0.0) * max(
        min(_code_rows(factory), trained) / SAMPLE_ROWS, 1
    )
    adding_s = max(index.build_s - train_s - pair_s * pairs, 0.0) * scale
    seconds = pair_s * lists * (rows + TRAIN_ROUNDS * trained) + codes_s + adding_s
    centroids = 4 * vectors.dim * (lists - few * scale)
    return Cost(factory, seconds, max(int(index.extra_bytes() * scale + centroids), 0))


def _code_rows(factory: str) -> int:
    """Vectors that Faiss learns product codes from: 256 for each of 2^bits codewords, 8 bits unless it says others."""
    found = re.search(r"PQ\d+(?:x(\d+))?", factory)
    return 256 << int(found[1] or 8) if found else 0


def _lists(factory: str) -> int:
    found = re.search(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


def _seconds_per_pair(sample: Tensor, lists: int) -> float:
    """Of the product and maximum of one vector with one centroid. The best of a few: other work only adds time."""
    from xclass.index.faiss.factory import faiss_module

    faiss, rows = faiss_module(), sample.numpy()
    centroids, best = rows[: min(lists, len(rows))], math.inf
    for _ in range(PAIR_ROUNDS):
        started = time.perf_counter()
        faiss.knn(rows, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)
        best = min(best, time.perf_counter() - started)
    return best / (len(rows) * len(centroids))
