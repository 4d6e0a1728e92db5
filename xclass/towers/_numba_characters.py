"""What numba compiles for convolutions over characters. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.runtime.jit_bfloat16 import OPTIONS


@njit(**OPTIONS)
def pool(low: Any, high: Any, offsets: Any, symbols: Any, table: Any, pooled: Any, where: Any) -> None:
    """Texts low … high−1: pooled[u, f] = max_t Σ_j table[j, c_{t+j}, f], and the first t that has it."""
    width, filters = table.shape[0], table.shape[2]
    sums = np.empty(filters, np.float32)
    for u in range(low, high):
        first, length = offsets[u], offsets[u + 1] - offsets[u]
        best, place = pooled[u], where[u]
        for t in range(max(length - width + 1, 1)):
            row = table[0, symbols[first + t]]
            for f in range(filters):
                sums[f] = row[f]
            for j in range(1, min(width, length - t)):
                row = table[j, symbols[first + t + j]]
                for f in range(filters):
                    sums[f] += row[f]
            for f in range(filters):
                larger = t == 0 or sums[f] > best[f]
                best[f] = sums[f] if larger else best[f]
                place[f] = np.int32(t) if larger else place[f]


@njit(**OPTIONS)
def push(low: Any, high: Any, offsets: Any, symbols: Any, where: Any, upstream: Any, gradient: Any) -> None:
    """Filters low … high−1: gradient[j, c_{t+j}, f] += upstream[u, f] at each text's place t."""
    width = gradient.shape[0]
    for u in range(len(offsets) - 1):
        first, length = offsets[u], offsets[u + 1] - offsets[u]
        for j in range(min(width, length)):
            for f in range(low, high):
                place = where[u, f] + j
                if place < length:
                    gradient[j, symbols[first + place], f] += upstream[u, f]
