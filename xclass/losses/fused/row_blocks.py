"""The blocks of :mod:`xclass.losses.fused.sampled_loss`: rows are cut into parts, one for each thread, and parts into
blocks.

Threads work on parts, not inside operations: a block is a handful of short operations, and waking threads for each of
them would cost as much as the work. The cut depends on the sizes and the number of threads alone, and so do the bits.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.losses.fused._dispatch import Rows, fits
from xclass.losses.fused.pairs import add_rows, pair_scores
from xclass.losses.fused.problem import Gradients, Outputs, Problem, outputs
from xclass.losses.fused.top_k_weights import top_weights
from xclass.losses.interface import RowSums, mask_value, positive_rows
from xclass.losses.rows import pass_over
from xclass.runtime.threads import in_parts, scratch

BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 128 << 20}  # of cells
COMPILED_BLOCK_BYTES = 1 << 20
PART_CELLS = 1 << 18  # less than this for each thread is not worth waking it


class Shape(NamedTuple):
    """Of the hits: how many each row has, and where they begin (R+1,)."""

    hits: Tensor
    first_hit: Tensor


class Span(NamedTuple):
    """Rows low … high−1 and their positives first … last−1."""

    low: int
    high: int
    first: int
    last: int


def scaled(vectors: Tensor, factor: float) -> Tensor:
    """``vectors`` times the factor, in place."""
    return vectors if factor == 1 else vectors.mul_(factor)


def run_blocks(problem: Problem, weights: Tensor | None) -> tuple[Tensor, Gradients]:
    """(R,) loss, times the weights, and the gradients."""
    rows, columns = len(problem.query), problem.neg_rows.shape[-1]
    shared = problem.neg_rows.dim() == 1
    out = outputs(problem)
    gathered = shared and not _in_order(problem.neg_rows, len(problem.items))
    negatives = problem.items.index_select(0, problem.neg_rows) if gathered else problem.items
    negatives = negatives.to(problem.product_dtype).contiguous()
    hits_by_row = torch.bincount(problem.hits.rows, minlength=rows)
    shape = Shape(hits_by_row, torch.cat([hits_by_row.new_zeros(1), hits_by_row.cumsum(0)]))
    compiled = Rows(problem, shape.first_hit, negatives, weights, out) if fits(problem) else None
    totals = in_parts(
        lambda low, high: (
            _compiled_part(compiled, negatives, out, low, high)
            if compiled
            else _part(problem, shape, negatives, weights, out, low, high)
        ),
        rows,
        (rows * columns + len(problem.pos_rows) * problem.query.shape[1]) // PART_CELLS,
        problem.query.device,
    )
    item_grad = _item_gradient(problem, out, totals, gathered)
    return out.loss, Gradients(scaled(out.query, problem.inverse_temperature), item_grad)


def _in_order(rows: Tensor, number: int) -> bool:
    """Whether the rows are 0 … number − 1, as those of all items are: then nothing need be gathered."""
    return len(rows) == number and bool((rows == torch.arange(number, device=rows.device)).all())


def _item_gradient(problem: Problem, out: Outputs, totals: list[Tensor], gathered: bool) -> Tensor:
    """(U, D): what the parts found for the negatives, and the positives' own."""
    if gathered:
        items, every = torch.zeros_like(problem.items), torch.arange(len(problem.neg_rows), device=out.loss.device)
        for total in totals:
            add_rows(items, problem.neg_rows, total, every, total.new_ones(len(total)))
    else:
        items = functools.reduce(torch.Tensor.add_, totals)
    owners = positive_rows(problem.offsets, len(problem.pos_rows))
    add_rows(items, problem.pos_rows, problem.query, owners, out.pos_grad)
    return items


