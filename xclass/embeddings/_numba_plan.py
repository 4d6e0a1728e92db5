"""What numba compiles for the plan of a step. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

DIGIT_BITS = 11


@njit(nogil=True, cache=True)
def distinct(ids: Any, id_bits: Any, unique: Any, positions: Any) -> int:
    """The distinct ids, rising, and where each id stands among them; returns how many there are.

    A radix sort of (id, place) packed into one number, over the bits of the id alone.
    """
    place_bits = 1
    while (1 << place_bits) < len(ids):
        place_bits += 1
    keys, other = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    for place in range(len(ids)):
        keys[place] = (ids[place] << place_bits) | place
    passes = (id_bits + DIGIT_BITS - 1) // DIGIT_BITS
    digit_bits = (id_bits + passes - 1) // passes
    starts, mask = np.empty(1 << digit_bits, np.int64), (1 << digit_bits) - 1
    for number in range(passes):
        shift = place_bits + number * digit_bits
        starts[:] = 0
        for key in keys:
            starts[(key >> shift) & mask] += 1
        total = 0
        for digit in range(len(starts)):
            starts[digit], total = total, total + starts[digit]
        for key in keys:
            digit = (key >> shift) & mask
            other[starts[digit]] = key
            starts[digit] += 1
        keys, other = other, keys
    count, last, place_mask = 0, np.int64(-1), (1 << place_bits) - 1
    for key in keys:
        item = key >> place_bits
        if item != last:
            unique[count] = last = item
            count += 1
        positions[key & place_mask] = count - 1
    return count


@njit(nogil=True, cache=True)
def distinct_dense(ids: Any, number: Any, unique: Any, positions: Any) -> int:
    """The same for ids below len(number): a place for each of them instead of a sort.

    number: int32, zeros. unique: room for one more than there can be.
    """
    for place in range(len(ids)):
        number[ids[place]] = 1
    count = 0
    for item in range(len(number)):  # without a branch: what is not asked for is written over by the next that is
        unique[count] = item
        there = number[item]
        number[item] = count
        count += there
    for place in range(len(ids)):
        positions[place] = number[ids[place]]
    return count
