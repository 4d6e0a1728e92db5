"""The blocks of :mod:`xclass.heads.blocked`: rows are cut into parts, one for each thread, and parts into blocks.

Threads work on parts, not inside operations: a block is a handful of short operations, and waking threads for each of
them would cost as much as the work. The cut depends on the sizes and the number of threads alone, and so do the bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.heads.masks import Hits
from xclass.heads.top_weights import TopWeights, top_weights
from xclass.heads.workers import in_parts
from xclass.losses import Loss
from xclass.losses.rows import pass_over
from xclass.losses.seam import mask_value, positive_rows

BLOCK_CELLS = {"cpu": 1 << 21, "cuda": 1 << 25}
PART_CELLS = 1 << 18  # less than this for each thread is not worth waking it


class Problem(NamedTuple):
    """What the blocks read. R rows: queries, or pairs with one positive each.

    query: (R, D), divided by the temperature. items: (U, D). pos_rows: (P,). neg_rows: (K,) or (R, K).
    offsets: (R+1,). share: (P,) final weights. pos_log_q: (P,) or None when it is not subtracted.
    log_q: (K,), (R, K), or None when it is not subtracted; count_log_q: the same, always there.
    """

    query: Tensor
    items: Tensor
    pos_rows: Tensor
    neg_rows: Tensor
    offsets: Tensor
    share: Tensor
    pos_log_q: Tensor | None
    log_q: Tensor | None
    count_log_q: Tensor
    hits: Hits
    loss: Loss
    inverse_temperature: float
    product_dtype: torch.dtype
    top_weights: TopWeights | None


class Gradients(NamedTuple):
    """∂(Σ_r weight_r · loss_r): (R, D) for the rows' queries, (U, D) for the items."""

    query: Tensor
    items: Tensor


class Outputs(NamedTuple):
    """Filled row by row: (R,) loss; (P, D) gradient of the positives' vectors; (R, D) of the queries times τ."""

    loss: Tensor
    positive: Tensor
    query: Tensor


class Span(NamedTuple):
    """Rows low … high−1 and their positives first … last−1."""

    low: int
    high: int
    first: int
    last: int


def run_blocks(problem: Problem, weights: Tensor | None) -> tuple[Tensor, Gradients]:
    """(R,) loss, times the weights, and the gradients."""
    rows, dim = problem.query.shape
    columns, shared = problem.neg_rows.shape[-1], problem.neg_rows.dim() == 1
    out = Outputs(
        problem.query.new_empty(rows),
        problem.query.new_empty(len(problem.pos_rows), dim),
        torch.empty_like(problem.query),
    )
    negatives = (problem.items.index_select(0, problem.neg_rows) if shared else problem.items).to(problem.product_dtype)
    totals = in_parts(
        lambda low, high: _part(problem, negatives, weights, out, low, high),
        rows,
        rows * columns // PART_CELLS,
        problem.query.device,
    )
    total = totals[0]
    for other in totals[1:]:
        total += other
    items = torch.zeros_like(problem.items).index_add_(0, problem.neg_rows, total) if shared else total
    items.index_add_(0, problem.pos_rows, out.positive)
    return out.loss, Gradients(out.query.mul_(problem.inverse_temperature), items)


