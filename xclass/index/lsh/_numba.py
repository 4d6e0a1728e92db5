"""What numba compiles for hash tables: sorting items into buckets, and a query's way through them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.index._numba import best_first, product, take_in
from xclass.runtime.jit_bfloat16 import FAST, LINE_BYTES, OPTIONS, F, fetch, fetch_row

WAITING = 512
AHEAD = 12


@njit(**OPTIONS)
def sort_into_buckets(keys: Any, starts: Any, order: Any) -> None:
    """Counting sort: order lists the items by key, then by number; starts[key] is where a key's items begin."""
    starts[:] = 0
    for item in range(len(keys)):
        starts[keys[item] + 1] += 1
    for key in range(len(starts) - 1):
        starts[key + 1] += starts[key]
    for item in range(len(keys)):
        key = keys[item]
        order[starts[key]] = item
        starts[key] += 1
    for key in range(len(starts) - 1, 0, -1):
        starts[key] = starts[key - 1]
    starts[0] = 0


@njit(**OPTIONS)
def cheapest_codes(values: Any, costs: Any, row: Any, base: Any, codes: Any, sums: Any) -> Any:
    """codes[0, :n]: the n cheapest codes of a row of digits, cheapest first; n is returned.

    Digit by digit: the list so far, once for each value of the digit, is merged; of equal sums the cheaper value first.
    Row 1 of ``codes`` and ``sums`` is room to work in.
    """
    most, kinds = codes.shape[1], values.shape[2]
    at = np.zeros(kinds, np.int64)
    codes[0, 0], sums[0, 0], size = 0, F(0.0), 1
    for digit in range(values.shape[1]):
        at[:] = 0
        taken = 0
        while taken < most:
            best, least = -1, F(np.inf)
            for kind in range(kinds):
                if at[kind] < size:
                    total = F(sums[0, at[kind]] + costs[row, digit, kind])
                    if best < 0 or total < least:
                        best, least = kind, total
            if best < 0:
                break
            codes[1, taken] = codes[0, at[best]] * base + values[row, digit, best]
            sums[1, taken] = least
            at[best] += 1
            taken += 1
        size = taken
        codes[0, :size], sums[0, :size] = codes[1, :size], sums[1, :size]
    return size


@njit(inline="always")
def _score_waiting(
    queries: Any, b: Any, vectors: Any, waiting: Any, count: Any, scores: Any, items: Any, size: Any
) -> Any:
    step = max(LINE_BYTES // vectors.itemsize, 1)
    for place in range(min(AHEAD, count)):
        fetch_row(vectors, waiting[place], step)
    for place in range(count):
        if place + AHEAD < count:
            fetch_row(vectors, waiting[place + AHEAD], step)
        item = waiting[place]
        size = take_in(scores, items, b, size, product(queries, b, vectors, item), item)
    return size


@njit(**OPTIONS)
def _look_up(order: Any, starts: Any, table: Any, shift: Any, codes: Any, count: Any, bounds: Any) -> None:
    """bounds[i]: where the bucket of codes[0, i] begins and ends; its items are asked for."""
    for probe in range(count):
        fetch(starts, table, shift + codes[0, probe])
    for probe in range(count):
        key = shift + codes[0, probe]
        bounds[probe, 0], bounds[probe, 1] = starts[table, key], starts[table, key + 1]
        if bounds[probe, 0] < bounds[probe, 1]:
            fetch(order, table, bounds[probe, 0])


@njit(**OPTIONS)
def _next_zero(zero: Any, votes: Any, seen: Any) -> Any:
    """From where the next query counts; all counts start again when a byte holds no more."""
    if zero + 2 * votes <= 255:
        return zero + votes
    seen[:] = 0
    return 0


@njit(**OPTIONS)
def _settled(scores: Any, b: Any, size: Any, most: Any) -> Any:
    """Whether row b's list is full and no score up to ``most`` gets into it."""
    return size == scores.shape[1] and most < scores[b, 0]


@njit(**OPTIONS)
def _elected(seen: Any, item: Any, zero: Any, votes: Any) -> Any:
    """Count one more vote; whether it is the one that was needed."""
    vote = max(seen[item], zero) + 1
    if vote > zero + votes:
        return False
    seen[item] = vote
    return vote == zero + votes


@njit(**FAST)
def search(
    queries: Any, norms: Any, values: Any, costs: Any, base: Any, probes: Any, votes: Any, order: Any, starts: Any,
    caps: Any, vectors: Any, low: Any, high: Any, seen: Any, items: Any, scores: Any, scored: Any,
) -> None:  # fmt: skip
    """items[b], scores[b]: the best of the items that ``votes`` tables or more hold in the buckets of ``probes`` codes.

    Ranges of norms come in falling order, caps[r] the largest norm of one; a range whose cap can't beat the worst of a
    full list ends the search. seen (N,) uint8 counts: a query counts from where the one before it could have ended,
    so that zeros are needed at the start only. scored[b]: how many items were scored.
    """
    tables, num_codes = order.shape[0], (starts.shape[1] - 1) // len(caps)
    codes, sums = np.empty((tables, 2, probes), np.int64), np.empty((2, probes), np.float32)
    waiting, counts = np.empty(WAITING, np.int64), np.zeros(tables, np.int64)
    bounds, zero = np.empty((probes, 2), np.int64), -votes
    for b in range(low, high):
        zero = _next_zero(zero, votes, seen)
        size, count, total = 0, 0, 0
        for table in range(tables):
            counts[table] = cheapest_codes(values, costs, b * tables + table, base, codes[table], sums)
        for r in range(len(caps)):
            if _settled(scores, b, size, caps[r] * norms[b]):
                break
            for table in range(tables):
                _look_up(order, starts, table, r * num_codes, codes[table], counts[table], bounds)
                for probe in range(counts[table]):
                    for place in range(bounds[probe, 0], bounds[probe, 1]):
                        item = order[table, place]
                        if _elected(seen, item, zero, votes):
                            waiting[count] = item
                            count += 1
                            if count == WAITING:
                                size = _score_waiting(queries, b, vectors, waiting, count, scores, items, size)
                                total, count = total + count, 0
            size = _score_waiting(queries, b, vectors, waiting, count, scores, items, size)
            total, count = total + count, 0
        scored[b] = total
        best_first(scores, items, b, size)
