"""What numba compiles for re-scoring: rows lie anywhere, so each is asked for before its turn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.runtime.jit_bfloat16 import FAST, LINE_BYTES, OPTIONS, F, fetch_row, read

AHEAD = 12


@njit(**FAST)
def first_infinite(rows: Any) -> int:
    """The first row whose sum of squares is no finite float32; −1 for none."""
    for r in range(len(rows)):
        total = F(0.0)
        for d in range(rows.shape[1]):
            total += rows[r, d] * rows[r, d]
        if not total < F(np.inf):
            return r
    return -1


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


@njit(**OPTIONS)
def _room(offsets: Any, low: Any, high: Any) -> Any:
    """Numbers that a set of the longest of these lists takes: a power of two, at most half of it used."""
    longest, size = 0, 1
    for b in range(low, high):
        longest = max(longest, offsets[b + 1] - offsets[b])
    while size < 2 * longest:
        size *= 2
    return np.empty(size, np.int64)


@njit(**OPTIONS)
def _slot(item: Any, last: Any) -> Any:
    return ((item * 2654435761) >> 12) & last


@njit(**OPTIONS)
def _remember(room: Any, hidden: Any, low: Any, high: Any) -> Any:
    """hidden[low:high] as a set at the start of ``room`` (open addressing); its last place, −1 when it is empty."""
    if low == high:
        return -1
    size = 1
    while size < 2 * (high - low):
        size *= 2
    room[:size] = -1
    for place in range(low, high):
        at = _slot(hidden[place], size - 1)
        while room[at] >= 0 and room[at] != hidden[place]:
            at = (at + 1) & (size - 1)
        room[at] = hidden[place]
    return size - 1


@njit(**OPTIONS)
def _is_hidden(room: Any, last: Any, item: Any) -> Any:
    if last < 0:
        return False
    at = _slot(item, last)
    while room[at] >= 0:
        if room[at] == item:
            return True
        at = (at + 1) & last
    return False


@njit(**FAST)
def rescore(
    queries: Any, ids: Any, vectors: Any, offsets: Any, hidden: Any, low: Any, high: Any, items: Any, scores: Any,
    lengths: Any, hits: Any,
) -> None:  # fmt: skip
    """items[b], scores[b]: the lengths[b] best of ids[b] by inner product, for rows ``low … high − 1``; below 0: none.

    What is hidden from b, hidden[offsets[b]:offsets[b + 1]], is passed over; hits[b] of it was among ids[b].
    """
    step = max(LINE_BYTES // vectors.itemsize, 1)
    room, width = _room(offsets, low, high), ids.shape[1]
    for b in range(low, high):
        last, size, gone = _remember(room, hidden, offsets[b], offsets[b + 1]), 0, 0
        for place in range(width):
            row, ahead = b, place + AHEAD
            if ahead >= width:
                row, ahead = b + 1, ahead - width
            if row < high and ahead < width and ids[row, ahead] >= 0:
                fetch_row(vectors, ids[row, ahead], step)
            item = ids[b, place]
            if item >= 0:
                if _is_hidden(room, last, item):
                    gone += 1
                else:
                    size = take_in(scores, items, b, size, product(queries, b, vectors, item), item)
        best_first(scores, items, b, size)
        lengths[b], hits[b] = size, gone


@njit(**OPTIONS)
def keep_best(
    ids: Any, found: Any, offsets: Any, hidden: Any, low: Any, high: Any, items: Any, scores: Any, lengths: Any,
    hits: Any,
) -> None:  # fmt: skip
    """As :func:`rescore` with the scores ``found``: in order already, but for equal ones."""
    room, keep = _room(offsets, low, high), items.shape[1]
    for b in range(low, high):
        last, size, gone = _remember(room, hidden, offsets[b], offsets[b + 1]), 0, 0
        for place in range(ids.shape[1]):
            item, score = ids[b, place], found[b, place]
            if item < 0:
                continue
            if _is_hidden(room, last, item):
                gone += 1
                continue
            if size == keep and not _worse(scores[b, keep - 1], items[b, keep - 1], score, item):
                continue
            at = min(size, keep - 1)
            while at > 0 and _worse(scores[b, at - 1], items[b, at - 1], score, item):
                scores[b, at], items[b, at] = scores[b, at - 1], items[b, at - 1]
                at -= 1
            scores[b, at], items[b, at] = score, item
            size = min(size + 1, keep)
        for empty in range(size, keep):
            scores[b, empty], items[b, empty] = F(-np.inf), -1
        lengths[b], hits[b] = size, gone


@njit(**OPTIONS)
def take_block(found: Any, best: Any, first: Any, items: Any, scores: Any, sizes: Any) -> None:
    """Offer found[b, i], the score of item ``first + i``, to row b's heap of the best; −∞ is never taken.

    best (B,V): the largest of every V-th score from each of the first V on. Where it is below the worst that is held,
    nobody looks at the scores themselves.
    """
    groups, keep = best.shape[1], items.shape[1]
    for b in range(found.shape[0]):
        size = sizes[b]
        for group in range(groups):
            if size == keep and best[b, group] < scores[b, 0]:
                continue
            for place in range(group, found.shape[1], groups):
                score = found[b, place]
                if score > F(-np.inf) and (size < keep or score >= scores[b, 0]):
                    size = take_in(scores, items, b, size, score, first + place)
        sizes[b] = size


@njit(**OPTIONS)
def all_best_first(items: Any, scores: Any, sizes: Any) -> None:
    """Every row's heap as a list, best first."""
    for b in range(len(sizes)):
        best_first(scores, items, b, sizes[b])
