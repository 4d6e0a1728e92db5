"""What numba compiles for the samplers. Imported only where numba is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

MIX = np.uint64(0x9E3779B97F4A7C15)
BLOCK = 256


@njit(nogil=True, cache=True)
def first_occurrences(ids: Any, values: Any, places: Any, table: Any) -> int:
    """Each value and where it first occurs, in order, until ``values`` is full; returns how many.

    ``table``: int32 (2^n,) zeros, more than twice as many as ``values``. Open addressing from the top bits of a
    multiplicative hash; a slot holds 1 + the place in ``values``, so that searches stay in what was found.
    """
    mask, shift = len(table) - 1, 64
    while (1 << (64 - shift)) < len(table):
        shift -= 1
    found = 0
    for i in range(len(ids)):
        if found == len(values):
            break
        value = ids[i]
        slot = np.int64((np.uint64(value) * MIX) >> np.uint64(shift))
        while table[slot] != 0 and values[table[slot] - 1] != value:
            slot = (slot + 1) & mask
        if table[slot] == 0:
            values[found] = value
            places[found] = i
            found += 1
            table[slot] = found
    return found


@njit(nogil=True, cache=True)
def count_labels(counts: Any, number: Any, mass: Any, labels: Any, change: int) -> None:
    """Counts and how many items have each of them, label by label; an empty ``number`` is left alone.

    In short blocks: first the counts, whose loads from far apart then overlap, then the bins, which wait for them.
    """
    before = np.empty(BLOCK, np.int64)
    for start in range(0, len(labels), BLOCK):
        block = labels[start : start + BLOCK]
        for i in range(len(block)):
            old = counts[block[i]]
            before[i] = old
            counts[block[i]] = old + change
        if len(number) == 0:
            continue
        for i in range(len(block)):
            old, new = before[i], before[i] + change
            low = np.float32(old).view(np.int32) >> 16
            high = np.float32(new).view(np.int32) >> 16
            number[low] -= 1
            mass[low] -= old
            number[high] += 1
            mass[high] += new


@njit(nogil=True, cache=True)
def sweep(lacking: Any, given: Any, filler: Any, reached: Any) -> None:
    """Two rising rows: for each light item the heavy one that fills it, for each heavy one where it stops."""
    j, before, last = 0, 0.0, len(given) - 1
    for i in range(len(lacking)):
        while j < last and given[j] <= before:
            j += 1
        filler[i] = j
        before = lacking[i]
    i, last = 0, len(lacking) - 1
    for j in range(len(given)):
        while i < last and lacking[i] < given[j]:
            i += 1
        reached[j] = i
