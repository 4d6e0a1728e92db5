"""What numba compiles for the blocked pass. Imported only where numba is installed, by :mod:`xclass.heads.pairs`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def pair_scores(query: Any, query_rows: Any, items: Any, item_rows: Any, scores: Any) -> None:
    """scores_p = ⟨query of p, item of p⟩."""
    for p in range(len(scores)):
        left, right = query[query_rows[p]], items[item_rows[p]]
        total = np.float32(0.0)
        for d in range(len(left)):
            total += left[d] * right[d]
        scores[p] = total


@njit(nogil=True, cache=True, fastmath={"contract"})
def add_rows(target: Any, target_rows: Any, source: Any, source_rows: Any, factor: Any) -> None:
    """target[target_rows_i] += factor_i · source[source_rows_i], in order."""
    for i in range(len(target_rows)):
        left, right, by = target[target_rows[i]], source[source_rows[i]], factor[i]
        for d in range(len(left)):
            left[d] += by * right[d]
