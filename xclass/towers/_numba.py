"""What numba compiles for the towers. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

U = np.uint64  # a place without a sign: only such ones are known not to count from the end


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def unit_rows(vectors: Any, smallest: Any, unit: Any, lengths: Any) -> None:
    """unit_b = x_b / max(|x_b|, smallest); lengths_b is that divisor."""
    for b in range(len(vectors)):
        total = np.float32(0.0)
        for d in range(vectors.shape[1]):
            total += vectors[b, d] * vectors[b, d]
        length = max(np.sqrt(total), smallest)
        lengths[b] = length
        for d in range(vectors.shape[1]):
            unit[b, d] = vectors[b, d] / length


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def unit_rows_back(unit: Any, lengths: Any, smallest: Any, upstream: Any, gradient: Any) -> None:
    """gradient_b = (g_b − y_b ⟨y_b, g_b⟩) / |x_b|; without the second part where |x_b| ≤ smallest."""
    for b in range(len(unit)):
        y, g, out = unit[b], upstream[b], gradient[b]
        along, inverse = np.float32(0.0), np.float32(1.0) / lengths[b]
        for d in range(len(y)):
            along += y[d] * g[d]
        along = along * inverse if lengths[b] > smallest else np.float32(0.0)
        for d in range(len(y)):
            out[d] = g[d] * inverse - y[d] * along


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def add_up(low: Any, high: Any, rows: Any, positions: Any, offsets: Any, shares: Any, bags: Any) -> None:
    """Lists low … high−1: bag_b = Σ_j a_j x_j over the list's rows x_j."""
    for b in range(low, high):
        for d in range(rows.shape[1]):
            bags[b, d] = np.float32(0.0)
        for place in range(offsets[b], offsets[b + 1]):
            share, row = shares[place], positions[place]
            for d in range(rows.shape[1]):
                bags[b, d] += share * rows[row, d]


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def hand_back(low: Any, high: Any, upstream: Any, positions: Any, offsets: Any, shares: Any, gradient: Any) -> None:
    """Dimensions low … high−1 of the gradient of the rows: Σ over the lists that they are in of a_j · g_b."""
    for b in range(len(offsets) - 1):
        for place in range(offsets[b], offsets[b + 1]):
            share, row = shares[place], positions[place]
            for d in range(high - low):
                gradient[row, U(low) + U(d)] += share * upstream[b, U(low) + U(d)]
