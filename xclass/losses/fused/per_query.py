"""The same as :mod:`xclass.losses.fused.row_blocks` for candidates of each row's own, in compiled loops that copy no
vector.

In operations on tensors every candidate of every row is gathered, (b, K, D), and again for its gradient. Here a row's
logits, its loss and its part of the query's gradient are made from the items where they lie. The items' gradient is a
second pass, dimensions by parts, so that no thread writes where another does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xclass.losses._dispatch import row_switches
from xclass.losses.fused._dispatch import finish_arguments
from xclass.losses.fused.problem import Gradients, Problem, outputs
from xclass.losses.fused.row_blocks import PART_CELLS, scaled
from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts
from xclass.types import offsets_of

BLOCK_BYTES = 1 << 20  # of the items that a block of rows reads
LEAST_DIMS = 16  # a line of the cache


def own_fits(problem: Problem) -> bool:
    """Whether the loops can do it: float32 on the CPU, a loss whose positives stand alone."""
    tensors = problem.query, problem.items, problem.share
    return (
        problem.neg_rows.dim() == 2
        and problem.top_weights is None
        and problem.product_dtype == torch.float32
        and all(each.device.type == "cpu" and each.dtype == torch.float32 and each.is_contiguous() for each in tensors)
        and row_switches(problem.loss) is not None
        and compiles()
    )


def run_own(problem: Problem, weights: Tensor | None) -> tuple[Tensor, Gradients]:
    """(R,) loss, times the weights, and the gradients. Cost O(R·K·D); memory O((R + U)·D), and 4 bytes a candidate."""
    from xclass.losses.fused import _numba_per_query, _numba_rows

    rows, dim = problem.query.shape
    out, columns = outputs(problem), problem.neg_rows.contiguous().numpy()
    first_hit = offsets_of(torch.bincount(problem.hits.rows, minlength=rows))
    settings, given = finish_arguments(problem, weights, out, first_hit)
    query, items, by_query = problem.query.numpy(), problem.items.numpy(), out.query.numpy()
    cells, scale = np.empty(columns.shape, np.float32), np.empty(rows, np.float32)
    items_grad = torch.zeros_like(problem.items)
    by_item, positives = (
        items_grad.numpy(),
        [tensor.numpy() for tensor in (problem.offsets, problem.pos_rows, out.pos_grad)],
    )

    def walk(start: int, stop: int) -> None:
        step = max(BLOCK_BYTES // (4 * dim * max(columns.shape[1], 1)), 16)
        for low in range(start, stop, step):
            high = min(low + step, stop)
            _numba_per_query.scores(low, high, query, items, columns, cells)
            _numba_rows.finish_rows(*settings, low, cells[low:high], *given, scale[low:high])
            _numba_per_query.give_queries(low, high, scale, items, columns, cells, by_query)

    def push(low: int, high: int) -> None:
        _numba_per_query.give_items(low, high, query, columns, cells, *positives, by_item)

    worthwhile = columns.size * dim // (PART_CELLS * LEAST_DIMS)
    in_parts(walk, rows, worthwhile, problem.query.device)
    in_parts(push, dim, min(worthwhile, dim // LEAST_DIMS), problem.query.device)
    return out.loss, Gradients(scaled(out.query, problem.inverse_temperature), items_grad)
