"""What numba compiles for trees. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.heads.tree import huffman
from xclass.losses._numba import exp_of, log1p_of
from xclass.losses.fused._numba_rows import add_to, score
from xclass.runtime.jit_bfloat16 import FAST, OPTIONS, F

LONG = 1 << 10  # steps
QUERIES = 16
U = np.uint64  # a place without a sign: only such ones are known not to count from the end

merge = njit(**OPTIONS)(huffman.merge)


@njit(**OPTIONS)
def paths(leaves: Any, num_leaves: Any, starts: Any, parent: Any, place: Any, offsets: Any) -> Any:
    """(3, L): first, number and which of every step, path by path, bottom first
    (:class:`xclass.heads.tree.tree.Paths`).

    Fills ``offsets``. One walk: how long the paths are is known when they are there.
    """
    used, steps = 0, np.empty((3, 16 * len(leaves) + LONG), np.int64)
    for p in range(len(leaves)):
        node, above = np.int64(leaves[p]), np.int64(0)
        while True:
            if used == steps.shape[1]:
                wider = np.empty((3, 2 * used), np.int64)
                wider[:, :used] = steps
                steps = wider
            above = np.int64(parent[node])
            steps[0, used] = starts[above] - above
            steps[1, used] = starts[above + 1] - starts[above] - 1
            steps[2, used] = place[node] - starts[above]
            used += 1
            node = num_leaves + above
            if above == 0:
                break
        offsets[p + 1] = used
    return steps[:, :used]


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
    """The same where every node has two children, of which the second has the vector: −log σ(x_s) or −log σ(−x_s).

    places, pull: (L,). Some queries at a time: their logits, then all their sigmoids, which vectorise over the steps of
    many paths, then their gradients.
    """
    losses = np.empty(0, np.float32)
    for start in range(low, high, QUERIES):
        stop = min(start + QUERIES, high)
        begin, steps = path_offsets[offsets[start]], path_offsets[offsets[stop]] - path_offsets[offsets[start]]
        if steps > len(losses):
            losses = np.empty(2 * steps, np.float32)
        for b in range(start, stop):
            for step in range(path_offsets[offsets[b]], path_offsets[offsets[b + 1]]):
                pull[step] = score(query, b, rows, places[step])
        for s in range(steps):
            x, chosen = pull[U(begin) + U(s)], F(1.0) if which[U(begin) + U(s)] == 1 else F(0.0)
            small = exp_of(-abs(x))
            losses[s] = max(x, F(0.0)) - chosen * x + log1p_of(small)
            pull[U(begin) + U(s)] = (F(1.0) if x > F(0.0) else small) / (F(1.0) + small) - chosen
        for b in range(start, stop):
            loss[b] = F(0.0)
            for d in range(query.shape[1]):
                query_grad[b, d] = F(0.0)
            for p in range(offsets[b], offsets[b + 1]):
                path_loss = F(0.0)
                for step in range(path_offsets[p], path_offsets[p + 1]):
                    path_loss += losses[step - begin]
                    pull[step] *= share[p]
                    add_to(query_grad, b, rows, places[step], pull[step])
                loss[b] += share[p] * path_loss


@njit(**FAST)
def push_rows(
    low: Any, high: Any, query: Any, offsets: Any, path_offsets: Any, places: Any, count: Any, pull: Any, rows_grad: Any
) -> None:
    """Dimensions low … high−1 of the gradient of the rows: every step's pull times its query."""
    for b in range(len(offsets) - 1):
        for step in range(path_offsets[offsets[b]], path_offsets[offsets[b + 1]]):
            for c in range(count[step]):
                factor, row = pull[step, c], places[step, c]
                for d in range(high - low):
                    rows_grad[row, U(low) + U(d)] += factor * query[b, U(low) + U(d)]
