"""A sampled loss over inner products: forward and gradient in one pass over blocks of queries that stay in cache.

For a block of queries the logits are q·n/τ − log_q; the loss turns them into their own gradient in place; the products
with that gradient give the gradients of queries and candidates. The (B, K) logits never exist as a whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xclass.heads.masks import Hits
from xclass.losses.seam import LossBlock, mask_value
from xclass.types import Negatives, Ragged

BLOCK_LOGITS = 1 << 20  # 4 MiB: smaller blocks cost more in starting operations than the cache saves


class Scoring(NamedTuple):
    """Everything but the vectors."""

    positives: Ragged
    negatives: Negatives
    hits: Hits
    inverse_temperature: float
    subtract_log_q: bool
    loss: LossBlock
    product_dtype: torch.dtype
    row_weights: Tensor | None = None


class Gradients(NamedTuple):
    """∂(Σ_b weight_b · loss_b) for each input."""

    query: Tensor
    positive: Tensor
    negative: Tensor


def blocked_loss(query_BD: Tensor, positive_PD: Tensor, negative_KD: Tensor, scoring: Scoring) -> Tensor:
    """(B,) loss of each query times its row weight, differentiable in the three inputs.

    The gradient is computed in the forward pass for equal upstream gradients of all queries, as a mean over queries
    gives; for others the pass is run again in the backward.
    """
    return _BlockedLoss.apply(query_BD, positive_PD, negative_KD, scoring)


class _BlockedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, positive: Tensor, negative: Tensor, scoring: Scoring) -> Tensor:
        loss, gradients = _run(query, positive, negative, scoring, scoring.row_weights)
        ctx.scoring = scoring
        ctx.save_for_backward(query, positive, negative, *gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, positive, negative, *gradients = ctx.saved_tensors
        if bool((upstream == upstream[:1]).all()):
            return (*(gradient * upstream[:1].squeeze() for gradient in gradients), None)
        row_weights = ctx.scoring.row_weights
        weights_B = upstream if row_weights is None else upstream * row_weights
        return (*_run(query, positive, negative, ctx.scoring, weights_B)[1], None)


def _run(
    query: Tensor, positive: Tensor, negative: Tensor, scoring: Scoring, weights_B: Tensor | None
) -> tuple[Tensor, Gradients]:
    """Loss and gradients, block by block."""
    scaled = query * scoring.inverse_temperature
    low_query, low_negative = scaled.to(scoring.product_dtype), negative.to(scoring.product_dtype)
    rows = scoring.positives.rows()
    pos_logits = torch.linalg.vecdot(scaled.index_select(0, rows), positive)
    if scoring.subtract_log_q:
        pos_logits -= scoring.negatives.pos_log_q
    grads = Gradients(torch.zeros_like(query), torch.empty(0), torch.zeros_like(negative))
    loss, pos_grad = query.new_empty(len(query)), torch.empty_like(pos_logits)
    step = max(16, BLOCK_LOGITS // max(len(negative), 1))
    for start in range(0, len(query), step):
        stop = min(start + step, len(query))
        logits = _block_logits(low_query[start:stop], low_negative, scoring, start, stop)
        part = scoring.positives.slice(start, stop)
        low, high = int(scoring.positives.offsets[start]), int(scoring.positives.offsets[stop])
        loss[start:stop], pos_grad[low:high] = scoring.loss(pos_logits[low:high], logits, part.offsets, part.weights)
        if weights_B is not None:
            logits *= weights_B[start:stop].unsqueeze(1)
        low_logits = logits.to(scoring.product_dtype)
        grads.query[start:stop] = low_logits @ low_negative
        grads.negative.add_(low_logits.T @ low_query[start:stop])
    if weights_B is not None:
        loss, pos_grad = loss * weights_B, pos_grad * weights_B[rows]
    grads.query.index_add_(0, rows, positive * pos_grad.unsqueeze(1)).mul_(scoring.inverse_temperature)
    return loss, grads._replace(positive=scaled.index_select(0, rows) * pos_grad.unsqueeze(1))


def _block_logits(query: Tensor, negative: Tensor, scoring: Scoring, start: int, stop: int) -> Tensor:
    """float32 logits of queries start … stop−1 with log-Q subtracted and hits masked."""
    logits = (query @ negative.T).to(torch.promote_types(query.dtype, torch.float32))
    if scoring.subtract_log_q:
        logits -= scoring.negatives.log_q
    rows, columns = scoring.hits
    low, high = torch.searchsorted(rows, torch.tensor([start, stop], device=rows.device)).tolist()
    logits[rows[low:high] - start, columns[low:high]] = mask_value(logits.dtype)
    return logits
