"""What numba compiles for the loader. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

from numba import njit


@njit(nogil=True, cache=True)
def take_lists(offsets: Any, values: Any, rows: Any, without: Any, bounds: Any, taken: Any) -> None:
    """taken[bounds_b … bounds_{b+1}] = list rows_b, less the value at place without_b (−1: all of it)."""
    for b in range(len(rows)):
        to = bounds[b]
        for place in range(offsets[rows[b]], offsets[rows[b] + 1]):
            if place != without[b]:
                taken[to] = values[place]
                to += 1
