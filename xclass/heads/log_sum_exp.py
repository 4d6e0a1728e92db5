"""log Σ_i e^{⟨q, w_i⟩} over all rows of a matrix, differentiable, in blocks: no (queries, rows) matrix exists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xclass.embeddings.interface import Table
from xclass.losses.rows import softmax_rows
from xclass.runtime.threads import in_parts, scratch

BLOCK_CELLS = 1 << 18  # 1 MiB: they stay in the cache between the product and the exponentials
PART_CELLS = 1 << 18  # less than this for each thread is not worth waking it


def log_sum(query_BD: Tensor, rows_ND: Tensor) -> Tensor:
    """(B,) log Σ_i e^{⟨q_b, w_i⟩}, differentiable in queries and rows.

    Its gradient is the softmax, which is computed again in the backward pass. Cost: 2·B·N·D operations forward, three
    times as many back, and 2·B·N exponentials; memory: a block of 256 Ki cells for each thread, and the gradients.
    """
    found: Tensor = _LogSum.apply(query_BD, rows_ND)
    return found


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, rows: Tensor) -> Tensor:
        query, rows = query.contiguous(), rows.contiguous()

        def part(low: int, high: int) -> Tensor:
            return torch.stack([_products(query, block)[1] for block in _blocks(query, rows[low:high])]).logsumexp(0)

        total = torch.stack(in_parts(part, len(rows), _worth(query, rows), query.device)).logsumexp(0)
        ctx.save_for_backward(query, rows, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        query, rows, total = ctx.saved_tensors
        rows_grad, weight = torch.empty_like(rows), upstream.unsqueeze(1)

        def part(low: int, high: int) -> Tensor:
            query_grad, first = torch.zeros_like(query), low
            for block in _blocks(query, rows[low:high]):
                cells, value, sums = _products(query, block)  # the softmax is a cell times e^(value − total) / sum
                scale = weight * ((value - total).exp() / sums).unsqueeze(1)
                query_grad.addcmul_(scale, cells @ block)
                torch.mm(cells.T, scale * query, out=rows_grad[first : first + len(block)])
                first += len(block)
            return query_grad

        parts = in_parts(part, len(rows), _worth(query, rows), query.device)
        return torch.stack(parts).sum(0), rows_grad


def _worth(query: Tensor, rows: Tensor) -> int:
    return min(len(query) * len(rows) // PART_CELLS, len(rows))


def _blocks(query: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(BLOCK_CELLS // max(len(query), 1), 1))


def _products(query: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """e^{x − top} of the products x of a block, good until the next call; their log Σ e^x, and Σ e^{x − top}."""
    cells = scratch(len(query) * len(block), query).view(len(query), len(block))
    sums = softmax_rows(torch.mm(query, block.T, out=cells), query.new_empty(0))
    return cells, sums.value, sums.total


def table_log_sum(query_BD: Tensor, table: Table, block_rows: int = 1 << 16) -> Tensor:
    """(B,) log Σ e^{⟨q, w⟩} over all rows of a table, read block by block."""
    blocks = range(0, table.num_rows, block_rows)
    return torch.stack(
        [log_sum(query_BD, table.read(start, min(start + block_rows, table.num_rows))) for start in blocks]
    ).logsumexp(0)
