"""What numba compiles for routing rows. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def by_owner(ids: Any, holders: Any, counts: Any, rows: Any, order: Any, places: Any) -> None:
    """Row i lies on rank holders[i mod W] as its row i ÷ W: rows by rank, each rank's in the order of ``ids``.

    Args:
        ids: (U,). holders: (W,). counts: (R,) zeros, become how many lie on each rank.
        rows, order, places: (U,) filled: their numbers there, where each stood, and where each went.
    """
    width, owners = len(holders), np.empty(len(ids), np.int32)
    for place in range(len(ids)):
        row = ids[place] // width
        places[place], owners[place] = row, holders[ids[place] - row * width]
        counts[owners[place]] += 1
    starts = np.cumsum(counts) - counts
    for place in range(len(ids)):
        goes = starts[owners[place]]
        starts[owners[place]] += 1
        rows[goes], order[goes], places[place] = places[place], place, goes
