"""Infrequent normalisation: a loss whose sum over the items is made for some queries of a batch only.

Source: Andreas & Klein 2015, "When and why are log-linear models self-normalizing?", eq. 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.heads.blocked import Scoring, blocked_loss
from xclass.heads.some_queries import some_queries
from xclass.losses.seam import final_weights


def chosen_queries(queries: int, share: float, generator: torch.Generator) -> Tensor:
    """int64, rising: each query with probability ``share``."""
    return (torch.rand(queries, generator=generator) < share).nonzero().squeeze(1)


def infrequent_loss(
    query_BD: Tensor, item_UD: Tensor, pos_rows: Tensor, neg_rows: Tensor, scoring: Scoring, chosen: Tensor
) -> Tensor:
    """(B,) loss of each query times its row weight: −Σ_p w_p x_p, and for the chosen ones the whole loss.

    Args:
        query_BD, item_UD, pos_rows, neg_rows, scoring: as :func:`xclass.heads.blocked.blocked_loss` takes them; the
            loss is one that leaves the sum out of its likelihood, with candidates shared by the batch.
        chosen: int64, rising, of :func:`chosen_queries`.

    Cost O(P·D) and that of the blocked loss for the chosen queries.
    """
    positives, inverse = scoring.positives, scoring.inverse_temperature
    some, owners = some_queries(scoring, chosen), positives.rows()
    outside = ~some.positives
    share = final_weights(scoring.loss, positives.offsets, positives.weights, query_BD.new_empty(len(owners)))
    scores = torch.linalg.vecdot(query_BD[owners[outside]], item_UD[pos_rows[outside]]) * inverse
    loss = query_BD.new_zeros(len(query_BD)).index_add(0, owners[outside], -share[outside] * scores)
    if scoring.row_weights is not None:
        loss = loss * scoring.row_weights
    if not len(chosen):
        return loss
    own = blocked_loss(query_BD[chosen], item_UD, pos_rows[some.positives], neg_rows, some.scoring)
    return loss.index_add(0, chosen, own)
