"""What numba compiles for beam search. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.runtime.jit_bfloat16 import FAST, F


@njit(inline="always")
def _choices(query: Any, b: Any, rows: Any, first: Any, count: Any, logits: Any) -> Any:
    """Logits of the choices of a node, the first 0; log of the sum of their exponentials."""
    top = F(0.0)
    logits[0] = F(0.0)
    for c in range(1, count):
        dot = F(0.0)
        for d in range(query.shape[1]):
            dot += query[b, d] * rows[first + c - 1, d]
        logits[c] = dot
        top = dot if dot > top else top
    total = F(0.0)
    for c in range(count):
        total += np.exp(logits[c] - top)
    return top + np.log(total)


@njit(inline="always")
def _holds(keys: Any, key: Any) -> Any:
    """Whether a sorted array has a number."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low < len(keys) and keys[low] == key


@njit(inline="always")
def _insert(leaves: Any, scores: Any, b: Any, leaf: Any, score: Any) -> None:
    """Into a row whose scores fall."""
    place = scores.shape[1] - 1
    while place > 0 and scores[b, place - 1] < score:
        scores[b, place], leaves[b, place] = scores[b, place - 1], leaves[b, place - 1]
        place -= 1
    scores[b, place], leaves[b, place] = score, leaf


@njit(**FAST)
def search(  # noqa: C901  one loop over what lies in the cache
    low: Any, high: Any, width: Any, arity: Any, num_leaves: Any, query: Any, numbers: Any, rows: Any, starts: Any,
    children: Any, allowed: Any, keys: Any, leaves: Any, scores: Any, lost: Any,
) -> None:  # fmt: skip
    """Queries low … high−1 of :meth:`xclass.heads.tree.beam_search.Beam.search`. Arrays of no numbers stand for
    None."""
    nodes, above = np.empty(width, np.int64), np.empty(width, np.float32)
    below, found = np.empty(width * arity, np.int64), np.empty(width * arity, np.float32)
    logits = np.empty(arity, np.float32)
    for b in range(low, high):
        nodes[0], above[0], held = num_leaves, F(0.0), 1
        while held > 0:
            made = 0
            for w in range(held):
                inner = nodes[w] - num_leaves
                start = np.int64(starts[inner])
                count = np.int64(starts[inner + 1]) - start
                log_sum = _choices(query, b, rows, start - inner, count, logits)
                for c in range(count):
                    child, score = np.int64(children[start + c]), above[w] + logits[c] - log_sum
                    if len(allowed) > 0 and not allowed[child]:
                        continue
                    if child >= num_leaves:
                        below[made], found[made] = child, score
                        made += 1
                    elif score > scores[b, -1] and not _holds(keys, numbers[b] * num_leaves + child):
                        _insert(leaves, scores, b, child, score)
            kept = 0
            for i in range(made):
                if found[i] >= scores[b, -1]:
                    below[kept], found[kept] = below[i], found[i]
                    kept += 1
            held = min(kept, width)
            if kept <= width:
                for i in range(kept):
                    nodes[i], above[i] = below[i], found[i]
            else:
                order = np.argsort(-found[:kept])
                for i in range(width):
                    nodes[i], above[i] = below[order[i]], found[order[i]]
                lost[b] = max(lost[b], found[order[width]])
