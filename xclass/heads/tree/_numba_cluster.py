"""What numba compiles for clusters by halving. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.runtime.jit_bfloat16 import FAST, LINE_BYTES, OPTIONS, F, fetch_row

AHEAD = 8


@njit(inline="always")
def _lean(unit: Any, item: Any, lean: Any) -> Any:
    total = F(0.0)
    for d in range(len(lean)):
        total += unit[item, d] * lean[d]
    return total


@njit(inline="always")
def _score(unit: Any, items: Any, lean: Any, scores: Any) -> None:
    """scores[i] = ⟨unit[items[i]], lean⟩."""
    step = LINE_BYTES // unit.itemsize
    for i in range(len(items)):
        if i + AHEAD < len(items):
            fetch_row(unit, items[i + AHEAD], step)
        scores[i] = _lean(unit, items[i], lean)


@njit(**OPTIONS)
def _add_up(unit: Any, items: Any, sums: Any) -> None:
    """The direction of the sum of the items' rows."""
    step = LINE_BYTES // unit.itemsize
    sums[:] = F(0.0)
    for i in range(len(items)):
        if i + AHEAD < len(items):
            fetch_row(unit, items[i + AHEAD], step)
        for d in range(len(sums)):
            sums[d] += unit[items[i], d]
    length = F(0.0)
    for d in range(len(sums)):
        length += sums[d] * sums[d]
    length = max(np.sqrt(length), F(1e-12))
    for d in range(len(sums)):
        sums[d] /= length


@njit(**OPTIONS)
def _divide(items: Any, scores: Any, first: Any, room: Any) -> Any:
    """The ``first`` items with the largest scores (of equal ones the earlier) before the others, in their order.

    Whether anything moved.
    """
    size = len(items)
    bound = np.partition(scores, size - first)[size - first]
    spare = first
    for i in range(size):
        spare -= scores[i] > bound
    front, back, moved = 0, first, False
    for i in range(size):
        chosen = scores[i] > bound
        if scores[i] == bound and spare > 0:
            chosen, spare = True, spare - 1
        moved = moved or chosen != (i < first)
        if chosen:
            room[front] = items[i]
            front += 1
        else:
            room[back] = items[i]
            back += 1
    items[:] = room[:size]
    return moved


@njit(**FAST)
def halve(order: Any, unit: Any, low: Any, cut: Any, high: Any, one: Any, other: Any, rounds: Any) -> None:
    """Each range low … high−1 of ``order`` by 2-means from the rows at places ``one`` and ``other``: see clustering."""
    longest = 0
    for r in range(len(low)):
        longest = max(longest, high[r] - low[r])
    room, scores, dim = np.empty(longest, order.dtype), np.empty(longest, np.float32), unit.shape[1]
    lean, second = np.empty(dim, np.float32), np.empty(dim, np.float32)
    for r in range(len(low)):
        items, first = order[low[r] : high[r]], cut[r] - low[r]
        for d in range(dim):
            lean[d] = unit[order[one[r]], d] - unit[order[other[r]], d]
        for turn in range(rounds):
            _score(unit, items, lean, scores)
            moved = _divide(items, scores[: len(items)], first, room)
            if turn and not moved:  # the first turn's centres were no means
                break
            _add_up(unit, items[:first], lean)
            _add_up(unit, items[first:], second)
            for d in range(dim):
                lean[d] -= second[d]
