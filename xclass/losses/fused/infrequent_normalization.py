"""Infrequent normalisation: a loss whose sum over the items is made for some queries of a batch only.

Source: Andreas & Klein 2015, "When and why are log-linear models self-normalizing?", eq. 8.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from xclass.losses.fused.pairs import add_rows, pair_scores
from xclass.losses.fused.problem import Gradients
from xclass.losses.fused.sampled_loss import Scoring, one_pass_loss, run_blocked
from xclass.losses.fused.subset import some_queries
from xclass.losses.interface import final_weights


def chosen_queries(queries: int, share: float, generator: torch.Generator) -> Tensor:
    """int64, rising: each query with probability ``share``."""
    return (torch.rand(queries, generator=generator) < share).nonzero().squeeze(1)


def infrequent_loss(
    query_BD: Tensor, item_UD: Tensor, pos_rows: Tensor, neg_rows: Tensor, scoring: Scoring, chosen: Tensor
) -> Tensor:
    """(B,) loss of each query times its row weight: −Σ_p w_p x_p, and for the chosen ones the whole loss.

    Args:
        query_BD, item_UD, pos_rows, neg_rows, scoring: as :func:`xclass.losses.fused.sampled_loss.blocked_loss` takes
        them; the
            loss is one that leaves the sum out of its likelihood, with candidates shared by the batch.
        chosen: int64, rising, of :func:`chosen_queries`.

    Cost O(P·D) and that of the blocked loss for the chosen queries.
    """
    return one_pass_loss(query_BD, item_UD, pos_rows, neg_rows, scoring, partial(_run, chosen=chosen))


def _run(
    query: Tensor,
    items: Tensor,
    pos_rows: Tensor,
    neg_rows: Tensor,
    scoring: Scoring,
    weights_B: Tensor | None,
    *,
    chosen: Tensor,
) -> tuple[Tensor, Gradients]:
    """One gradient of all items, to which the pairs of the other queries are added: autograd would make two."""
    positives = scoring.positives
    some, owners = some_queries(scoring, chosen), positives.rows()
    share = final_weights(scoring.loss, positives.offsets, positives.weights, query.new_empty(len(owners)))
    factor = -scoring.inverse_temperature * (share if weights_B is None else share * weights_B[owners])
    outside = ~some.positives
    factor, owners, others = factor[outside], owners[outside], pos_rows[outside]
    loss = query.new_zeros(len(query)).index_add_(0, owners, factor * pair_scores(query, owners, items, others))
    by_query, by_item = torch.zeros_like(query), None
    if len(chosen):
        weights = None if weights_B is None else weights_B[chosen]
        own, found = run_blocked(query[chosen], items, pos_rows[some.positives], neg_rows, some.scoring, weights)
        loss.index_add_(0, chosen, own)
        by_query[chosen], by_item = found
    by_item = torch.zeros_like(items) if by_item is None else by_item
    add_rows(by_query, owners, items, others, factor)
    add_rows(by_item, others, query, owners, factor)
    return loss, Gradients(by_query, by_item)
