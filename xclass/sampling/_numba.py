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

    ``table``: int32 (2^n,) zeros, at least twice as many as ``values``. Open addressing from the top bits of a
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
def pick(columns: Any, u: Any, table: Any) -> None:
    """Each column becomes one of the two items of its cell."""
    for i in range(len(columns)):
        cell = table[np.uint64(columns[i])]
        share = np.int32(cell >> 32).view(np.float32)
        columns[i] = columns[i] if u[i] < share else cell & 0xFFFFFFFF


@njit(nogil=True, cache=True)
def logged(entries: Any, before: Any, log: Any, first: int) -> None:
    """Entries from ``first`` on are places of the log, and ``before`` gets the label there."""
    for i in range(len(entries)):
        if entries[i] >= first:
            before[i] = log[np.uint64(entries[i] - first)]


@njit(nogil=True, cache=True)
def count_labels(counts: Any, number: Any, mass: Any, labels: Any, change: int) -> None:
    """Counts and how many items have each of them, label by label; an empty ``number`` is left alone.

    In short blocks: first the counts, whose loads from far apart then overlap, then the bins, which wait for them.
    """
    if len(number) == 0:
        for label in labels:
            counts[np.uint64(label)] += change
        return
    before = np.empty(BLOCK, np.int64)
    for start in range(0, len(labels), BLOCK):
        block = labels[start : start + BLOCK]
        for i in range(len(block)):
            label = np.uint64(block[i])
            before[i] = counts[label]
            counts[label] += change
        for i in range(len(block)):
            old, new = before[i], before[i] + change
            low = np.float32(old).view(np.int32) >> 16
            high = np.float32(new).view(np.int32) >> 16
            number[low] -= 1
            mass[low] -= old
            number[high] += 1
            mass[high] += new


@njit(nogil=True, cache=True)
def next_heavy(weights: Any, scale: float, start: int) -> int:
    """The first place from ``start`` on whose scaled weight is above 1; −1 for none."""
    for i in range(start, len(weights)):
        if weights[i] * scale > 1.0:
            return i
    return -1


@njit(nogil=True, cache=True)
def packed_cell(share: float, other: int) -> Any:
    """The bits of the share as float32 above, the other item below."""
    return (np.int64(np.float32(share).view(np.int32)) << 32) | other


@njit(nogil=True, cache=True)
def alias_table(weights: Any, scale: float, table: Any) -> None:
    """The sweep of :func:`xclass.sampling.distributions.fixed.alias_table` in one walk, with the same sums in the same
    order."""
    heavy = next_heavy(weights, scale, 0)
    if heavy < 0:
        for i in range(len(weights)):
            table[i] = packed_cell(1.0, i)
        return
    following = next_heavy(weights, scale, heavy + 1)
    given, lacking = weights[heavy] * scale - 1.0, 0.0
    open_end = True
    for i in range(len(weights)):
        scaled = weights[i] * scale
        if scaled > 1.0:
            continue
        table[i] = packed_cell(scaled, heavy)
        lacking += 1.0 - scaled
        while open_end and given <= lacking:
            if following < 0:
                table[heavy] = packed_cell(1.0, heavy)
                open_end = False
            else:
                table[heavy] = packed_cell(min(max(1.0 + given - lacking, 0.0), 1.0), following)
                heavy, following = following, next_heavy(weights, scale, following + 1)
                given += weights[heavy] * scale - 1.0
    while open_end:
        table[heavy] = packed_cell(1.0, heavy if following < 0 else following)
        open_end = following >= 0
        if open_end:
            heavy, following = following, next_heavy(weights, scale, following + 1)


@njit(nogil=True, cache=True)
def count_pairs(contexts: Any, items: Any, keys: Any, totals: Any, starts: Any, found: Any, num_items: int) -> None:
    """found_i: how often (context_i, item_i) was counted: a search among the pairs of its context."""
    for i in range(len(items)):
        found[i] = 0
        if contexts[i] < 0:
            continue
        low, high = starts[contexts[i]], starts[contexts[i] + 1]
        end, wanted = high, contexts[i] * num_items + items[i]
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        if low < end and keys[low] == wanted:
            found[i] = totals[low] - (totals[low - 1] if low > 0 else 0)
