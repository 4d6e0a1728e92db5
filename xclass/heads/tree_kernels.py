"""What numba compiles for trees. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.cells import FAST, OPTIONS, F
from xclass.heads import trees

merge = njit(**OPTIONS)(trees.merge)


@njit(**OPTIONS)
def lengths(leaves: Any, num_leaves: Any, parent: Any, offsets: Any) -> None:
    """Running totals of the lengths of the paths."""
    for p in range(len(leaves)):
        above, steps = parent[leaves[p]], 1
        while above > 0:
            above = parent[num_leaves + above]
            steps += 1
        offsets[p + 1] = offsets[p] + steps


@njit(**OPTIONS)
def paths(
    leaves: Any, num_leaves: Any, starts: Any, parent: Any, place: Any, offsets: Any, first: Any, count: Any, which: Any
) -> None:
    """The steps of every path, bottom first; see :class:`xclass.heads.trees.Paths`."""
    for p in range(len(leaves)):
        node = np.int64(leaves[p])
        for step in range(offsets[p], offsets[p + 1]):
            above = np.int64(parent[node])
            first[step] = starts[above] - above
            count[step] = starts[above + 1] - starts[above] - 1
            which[step] = place[node] - starts[above]
            node = num_leaves + above


@njit(**FAST)
def walk(  # noqa: C901  one loop over what lies in the cache
    low: Any, high: Any, query: Any, rows: Any, offsets: Any, path_offsets: Any, places: Any, count: Any, which: Any,
    share: Any, loss: Any, query_grad: Any, pull: Any,
) -> None:  # fmt: skip
    """Queries low … high−1: loss, gradient of the query, and the gradient ``pull`` of each step's logits.

    share: (P,), weight of each path in its query's loss.
    """
    logits = np.empty(places.shape[1], np.float32)
    for b in range(low, high):
        total_loss = F(0.0)
        for d in range(query.shape[1]):
            query_grad[b, d] = F(0.0)
        for p in range(offsets[b], offsets[b + 1]):
            for step in range(path_offsets[p], path_offsets[p + 1]):
                top = F(0.0)
                for c in range(count[step]):
                    dot, row = F(0.0), places[step, c]
                    for d in range(query.shape[1]):
                        dot += query[b, d] * rows[row, d]
                    logits[c] = dot
                    top = dot if dot > top else top
                taken = logits[which[step] - 1] if which[step] > 0 else F(0.0)
                total = np.exp(-top)
                for c in range(count[step]):
                    logits[c] = np.exp(logits[c] - top)
                    total += logits[c]
                total_loss += share[p] * (top + np.log(total) - taken)
                for c in range(places.shape[1]):
                    factor = F(0.0)
                    if c < count[step]:
                        chosen = F(1.0) if which[step] == c + 1 else F(0.0)
                        factor, row = share[p] * (logits[c] / total - chosen), places[step, c]
                        for d in range(query.shape[1]):
                            query_grad[b, d] += factor * rows[row, d]
                    pull[step, c] = factor
        loss[b] = total_loss


@njit(**FAST)
def walk_binary(
    low: Any, high: Any, query: Any, rows: Any, offsets: Any, path_offsets: Any, places: Any, which: Any, share: Any,
    loss: Any, query_grad: Any, pull: Any,
) -> None:  # fmt: skip
    """The same where every node has two children, of which the second has the vector: sigmoids.

    −log P(path) = Σ_s (max(x_s, 0) − [second] x_s) + log Π_s (1 + e^−|x_s|): one logarithm a path.
    """
    for b in range(low, high):
        total_loss = F(0.0)
        for d in range(query.shape[1]):
            query_grad[b, d] = F(0.0)
        for p in range(offsets[b], offsets[b + 1]):
            linear, product = F(0.0), np.float64(1.0)
            for step in range(path_offsets[p], path_offsets[p + 1]):
                dot, row = F(0.0), places[step, 0]
                for d in range(query.shape[1]):
                    dot += query[b, d] * rows[row, d]
                small = np.exp(-abs(dot))
                product *= F(1.0) + small
                chosen = F(1.0) if which[step] == 1 else F(0.0)
                linear += max(dot, F(0.0)) - chosen * dot
                likely = (F(1.0) if dot > F(0.0) else small) / (F(1.0) + small)
                factor = share[p] * (likely - chosen)
                for d in range(query.shape[1]):
                    query_grad[b, d] += factor * rows[row, d]
                pull[step, 0] = factor
            total_loss += share[p] * (linear + F(np.log(product)))
        loss[b] = total_loss


@njit(**FAST)
def push_rows(
    low: Any, high: Any, query: Any, offsets: Any, path_offsets: Any, places: Any, count: Any, pull: Any, rows_grad: Any
) -> None:
    """Dimensions low … high−1 of the gradient of the rows: every step's pull times its query."""
    mine, given = rows_grad[:, low:high], query[:, low:high]  # places from 0 on are what loops are vectorised for
    for b in range(len(offsets) - 1):
        for step in range(path_offsets[offsets[b]], path_offsets[offsets[b + 1]]):
            for c in range(count[step]):
                factor, row = pull[step, c], places[step, c]
                for d in range(mine.shape[1]):
                    mine[row, d] += factor * given[b, d]