def _compiled_part(rows: Rows, negatives: Tensor, out: Outputs, start: int, stop: int) -> Tensor:
    """The same as :func:`_part`."""
    columns = len(negatives)
    step = max(16, COMPILED_BLOCK_BYTES // (columns * negatives.element_size()))
    total = torch.zeros(negatives.shape, dtype=out.loss.dtype)
    buffer = scratch(min(step, stop - start) * columns, negatives).view(-1, columns)
    for low in range(start, stop, step):
        total += rows.block(low, buffer[: min(step, stop - low)])
    return total


def _part(
    problem: Problem, shape: Shape, negatives: Tensor, weights: Tensor | None, out: Outputs, start: int, stop: int
) -> Tensor:
    """Rows start … stop−1: fills ``out``, returns the gradient of ``negatives``."""
    columns, dim = problem.neg_rows.shape[-1], problem.query.shape[1]
    shared = problem.neg_rows.dim() == 1
    row_bytes = max(columns * negatives.element_size() * (1 if shared else dim // 8), 1)
    step = max(16, BLOCK_BYTES.get(problem.query.device.type, BLOCK_BYTES["cpu"]) // row_bytes)
    make = torch.empty if shared and stop > start else torch.zeros
    total = make(negatives.shape, dtype=problem.items.dtype, device=negatives.device)
    most = min(step, stop - start)
    buffer = scratch(most * columns, negatives).view(most, columns)
    for low in range(start, stop, step):
        high = min(low + step, stop)
        span = Span(low, high, int(problem.offsets[low]), int(problem.offsets[high]))
        if shared:
            _shared_block(problem, shape, negatives, weights, out, total, buffer[: high - low], span, low == start)
        else:
            _own_block(problem, shape, negatives, weights, out, total, span)
    return total


def _shared_block(
    problem: Problem,
    shape: Shape,
    negatives: Tensor,
    weights: Tensor | None,
    out: Outputs,
    total: Tensor,
    cells: Tensor,
    span: Span,
    is_first: bool,
) -> None:
    """One product for the logits, two for the gradients."""
    query = problem.query[span.low : span.high]
    torch.mm(query.to(negatives.dtype), negatives.T, out=cells)
    scale = _finish(problem, shape, weights, out, cells, span)
    out.query[span.low : span.high].addcmul_((cells @ negatives).to(total.dtype), scale)
    back = (query * scale).to(negatives.dtype)
    if is_first:
        total.copy_(cells.T @ back)
    elif negatives.dtype == total.dtype:
        total.addmm_(cells.T, back)
    else:
        total.add_(cells.T @ back)


def _own_block(
    problem: Problem, shape: Shape, items: Tensor, weights: Tensor | None, out: Outputs, total: Tensor, span: Span
) -> None:
    """The same with candidates of each row's own."""
    columns, query = problem.neg_rows[span.low : span.high], problem.query[span.low : span.high]
    own = items.index_select(0, columns.flatten()).view(*columns.shape, items.shape[1])
    cells = torch.bmm(own, query.to(items.dtype).unsqueeze(2)).squeeze(2)
    scale = _finish(problem, shape, weights, out, cells, span)
    out.query[span.low : span.high].addcmul_(torch.bmm(cells.unsqueeze(1), own).squeeze(1).to(total.dtype), scale)
    back = cells.to(total.dtype).unsqueeze(2) * (query * scale).unsqueeze(1)
    total.index_add_(0, columns.flatten(), back.flatten(0, 1))


def _finish(problem: Problem, shape: Shape, weights: Tensor | None, out: Outputs, cells: Tensor, span: Span) -> Tensor:
    """Logits become cells; loss and what the positives do to the queries are filled in. (b, 1) scale of the cells."""
    own, here = slice(span.first, span.last), slice(span.low, span.high)
    offsets = problem.offsets[span.low : span.high + 1] - span.first
    rows, item_rows = positive_rows(offsets, span.last - span.first), problem.pos_rows[own]
    scores, share = pair_scores(problem.query[here], rows, problem.items, item_rows), problem.share[own]
    _mask(problem, shape, cells, span)
    if problem.top_weights is not None:
        log_q = _rows_of(problem.count_log_q, span)
        share = share * top_weights(problem.top_weights, cells, log_q, scores, offsets, problem.inverse_temperature)
    logits = scores if problem.pos_log_q is None else scores - problem.pos_log_q[own]
    unmasked = (cells.shape[1] - shape.hits[here]).to(logits.dtype)
    sums = pass_over(problem.loss, cells, unmasked, _rows_of(problem.log_q, span), logits)
    return settle(problem, weights, out, span, logits, share, sums)


def settle(
    problem: Problem,
    weights: Tensor | None,
    out: Outputs,
    span: Span,
    logits: Tensor,
    share: Tensor,
    sums: RowSums,
) -> Tensor:
    """From the sums over the negatives: fills ``out`` for the rows of ``span``; (b, 1) scale of their cells.

    Args:
        logits, share: of the positives of these rows.
        sums: of these rows.
    """
    own, here = slice(span.first, span.last), slice(span.low, span.high)
    offsets = problem.offsets[span.low : span.high + 1] - span.first
    rows = positive_rows(offsets, span.last - span.first)
    loss, pos_grad, scale = problem.loss.finish(logits, offsets, share, sums)
    if weights is not None:
        each = weights[here]
        loss, pos_grad, scale = loss * each, pos_grad * each[rows], scale * each
    out.loss[here], out.pos_grad[own] = loss, pos_grad
    add_rows(out.query[here].zero_(), rows, problem.items, problem.pos_rows[own], pos_grad)
    return scale.unsqueeze(1)


def _mask(problem: Problem, shape: Shape, cells: Tensor, span: Span) -> None:
    """Hits get the lowest number."""
    first, last = int(shape.first_hit[span.low]), int(shape.first_hit[span.high])
    if last > first:
        rows, columns = problem.hits.rows[first:last] - span.low, problem.hits.columns[first:last]
        cells[rows, columns] = mask_value(cells.dtype)


def _rows_of(log_q: Tensor | None, span: Span) -> Tensor | None:
    return log_q if log_q is None or log_q.dim() == 1 else log_q[span.low : span.high]
