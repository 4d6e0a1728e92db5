"""What numba compiles for the metrics. Imported only where numba is installed; plain forms stand where it is called."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
FIRST, SECOND, THIRD = np.int64(-7046029254386353131), np.int64(-4658895280553007687), np.int64(-7723592293110705685)


@njit(inline="always")
def _lower_bound(values, low, high, wanted):  # type: ignore[no-untyped-def]
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**OPTIONS)
def find_hits(offsets, ids, scores, truth_offsets, truth_values, rows, ranks, items):  # type: ignore[no-untyped-def]
    """Rows, ranks and items of the recommended positives; their number, −1 where a list recommends one twice.

    ``truth_values`` rise within a query. In a group of equal scores the positives take the last places.
    """
    found = 0
    taken = np.zeros(len(truth_values), dtype=np.bool_)
    for row in range(len(offsets) - 1):
        low, high = truth_offsets[row], truth_offsets[row + 1]
        start, end = offsets[row], offsets[row + 1]
        if low == high or start == end:
            continue
        first = found
        for place in range(start, end):
            if place > start and scores[place] != scores[place - 1]:
                for other in range(first, found):
                    ranks[other] = place - start - found + other + 1
                first = found
            item = ids[place]
            left = _lower_bound(truth_values, low, high, item)
            if left < high and truth_values[left] == item:
                if taken[left]:
                    return -1
                taken[left] = True
                rows[found], items[found] = row, item
                found += 1
        for other in range(first, found):
            ranks[other] = end - start - found + other + 1
    return found


@njit(**OPTIONS)
def _mix(value):  # type: ignore[no-untyped-def]
    value = value * FIRST
    value = (value ^ ((value >> 30) & np.int64(0x3FFFFFFFF))) * SECOND
    value = (value ^ ((value >> 27) & np.int64(0x1FFFFFFFFF))) * THIRD
    return value ^ ((value >> 31) & np.int64(0x1FFFFFFFF))


@njit(**OPTIONS)
def count_lists(offsets, ids, cut_offs, times, fingerprints):  # type: ignore[no-untyped-def]
    """Add every place to ``times[item, c]``, c the first cut-off that reaches it; hash every list at every cut-off."""
    last = len(cut_offs)
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        place, total = start, np.int64(0)
        for c in range(last):
            stop = min(end, start + cut_offs[c])
            while place < stop:
                times[ids[place], c] += 1
                total += _mix(_mix(ids[place]) + (place - start + 1))
                place += 1
            fingerprints[c, row] = total
