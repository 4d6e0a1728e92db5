"""log Σ_i e^{⟨q, w_i⟩} over all rows of a matrix, differentiable, in blocks: no (queries, rows) matrix exists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xclass.compiling import compiles
from xclass.tables.working_set import Table
from xclass.workers import in_parts, scratch

BLOCK_CELLS = 1 << 20
PART_CELLS = 1 << 18  # less than this for each thread is not worth waking it


def log_sum(query_BD: Tensor, rows_ND: Tensor) -> Tensor:
    """(B,) log Σ_i e^{⟨q_b, w_i⟩}, differentiable in queries and rows.

    Its gradient is the softmax, which is computed again in the backward pass. Cost: 2·B·N·D operations forward, three
    times as many back, and 2·B·N exponentials; memory: a block of 1 Mi cells for each thread, and the gradients.
    """
    found: Tensor = _LogSum.apply(query_BD, rows_ND)
    return found


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, rows: Tensor) -> Tensor:
        query, rows = query.contiguous(), rows.contiguous()

        def part(low: int, high: int) -> Tensor:
            blocks = _blocks(query, rows[low:high])
            sums = [row_log_sums(torch.mm(query, block.T, out=_cells(query, block))) for block in blocks]
            return _together(sums)

        total = _together(in_parts(part, len(rows), _worth(query, rows), query.device)).to(query.dtype)
        ctx.save_for_backward(query, rows, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        query, rows, total = ctx.saved_tensors
        rows_grad = torch.empty_like(rows)

        def part(low: int, high: int) -> Tensor:
            query_grad, first = torch.zeros_like(query), low
            for block in _blocks(query, rows[low:high]):
                share = _shares(torch.mm(query, block.T, out=_cells(query, block)), total, upstream)
                query_grad.addmm_(share, block)
                torch.mm(share.T, query, out=rows_grad[first : first + len(block)])
                first += len(block)
            return query_grad

        parts = in_parts(part, len(rows), _worth(query, rows), query.device)
        return torch.stack(parts).sum(0), rows_grad


def row_log_sums(cells_BN: Tensor) -> Tensor:
    """(B,) log Σ_j e^{x_bj}, float64 sums; in one compiled loop where it can be, which torch takes five passes for."""
    if not _fits(cells_BN):
        return cells_BN.logsumexp(1).double()
    from xclass.heads import kernels

    found = torch.empty(len(cells_BN), dtype=torch.float64)
    kernels.row_log_sums(0, len(cells_BN), cells_BN.numpy(), found.numpy())
    return found


def _shares(cells_BN: Tensor, log_sums: Tensor, weights: Tensor) -> Tensor:
    """In place: weight_b · e^{x_bj − log_sum_b}."""
    if not _fits(cells_BN):
        return cells_BN.sub_(log_sums.unsqueeze(1)).exp_().mul_(weights.unsqueeze(1))
    from xclass.heads import kernels

    given = [tensor.float().contiguous().numpy() for tensor in (log_sums, weights)]
    kernels.row_shares(0, len(cells_BN), cells_BN.numpy(), *given)
    return cells_BN


def _fits(cells: Tensor) -> bool:
    return cells.device.type == "cpu" and cells.dtype == torch.float32 and cells.shape[1] > 0 and compiles()


def _worth(query: Tensor, rows: Tensor) -> int:
    return min(len(query) * len(rows) // PART_CELLS, len(rows))


def _blocks(query: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(BLOCK_CELLS // max(len(query), 1), 1))


def _cells(query: Tensor, block: Tensor) -> Tensor:
    return scratch(len(query) * len(block), query).view(len(query), len(block))


def table_log_sum(query_BD: Tensor, table: Table, block_rows: int = 1 << 16) -> Tensor:
    """(B,) log Σ e^{⟨q, w⟩} over all rows of a table, read block by block."""
    blocks = range(0, table.num_rows, block_rows)
    return _together(
        [log_sum(query_BD, table.read(start, min(start + block_rows, table.num_rows))) for start in blocks]
    )


def _together(log_sums: list[Tensor]) -> Tensor:
    """Of the parts of a sum."""
    return log_sums[0] if len(log_sums) == 1 else torch.stack(log_sums).logsumexp(0)
