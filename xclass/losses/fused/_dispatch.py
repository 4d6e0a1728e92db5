"""A block of rows from logits to gradients in two compiled loops around the three products.

For shared candidates, float32 on the CPU, and losses whose positives stand alone. The short operations of the plain
form are each a call into torch, with the lock of Python taken and given back; threads would wait for each other there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xclass.losses._dispatch import row_switches
from xclass.losses.interface import mask_value
from xclass.runtime.jit import compiles

if TYPE_CHECKING:
    from xclass.losses.fused.problem import Outputs, Problem

NOTHING = np.zeros(0, np.float32)


class Rows:
    """The arrays of a problem as the loops take them.

    Args:
        problem: one that :func:`fits`.
        first_hit: int64 (R+1,), where the hits of each row begin.
        negatives: (K, D), of the type of the products.
        weights: (R,) or None.
        out: filled.
    """

    def __init__(
        self, problem: Problem, first_hit: Tensor, negatives: Tensor, weights: Tensor | None, out: Outputs
    ) -> None:
        self.query, self.out, self.negatives = problem.query.numpy(), out.query.numpy(), negatives
        self.settings, self.given = finish_arguments(problem, weights, out, first_hit, negatives.dtype)

    def block(self, low: int, cells: Tensor) -> Tensor:
        """Rows from ``low`` on; ``cells`` (b, K) are written over. (K, D) part of the gradient of the negatives."""
        from xclass.losses.fused import _numba_rows

        query, scale = torch.from_numpy(self.query[low : low + len(cells)]), np.empty(len(cells), np.float32)
        torch.mm(query.to(cells.dtype), self.negatives.T, out=cells)
        _numba_rows.finish_rows(*self.settings, low, bits(cells), *self.given, scale)
        product = cells @ self.negatives
        back = torch.empty_like(product)
        _numba_rows.combine(low, bits(product), scale, self.query, self.out, bits(back))
        return cells.T @ back


def finish_arguments(
    problem: Problem,
    weights: Tensor | None,
    out: Outputs,
    first_hit: Tensor,
    dtype: torch.dtype = torch.float32,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What ``_numba_rows.finish_rows`` takes before the rows, and between their cells and their scale.

    Args:
        problem: of a loss that has switches.
        weights: (R,) or None.
        out: filled.
        first_hit: int64 (R+1,), where the hits of each row begin.
        dtype: of the cells.
    """
    found = row_switches(problem.loss)
    assert found is not None
    columns = problem.neg_rows.shape[-1]
    log_q = torch.zeros(1, columns) if problem.log_q is None else torch.atleast_2d(problem.log_q)
    settings = found.kind, np.array(found.switches, np.float32), np.float32(found.power)
    given = (
        *(tensor.numpy() for tensor in (problem.query, problem.items, problem.pos_rows, problem.offsets)),
        problem.share.numpy(),
        NOTHING if problem.pos_log_q is None else problem.pos_log_q.numpy(),
        log_q.numpy(),
        problem.hits.columns.contiguous().numpy(),
        first_hit.numpy(),
        NOTHING if weights is None else weights.float().numpy(),
        bits(torch.full((1,), mask_value(dtype), dtype=dtype))[0],
        out.loss.numpy(),
        out.pos_grad.numpy(),
        out.query.numpy(),
    )
    return settings, given


def fits(problem: Problem) -> bool:
    """Whether the loops can do it."""
    tensors = problem.query, problem.items, problem.share
    return (
        problem.neg_rows.dim() == 1
        and len(problem.neg_rows) > 0
        and problem.top_weights is None
        and problem.product_dtype in (torch.float32, torch.bfloat16)
        and all(each.device.type == "cpu" and each.dtype == torch.float32 and each.is_contiguous() for each in tensors)
        and row_switches(problem.loss) is not None
        and compiles()
    )


def bits(tensor: Tensor) -> Any:
    """The same memory; bfloat16 as its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
