"""A sampled loss over inner products: forward and gradient in one pass over blocks of queries that stay in cache.

For a block of queries the logits are q·n/τ − log_q; a pass of the loss turns them in place into cells, of which the
gradient is scale_b · cell_bj; the products with the cells give the gradients of queries and candidates. The (B, K)
logits never exist as a whole, and a mask of hits is a list of positions. Every registered loss goes through here, on
any device.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xclass.losses import Loss
from xclass.losses.fused.accidental_hits import Hits
from xclass.losses.fused.column_blocks import many_columns, run_columns
from xclass.losses.fused.per_query import own_fits, run_own
from xclass.losses.fused.problem import Gradients, Problem
from xclass.losses.fused.row_blocks import run_blocks
from xclass.losses.fused.top_k_weights import TopWeights
from xclass.losses.interface import final_weights
from xclass.types import Negatives, Ragged


class Scoring(NamedTuple):
    """Everything but the vectors.

    positives: Ragged (B); only offsets and weights are read.
    negatives: only the log-Q are read: (K,) shared or (B, K) per query, and (P,).
    hits: cells of (B, K) that are no negatives; of (P, K) when rows are pairs.
    loss: a registered loss, maybe with switches.
    log_q_of: "both" subtracts it from negatives and positives, "negatives", or "none".
    product_dtype: type of the large products.
    row_weights: (B,) or None for 1.
    per_pair: every positive is a row of its own, weighted as it would be in its query. Losses of pairs always are.
    top_weights: weigh each positive by its place among the items (:mod:`xclass.losses.fused.top_k_weights`).
    """

    positives: Ragged
    negatives: Negatives
    hits: Hits
    loss: Loss
    inverse_temperature: float = 1.0
    log_q_of: Literal["both", "negatives", "none"] = "both"
    product_dtype: torch.dtype = torch.float32
    row_weights: Tensor | None = None
    per_pair: bool = False
    top_weights: TopWeights | None = None


def blocked_loss(query_BD: Tensor, item_UD: Tensor, pos_rows: Tensor, neg_rows: Tensor, scoring: Scoring) -> Tensor:
    """(B,) loss of each query times its row weight, differentiable in query and item vectors.

    Args:
        query_BD: (B, D).
        item_UD: (U, D) vectors of the distinct items of the step.
        pos_rows: int64 (P,) row of item_UD of each positive.
        neg_rows: int64 (K,) or (B, K) row of each negative.
        scoring: everything else.

    The gradient is computed in the forward pass for equal upstream gradients of all queries, as a mean over queries
    gives; for others the pass is run again in the backward. Cost O(B·K·D); memory O((B + U)·D) and a block per thread.
    """
    return one_pass_loss(query_BD, item_UD, pos_rows, neg_rows, scoring, run_blocked)


class Run(Protocol):
    """A pass that makes loss and gradients together."""

    def __call__(
        self,
        query: Tensor,
        items: Tensor,
        pos_rows: Tensor,
        neg_rows: Tensor,
        scoring: Scoring,
        weights_B: Tensor | None,
    ) -> tuple[Tensor, Gradients]:
        """(B,) loss of each query times its weight, and the gradients of its sum; see :func:`blocked_loss`."""
        ...


def one_pass_loss(
    query_BD: Tensor, item_UD: Tensor, pos_rows: Tensor, neg_rows: Tensor, scoring: Scoring, run: Run
) -> Tensor:
    """:func:`blocked_loss` by any pass."""
    loss: Tensor = _BlockedLoss.apply(query_BD, item_UD, pos_rows, neg_rows, scoring, run)
    return loss


class _BlockedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, items: Tensor, pos_rows: Tensor, neg_rows: Tensor, scoring: Scoring, run: Run
    ) -> Tensor:
        loss, gradients = run(query, items, pos_rows, neg_rows, scoring, scoring.row_weights)
        ctx.scoring, ctx.gradients, ctx.run = scoring, gradients, run
        ctx.save_for_backward(query, items, pos_rows, neg_rows)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, items, pos_rows, neg_rows = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None  # given away: a second call makes them again
        if gradients is not None and bool((upstream == upstream[:1]).all()):
            for gradient in gradients if len(upstream) else ():
                gradient.mul_(upstream[0])
        else:
            row_weights = ctx.scoring.row_weights
            weights_B = upstream if row_weights is None else upstream * row_weights
            gradients = ctx.run(query, items, pos_rows, neg_rows, ctx.scoring, weights_B)[1]
        return (*gradients, None, None, None, None)


def run_blocked(
    query: Tensor, items: Tensor, pos_rows: Tensor, neg_rows: Tensor, scoring: Scoring, weights_B: Tensor | None
) -> tuple[Tensor, Gradients]:
    """Loss and gradients, with a row for every query or for every pair."""
    if not (scoring.per_pair or scoring.loss.per_pair):
        return _blocks(_problem(query, items, pos_rows, neg_rows, scoring), weights_B)
    owners = scoring.positives.rows()
    if neg_rows.dim() == 2:
        ids, log_q, pos_log_q = scoring.negatives
        scoring = scoring._replace(negatives=Negatives(ids[owners], log_q[owners], pos_log_q))
        neg_rows = neg_rows[owners]
    problem = _problem(query, items, pos_rows, neg_rows, scoring)
    pairs = problem._replace(
        query=problem.query.index_select(0, owners), offsets=torch.arange(len(owners) + 1, device=query.device)
    )
    loss, gradients = _blocks(pairs, None if weights_B is None else weights_B[owners])
    by_query = torch.zeros_like(query).index_add_(0, owners, gradients.query)
    return loss.new_zeros(len(query)).index_add_(0, owners, loss), Gradients(by_query, gradients.items)


def _blocks(problem: Problem, weights: Tensor | None) -> tuple[Tensor, Gradients]:
    """By blocks of rows, or of candidates where these are many; row by row where each has its own."""
    if own_fits(problem):
        return run_own(problem, weights)
    return (run_columns if many_columns(problem) else run_blocks)(problem, weights)


def _problem(query: Tensor, items: Tensor, pos_rows: Tensor, neg_rows: Tensor, scoring: Scoring) -> Problem:
    scaled = query if scoring.inverse_temperature == 1 else query * scoring.inverse_temperature
    positives, log_q = scoring.positives, scoring.negatives.log_q.to(scaled.dtype)
    return Problem(
        query=scaled,
        items=items,
        pos_rows=pos_rows,
        neg_rows=neg_rows,
        offsets=positives.offsets,
        share=final_weights(scoring.loss, positives.offsets, positives.weights, scaled.new_empty(len(pos_rows))),
        pos_log_q=scoring.negatives.pos_log_q.to(scaled.dtype) if scoring.log_q_of == "both" else None,
        log_q=None if scoring.log_q_of == "none" else log_q,
        count_log_q=log_q,
        hits=scoring.hits,
        loss=scoring.loss,
        inverse_temperature=scoring.inverse_temperature,
        product_dtype=scoring.product_dtype,
        top_weights=scoring.top_weights,
    )
