"""Samples that grow until their effective size is large enough, query by query: importance sampling's safeguard.

The candidates of a batch are the most that a query may take. A query takes the first block of them, then the next,
until (Σ r)² / Σ r² over those it has, r = e^{score − log q}, reaches what is wanted: few where the proposal is close to
the model, many where it is not. What a query has taken so far stays in its sample, as in the paper.

Source: Bengio & Senécal 2003, "Quick training of probabilistic neural nets by importance sampling", §3.4; 2008,
"Adaptive importance sampling to accelerate training of a neural probabilistic language model", §IV-C.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.losses.fused.accidental_hits import Hits
from xclass.losses.fused.sampled_loss import Scoring, blocked_loss
from xclass.losses.fused.subset import some_queries
from xclass.types import Negatives


class Growth(NamedTuple):
    """effective: size that is wanted. block: candidates added at a time. exact_when_short: a query whose candidates do
    not reach it has the exact sum over the items, the rule's last step."""

    effective: float
    block: int
    exact_when_short: bool = False


class Sizes(NamedTuple):
    """int64 (B,): candidates that each query takes; bool (B,): whether their effective size is large enough."""

    candidates: Tensor
    enough: Tensor


def growing_loss(
    query_BD: Tensor,
    item_UD: Tensor,
    pos_rows: Tensor,
    neg_rows: Tensor,
    scoring: Scoring,
    growth: Growth,
    every_row: Tensor | None = None,
) -> Tensor:
    """(B,) loss of each query times its row weight, over as many candidates as it needs.

    Args:
        query_BD, item_UD, pos_rows, neg_rows, scoring: as :func:`xclass.losses.fused.sampled_loss.blocked_loss` takes
        them; the
            log-Q are those of all K candidates, which are independent draws.
        growth: the rule.
        every_row: int64 (N,) rows of all items, for ``exact_when_short``.

    The log-Q of a query's k candidates are those of K less log(K/k). Cost O(Σ_b k_b · D), a third more than that of the
    loss; memory: a block of logits for each query.
    """
    sizes = sample_sizes(query_BD, item_UD, neg_rows, scoring, growth)
    loss = query_BD.new_zeros(len(query_BD))
    exact = ~sizes.enough if every_row is not None else torch.zeros_like(sizes.enough)
    for size in sizes.candidates[~exact].unique().tolist():
        chosen = ((sizes.candidates == size) & ~exact).nonzero().squeeze(1)
        some = some_queries(_of_first(scoring, size), chosen, size)
        rows = neg_rows[:size] if neg_rows.dim() == 1 else neg_rows[chosen, :size]
        own = blocked_loss(query_BD[chosen], item_UD, pos_rows[some.positives], rows, some.scoring)
        loss = loss.index_add(0, chosen, own)
    if every_row is None or not bool(exact.any()):
        return loss
    chosen = exact.nonzero().squeeze(1)
    some = some_queries(_over_all(scoring, every_row), chosen)
    own = blocked_loss(query_BD[chosen], item_UD, pos_rows[some.positives], every_row, some.scoring)
    return loss.index_add(0, chosen, own)


@torch.no_grad()
def sample_sizes(query_BD: Tensor, item_UD: Tensor, neg_rows: Tensor, scoring: Scoring, growth: Growth) -> Sizes:
    """How many candidates each query takes. A block's logits are made for the queries that still need it only."""
    scaled, log_q = query_BD * scoring.inverse_temperature, scoring.negatives.log_q.to(query_BD.dtype)
    total, num_sampled = scaled.new_full((2, len(scaled)), -torch.inf), neg_rows.shape[-1]
    taken = torch.zeros(len(scaled), dtype=torch.int64, device=scaled.device)
    short = torch.arange(len(scaled), device=scaled.device)
    for low in range(0, num_sampled, growth.block):
        here = slice(low, low + growth.block)
        if neg_rows.dim() == 1:
            logits = scaled[short] @ item_UD[neg_rows[here]].T - log_q[here]
        else:
            own = item_UD[neg_rows[short, here]]
            logits = torch.einsum("bkd,bd->bk", own, scaled[short]) - log_q[short, here]
        sums = torch.stack([logits.logsumexp(1), (2 * logits).logsumexp(1)])
        total[:, short] = torch.logaddexp(total[:, short], sums)
        taken[short] = min(low + growth.block, num_sampled)
        short = short[(2 * total[0, short] - total[1, short]).exp() < growth.effective]
        if not len(short):
            break
    enough = torch.ones(len(scaled), dtype=torch.bool, device=scaled.device).index_fill_(0, short, False)
    return Sizes(taken, enough)


def _of_first(scoring: Scoring, size: int) -> Scoring:
    """Expected counts of a sample of ``size`` in place of all."""
    ids, log_q, pos_log_q = scoring.negatives
    less = math.log(size / log_q.shape[-1])
    return scoring._replace(negatives=Negatives(ids, log_q + less, pos_log_q + less))


def _over_all(scoring: Scoring, every_row: Tensor) -> Scoring:
    """Every item once, none of them masked."""
    pos_log_q, nothing = torch.zeros_like(scoring.negatives.pos_log_q), every_row[:0]
    negatives = Negatives(every_row, torch.zeros(len(every_row), device=every_row.device), pos_log_q)
    return scoring._replace(negatives=negatives, hits=Hits(nothing, nothing))
