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
from xclass.losses.seam import Finished, mask_value, positive_rows

BLOCK_CELLS = {"cpu": 1 << 20, "cuda": 1 << 25}
PART_CELLS = 1 << 18  # less than this for each thread is not worth waking it


class Problem(NamedTuple):
    """What the blocks read. R rows: queries, or pairs with one positive each.

    query: (R, D), divided by the temperature. items: (U, D). pos_rows: (P,). neg_rows: (K,) or (R, K).
    offsets: (R+1,). share: (P,) final weights. pos_scores, pos_logits: (P,) before and after log-Q.
    log_q: (K,), (R, K), or None when it is not subtracted; count_log_q: the same, always there.
    """

    query: Tensor
    items: Tensor
    pos_rows: Tensor
    neg_rows: Tensor
    offsets: Tensor
    share: Tensor
    pos_scores: Tensor
    pos_logits: Tensor
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
    """Filled row by row: (R,) loss, (P,) gradient of the positives' logits, (R, D) gradient of the queries."""

    loss: Tensor
    pos_grad: Tensor
    query: Tensor


def run_blocks(problem: Problem, weights: Tensor | None) -> tuple[Tensor, Gradients]:
    """(R,) loss and the gradients."""
    rows, columns = len(problem.query), problem.neg_rows.shape[-1]
    out = Outputs(problem.query.new_empty(rows), torch.empty_like(problem.pos_logits), torch.empty_like(problem.query))
    shared = problem.neg_rows.dim() == 1
    negatives = (problem.items.index_select(0, problem.neg_rows) if shared else problem.items).to(problem.product_dtype)
    parts = in_parts(
        lambda start, stop: _part(problem, negatives, weights, out, start, stop),
        rows,
        rows * columns // PART_CELLS,
        problem.query.device,
    )
    from_negatives = parts[0]
    for part in parts[1:]:
        from_negatives += part
    owners = positive_rows(problem.offsets, len(problem.pos_rows))
    pull = out.pos_grad.unsqueeze(1)
    positive = problem.items.index_select(0, problem.pos_rows)
    query = out.query.index_add_(0, owners, positive * pull).mul_(problem.inverse_temperature)
    items = (
        torch.zeros_like(problem.items).index_add_(0, problem.neg_rows, from_negatives) if shared else from_negatives
    )
    items.index_add_(0, problem.pos_rows, problem.query.index_select(0, owners) * pull)
    return out.loss, Gradients(query, items)


def _part(problem: Problem, negatives: Tensor, weights: Tensor | None, out: Outputs, start: int, stop: int) -> Tensor:
    """Rows start … stop−1: fills ``out``, returns the gradient of ``negatives``."""
    columns, dim = problem.neg_rows.shape[-1], problem.query.shape[1]
    shared = problem.neg_rows.dim() == 1
    step = max(16, BLOCK_CELLS.get(problem.query.device.type, 1 << 20) // max(columns * (1 if shared else dim // 8), 1))
    buffer = negatives.new_empty(min(step, stop - start), columns)
    total = torch.zeros(negatives.shape, dtype=problem.items.dtype, device=negatives.device)
    for low in range(start, stop, step):
        high = min(low + step, stop)
        if shared:
            _shared_block(problem, negatives, weights, out, total, buffer[: high - low], low, high)
        else:
            _own_block(problem, negatives, weights, out, total, low, high)
    return total


def _shared_block(
    problem: Problem,
    negatives: Tensor,
    weights: Tensor | None,
    out: Outputs,
    total: Tensor,
    cells: Tensor,
    low: int,
    high: int,
) -> None:
    """One product for the logits, two for the gradients."""
    query = problem.query[low:high].to(negatives.dtype)
    torch.mm(query, negatives.T, out=cells)
    scale = _finish(problem, weights, out, cells, low, high).unsqueeze(1)
    out.query[low:high] = (cells @ negatives).to(out.query.dtype) * scale
    back = problem.query[low:high] * scale
    if negatives.dtype == total.dtype:
        total.addmm_(cells.T, back)
    else:
        total.add_(cells.T @ back.to(negatives.dtype))


def _own_block(
    problem: Problem, items: Tensor, weights: Tensor | None, out: Outputs, total: Tensor, low: int, high: int
) -> None:
    """The same with candidates of each row's own."""
    columns = problem.neg_rows[low:high]
    own = items.index_select(0, columns.flatten()).view(*columns.shape, items.shape[1])
    query = problem.query[low:high]
    cells = torch.bmm(own, query.to(items.dtype).unsqueeze(2)).squeeze(2)
    scale = _finish(problem, weights, out, cells, low, high).unsqueeze(1)
    out.query[low:high] = torch.bmm(cells.unsqueeze(1), own).squeeze(1).to(out.query.dtype) * scale
    back = cells.to(total.dtype).unsqueeze(2) * (query * scale).unsqueeze(1)
    total.index_add_(0, columns.flatten(), back.flatten(0, 1))


def _finish(problem: Problem, weights: Tensor | None, out: Outputs, cells: Tensor, low: int, high: int) -> Tensor:
    """Logits of a block become cells; loss and gradient of its positives are filled in. (b,) scale of the cells."""
    hit_rows, hit_columns = _hits(problem.hits, low, high)
    cells[hit_rows, hit_columns] = mask_value(cells.dtype)
    first, last = int(problem.offsets[low]), int(problem.offsets[high])
    offsets, own = problem.offsets[low : high + 1] - first, slice(first, last)
    share = problem.share[own]
    if problem.top_weights is not None:
        share = share * _weights_by_place(problem, cells, offsets, own, low, high)
    pos_logits = problem.pos_logits[own]
    count = pos_logits.new_full((high - low,), cells.shape[1]) - torch.bincount(hit_rows, minlength=high - low)
    sums = pass_over(problem.loss, cells, count, _rows_of(problem.log_q, low, high), pos_logits)
    done: Finished = problem.loss.finish(pos_logits, offsets, share, sums)
    if weights is None:
        out.loss[low:high], out.pos_grad[own] = done.loss, done.pos_grad
        return done.scale
    scale = weights[low:high]
    out.loss[low:high] = done.loss * scale
    out.pos_grad[own] = done.pos_grad * scale[positive_rows(offsets, last - first)]
    return done.scale * scale


def _weights_by_place(problem: Problem, scores: Tensor, offsets: Tensor, own: slice, low: int, high: int) -> Tensor:
    assert problem.top_weights is not None
    return top_weights(
        problem.top_weights,
        scores,
        _rows_of(problem.count_log_q, low, high),
        problem.pos_scores[own],
        offsets,
        problem.inverse_temperature,
    )


def _rows_of(log_q: Tensor | None, low: int, high: int) -> Tensor | None:
    return log_q if log_q is None or log_q.dim() == 1 else log_q[low:high]


def _hits(hits: Hits, low: int, high: int) -> tuple[Tensor, Tensor]:
    first, last = torch.searchsorted(hits.rows, torch.tensor([low, high], device=hits.rows.device)).tolist()
    return hits.rows[first:last] - low, hits.columns[first:last]
