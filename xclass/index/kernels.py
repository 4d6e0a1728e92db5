"""What numba compiles for re-scoring: rows lie anywhere, so each is asked for before its turn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.cells import FAST, LINE_BYTES, OPTIONS, F, fetch_row, read

AHEAD = 12


@njit(inline="always")
def product(queries: Any, b: Any, vectors: Any, row: Any) -> Any:
    """Σ_d queries[b, d] · vectors[row, d], float32."""
    total = F(0.0)
    for d in range(queries.shape[1]):
        total += queries[b, d] * read(vectors[row, d])
    return total


@njit(**OPTIONS)
def _worse(score: Any, item: Any, other_score: Any, other_item: Any) -> Any:
    return score < other_score or (score == other_score and item > other_item)


@njit(**OPTIONS)
def _sink(scores: Any, items: Any, b: Any, size: Any) -> None:
    """The root of the heap (the worst on top) to its place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _worse(scores[b, child + 1], items[b, child + 1], scores[b, child], items[b, child]):
            child += 1
        if not _worse(scores[b, child], items[b, child], scores[b, at], items[b, at]):
            return
        scores[b, at], scores[b, child] = scores[b, child], scores[b, at]
        items[b, at], items[b, child] = items[b, child], items[b, at]
        at = child


@njit(**OPTIONS)
def _rise(scores: Any, items: Any, b: Any, at: Any) -> None:
    while at > 0:
        above = (at - 1) // 2
        if not _worse(scores[b, at], items[b, at], scores[b, above], items[b, above]):
            return
        scores[b, at], scores[b, above] = scores[b, above], scores[b, at]
        items[b, at], items[b, above] = items[b, above], items[b, at]
        at = above


@njit(**OPTIONS)
def take_in(scores: Any, items: Any, b: Any, size: Any, score: Any, item: Any) -> Any:
    """Offer one item to row b's heap of ``size`` items, as wide as the row; the size afterwards."""
    if size < scores.shape[1]:
        scores[b, size], items[b, size] = score, item
        _rise(scores, items, b, size)
        return size + 1
    if _worse(scores[b, 0], items[b, 0], score, item):
        scores[b, 0], items[b, 0] = score, item
        _sink(scores, items, b, size)
    return size


@njit(**OPTIONS)
def best_first(scores: Any, items: Any, b: Any, size: Any) -> None:
    """Row b's heap as a list, best first; what is behind it is −1 and −∞."""
    for last in range(size - 1, 0, -1):
        scores[b, 0], scores[b, last] = scores[b, last], scores[b, 0]
        items[b, 0], items[b, last] = items[b, last], items[b, 0]
        _sink(scores, items, b, last)
    for empty in range(size, scores.shape[1]):
        scores[b, empty], items[b, empty] = F(-np.inf), -1


@njit(**FAST)
def rescore(queries: Any, ids: Any, vectors: Any, low: Any, high: Any, items: Any, scores: Any) -> None:
    """items[b], scores[b]: the best of ids[b] by inner product, for rows ``low … high − 1``; below 0: none."""
    step = max(LINE_BYTES // vectors.itemsize, 1)
    for b in range(low, high):
        size = 0
        for place in range(ids.shape[1]):
            ahead = place + AHEAD
            if ahead < ids.shape[1] and ids[b, ahead] >= 0:
                fetch_row(vectors, ids[b, ahead], step)
            item = ids[b, place]
            if item >= 0:
                size = take_in(scores, items, b, size, product(queries, b, vectors, item), item)
        best_first(scores, items, b, size)
