"""What numba compiles for the loader. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

SPREAD = np.uint64(0x9E3779B97F4A7C15)
AHEAD = 64


@njit(nogil=True, cache=True)
def take_lists(offsets: Any, values: Any, rows: Any, without: Any, bounds: Any, taken: Any) -> None:
    """taken[bounds_b … bounds_{b+1}] = list rows_b, less the value at place without_b (−1: all of it)."""
    for b in range(len(rows)):
        to = bounds[b]
        for place in range(offsets[rows[b]], offsets[rows[b] + 1]):
            if place != without[b]:
                taken[to] = values[place]
                to += 1


@njit(nogil=True, cache=True)
def look_up_small(keys: Any, table: Any, count: int, grow: bool, numbers: Any) -> Any:
    """The same as :func:`look_up` where ``table`` holds number + 1 at the key's own place; returns the new count."""
    for place in range(len(keys)):
        key = keys[place]
        if table[key] == 0 and grow:
            count += 1
            table[key] = count
        numbers[place] = table[key] - 1
    return count


@njit(nogil=True, cache=True)
def look_up(keys: Any, start: int, slots: Any, shift: Any, count: int, most: int, grow: bool, numbers: Any) -> Any:
    """numbers[i] of every key from ``start`` on; an unknown one gets −1, or with ``grow`` the next number.

    ``slots`` (2^n, 2) holds key and number + 1 (0: free), at the first free place from the top bits of a multiplicative
    hash on. Returns (where it stopped, count): it stops before the key that would be number ``most``.
    """
    mask = len(slots) - 1
    held, found = np.empty(AHEAD, dtype=np.int64), np.empty(AHEAD, dtype=np.int64)
    for first in range(start, len(keys), AHEAD):
        size = min(AHEAD, len(keys) - first)
        for j in range(size):  # without a branch, so that the memory is asked for many slots at a time
            slot = np.int64((np.uint64(keys[first + j]) * SPREAD) >> shift)
            held[j], found[j] = slots[slot, 0], slots[slot, 1]
        for j in range(size):
            key = keys[first + j]
            if held[j] == key and found[j] != 0:
                numbers[first + j] = found[j] - 1
                continue
            slot = np.int64((np.uint64(key) * SPREAD) >> shift)
            while slots[slot, 1] != 0 and slots[slot, 0] != key:
                slot = (slot + 1) & mask
            if slots[slot, 1] == 0 and grow:
                if count == most:
                    return first + j, count
                slots[slot, 0] = key
                count += 1
                slots[slot, 1] = count
            numbers[first + j] = slots[slot, 1] - 1
    return len(keys), count


@njit(nogil=True, cache=True)
def mark_repeats(offsets: Any, ids: Any, keep: Any) -> int:
    """``keep`` becomes false where a list has the id at an earlier place; returns how many those are.

    A table of stamps, twice as long as the longest list: nothing is cleared between lists.
    """
    longest = 1
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    bits = 1
    while (1 << bits) < 2 * longest:
        bits += 1
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    held, stamps = np.zeros(1 << bits, dtype=np.int64), np.full(1 << bits, -1, dtype=np.int64)
    repeats = 0
    for row in range(len(offsets) - 1):
        for place in range(offsets[row], offsets[row + 1]):
            slot = np.int64((np.uint64(ids[place]) * SPREAD) >> shift)
            while stamps[slot] == row and held[slot] != ids[place]:
                slot = (slot + 1) & mask
            if stamps[slot] == row:
                keep[place] = False
                repeats += 1
            else:
                stamps[slot], held[slot] = row, ids[place]
    return repeats
