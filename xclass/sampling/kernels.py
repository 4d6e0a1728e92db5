"""What numba compiles for the samplers. Imported only where numba is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

MIX = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True)
def first_occurrences(ids: Any, places: Any, bits: int) -> int:
    """Where each value first occurs, in order, until ``places`` is full; returns how many.

    A table of 2^bits slots, open addressing from the top bits of a multiplicative hash.
    """
    mask = np.int64((1 << bits) - 1)
    table = np.full(1 << bits, -1, np.int64)
    found = 0
    for i in range(len(ids)):
        if found == len(places):
            break
        value = ids[i]
        slot = np.int64((np.uint64(value) * MIX) >> np.uint64(64 - bits))
        while table[slot] != -1 and ids[table[slot]] != value:
            slot = (slot + 1) & mask
        if table[slot] == -1:
            table[slot] = i
            places[found] = i
            found += 1
    return found


@njit(nogil=True, cache=True)
def count_labels(counts: Any, number: Any, mass: Any, labels: Any, change: int) -> None:
    """Counts and how many items have each of them, label by label."""
    for label in labels:
        old = counts[label]
        new = old + change
        counts[label] = new
        before = np.float32(old).view(np.int32) >> 16
        after = np.float32(new).view(np.int32) >> 16
        number[before] -= 1
        mass[before] -= old
        number[after] += 1
        mass[after] += new


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
