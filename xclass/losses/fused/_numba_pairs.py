"""What numba compiles for the heads. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def pair_scores(query: Any, query_rows: Any, items: Any, item_rows: Any, scores: Any) -> None:
    """scores_p = ⟨query of p, item of p⟩."""
    for p in range(len(scores)):
        left, right, total = query_rows[p], item_rows[p], np.float32(0.0)
        for d in range(query.shape[1]):
            total += query[left, d] * items[right, d]
        scores[p] = total


@njit(nogil=True, cache=True, fastmath={"contract"})
def add_rows(target: Any, target_rows: Any, source: Any, source_rows: Any, factor: Any) -> None:
    """target[target_rows_i] += factor_i · source[source_rows_i], in order."""
    for i in range(len(target_rows)):
        left, right, by = target_rows[i], source_rows[i], factor[i]
        for d in range(target.shape[1]):
            target[left, d] += by * source[right, d]


MARK_BITS = 1 << 16
VALUES_PER_LINE = 8
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True)
def chains(candidates: Any, first: Any, following: Any) -> Any:
    """A hash table of the candidates, copies chained in rising order; returns a bit for every hash of a candidate.

    first: int32 (a power of two ≥ 2 K,), the first column of the item in each slot, −1 for none.
    following: int32 (K,), the next column with the same item, −1 for none.
    """
    marks = np.zeros(MARK_BITS // 8, np.uint8)
    first[:] = -1
    mask = len(first) - 1
    for column in range(len(candidates) - 1, -1, -1):
        item = candidates[column]
        marks[(item & (MARK_BITS - 1)) >> 3] |= np.uint8(1) << np.uint8(item & 7)
        slot = slot_of(item, candidates, first, mask)
        following[column] = first[slot]
        first[slot] = column
    return marks


@njit(nogil=True, cache=True)
def find_hits(
    offsets: Any, values: Any, rows: Any, candidates: Any, marks: Any, first: Any, following: Any, found: Any
) -> int:
    """(row, column) of every candidate that is in the row's list, rows and columns rising, each cell once.

    Fills ``found`` (2, room) and returns how many there are; more than ``room`` are counted and not written.
    """
    count, mask, room = 0, len(first) - 1, found.shape[1]
    starts, stops = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for b in range(len(rows)):
        starts[b], stops[b] = offsets[rows[b]], offsets[rows[b] + 1]
    fetched = 0
    for b in range(len(rows)):  # lists lie anywhere: asked for together, they come from memory together
        for place in range(starts[b], stops[b], VALUES_PER_LINE):
            fetched ^= values[place]
    for b in range(len(rows)):
        begin = count
        for place in range(starts[b], stops[b]):
            item = values[place]
            if not (marks[(item & (MARK_BITS - 1)) >> 3] >> (item & 7)) & 1:
                continue
            column = first[slot_of(item, candidates, first, mask)]
            while column >= 0:
                if count < room:
                    found[0, count], found[1, count] = b, column
                count += 1
                column = following[column]
        if begin + 1 < count <= room:
            count = begin + sorted_distinct(found[1, begin:count])
    return count if fetched >= 0 else -1  # item numbers are not negative


@njit(nogil=True, cache=True)
def sorted_distinct(values: Any) -> int:
    """Sorts in place, the different ones first; returns how many those are."""
    if len(values) > 32:
        values.sort()
    else:
        for place in range(1, len(values)):
            value, to = values[place], place
            while to > 0 and values[to - 1] > value:
                values[to] = values[to - 1]
                to -= 1
            values[to] = value
    kept = 1
    for place in range(1, len(values)):
        if values[place] != values[place - 1]:
            values[kept] = values[place]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def slot_of(item: Any, candidates: Any, first: Any, mask: Any) -> Any:
    """The slot of an item, or the free one where it would go."""
    slot = np.int64((np.uint64(item) * GOLDEN) >> np.uint64(20)) & mask
    while first[slot] >= 0 and candidates[first[slot]] != item:
        slot = (slot + 1) & mask
    return slot


@njit(nogil=True, cache=True)
def own_hits(offsets: Any, values: Any, rows: Any, candidates: Any, found: Any) -> int:
    """(row, column) of every candidate, (B, K), that is −1 or in its own row's list; otherwise as :func:`find_hits`."""
    count, room, held = 0, found.shape[1], np.empty(1, np.int64)
    for b in range(len(rows)):
        start, size = offsets[rows[b]], offsets[rows[b] + 1] - offsets[rows[b]]
        if size > len(held):
            held = np.empty(2 * size, np.int64)
        for place in range(size):
            held[place] = values[start + place]
        size = sorted_distinct(held[:size]) if size > 1 else size
        for column in range(candidates.shape[1]):
            if is_hit(candidates[b, column], held, size):
                if count < room:
                    found[0, count], found[1, count] = b, column
                count += 1
    return count


@njit(nogil=True, cache=True)
def is_hit(item: Any, held: Any, size: Any) -> bool:
    """Whether the item is −1 or among the first ``size`` of those held, which rise."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if held[middle] < item:
            low = middle + 1
        else:
            high = middle
    return item < 0 or (low < size and held[low] == item)