def _part(problem: Problem, negatives: Tensor, weights: Tensor | None, out: Outputs, start: int, stop: int) -> Tensor:
    """Rows start … stop−1: fills ``out``, returns the gradient of ``negatives``."""
    columns, dim = problem.neg_rows.shape[-1], problem.query.shape[1]
    shared = problem.neg_rows.dim() == 1
    width = max(columns if shared else columns * dim // 8, 1)
    step = max(16, BLOCK_CELLS.get(problem.query.device.type, 1 << 21) // width)
    total = torch.zeros(negatives.shape, dtype=problem.items.dtype, device=negatives.device)
    buffer = negatives.new_empty(min(step, stop - start), columns)
    for low in range(start, stop, step):
        high = min(low + step, stop)
        span = Span(low, high, int(problem.offsets[low]), int(problem.offsets[high]))
        if shared:
            _shared_block(problem, negatives, weights, out, total, buffer[: high - low], span)
        else:
            _own_block(problem, negatives, weights, out, total, span)
    return total


def _shared_block(
    problem: Problem, negatives: Tensor, weights: Tensor | None, out: Outputs, total: Tensor, cells: Tensor, span: Span
) -> None:
    """One product for the logits, two for the gradients."""
    query = problem.query[span.low : span.high]
    torch.mm(query.to(negatives.dtype), negatives.T, out=cells)
    scale, pull = _finish(problem, weights, out, cells, span)
    out.query[span.low : span.high] = (cells @ negatives).to(total.dtype).mul_(scale).add_(pull)
    back = query * scale
    if negatives.dtype == total.dtype:
        total.addmm_(cells.T, back)
    else:
        total.add_(cells.T @ back.to(negatives.dtype))


def _own_block(
    problem: Problem, items: Tensor, weights: Tensor | None, out: Outputs, total: Tensor, span: Span
) -> None:
    """The same with candidates of each row's own."""
    columns, query = problem.neg_rows[span.low : span.high], problem.query[span.low : span.high]
    own = items.index_select(0, columns.flatten()).view(*columns.shape, items.shape[1])
    cells = torch.bmm(own, query.to(items.dtype).unsqueeze(2)).squeeze(2)
    scale, pull = _finish(problem, weights, out, cells, span)
    out.query[span.low : span.high] = torch.bmm(cells.unsqueeze(1), own).squeeze(1).to(total.dtype) * scale + pull
    back = cells.to(total.dtype).unsqueeze(2) * (query * scale).unsqueeze(1)
    total.index_add_(0, columns.flatten(), back.flatten(0, 1))


def _finish(problem: Problem, weights: Tensor | None, out: Outputs, cells: Tensor, span: Span) -> tuple[Tensor, Tensor]:
    """Logits become cells; loss and positives' gradients are filled in.

    Returns (b, 1) the scale of the cells and (b, D) what the positives add to the gradient of the queries.
    """
    own = slice(span.first, span.last)
    offsets = problem.offsets[span.low : span.high + 1] - span.first
    rows = positive_rows(offsets, span.last - span.first)
    query = problem.query[span.low : span.high].index_select(0, rows)
    positive = problem.items.index_select(0, problem.pos_rows[own])
    scores, share = torch.linalg.vecdot(query, positive), problem.share[own]
    unmasked = _mask(problem, cells, span)
    if problem.top_weights is not None:
        log_q = _rows_of(problem.count_log_q, span)
        share = share * top_weights(problem.top_weights, cells, log_q, scores, offsets, problem.inverse_temperature)
    logits = scores if problem.pos_log_q is None else scores - problem.pos_log_q[own]
    sums = pass_over(problem.loss, cells, unmasked, _rows_of(problem.log_q, span), logits)
    loss, pos_grad, scale = problem.loss.finish(logits, offsets, share, sums)
    if weights is not None:
        each = weights[span.low : span.high]
        loss, pos_grad, scale = loss * each, pos_grad * each[rows], scale * each
    out.loss[span.low : span.high] = loss
    torch.mul(query, pos_grad.unsqueeze(1), out=out.positive[own])
    pull = torch.zeros_like(problem.query[span.low : span.high])
    return scale.unsqueeze(1), pull.index_add_(0, rows, positive.mul_(pos_grad.unsqueeze(1)))


def _mask(problem: Problem, cells: Tensor, span: Span) -> Tensor:
    """Hits get the lowest number; (b,) how many cells of each row are left."""
    bounds = torch.tensor([span.low, span.high], device=problem.hits.rows.device)
    first, last = torch.searchsorted(problem.hits.rows, bounds).tolist()
    rows, columns = problem.hits.rows[first:last] - span.low, problem.hits.columns[first:last]
    cells[rows, columns] = mask_value(cells.dtype)
    hits = torch.bincount(rows, minlength=len(cells))
    return (cells.shape[1] - hits).to(problem.query.dtype)


def _rows_of(log_q: Tensor | None, span: Span) -> Tensor | None:
    return log_q if log_q is None or log_q.dim() == 1 else log_q[span.low : span.high]
