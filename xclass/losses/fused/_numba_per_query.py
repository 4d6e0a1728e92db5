"""What numba compiles for candidates of each row's own. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.losses.fused._numba_rows import add_to, score
from xclass.runtime.jit_bfloat16 import FAST

U = np.uint64  # a place without a sign: only such ones are known not to count from the end


@njit(**FAST)
def scores(low: Any, high: Any, query: Any, items: Any, columns: Any, cells: Any) -> None:
    """Rows low … high−1: cell_rj = ⟨query_r, item columns_rj⟩."""
    for r in range(low, high):
        for j in range(columns.shape[1]):
            cells[r, j] = score(query, r, items, columns[r, j])


@njit(**FAST)
def give_queries(low: Any, high: Any, scale: Any, items: Any, columns: Any, cells: Any, out: Any) -> None:
    """Rows low … high−1: cell_rj becomes scale_r · cell_rj, and out_r += Σ_j cell_rj · item columns_rj."""
    for r in range(low, high):
        for j in range(columns.shape[1]):
            cells[r, j] *= scale[r]
            add_to(out, r, items, columns[r, j], cells[r, j])


@njit(**FAST)
def give_items(
    low: Any, high: Any, query: Any, columns: Any, cells: Any, offsets: Any, pos_rows: Any, pos_grad: Any, gradient: Any
) -> None:
    """Dimensions low … high−1, row by row: gradient of item columns_rj += cell_rj · query_r, and of its positives."""
    for r in range(len(columns)):
        for j in range(columns.shape[1]):
            item, factor = columns[r, j], cells[r, j]
            for d in range(high - low):
                gradient[item, U(low) + U(d)] += factor * query[r, U(low) + U(d)]
        for p in range(offsets[r], offsets[r + 1]):
            item, factor = pos_rows[p], pos_grad[p]
            for d in range(high - low):
                gradient[item, U(low) + U(d)] += factor * query[r, U(low) + U(d)]
