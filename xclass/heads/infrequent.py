"""Infrequent normalisation: a loss whose sum over the items is made for some queries of a batch only.

Source: Andreas & Klein 2015, "When and why are log-linear models self-normalizing?", eq. 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.heads.blocked import Scoring, blocked_loss
from xclass.heads.masks import Hits
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
    owners, place = positives.rows(), torch.full((len(query_BD),), -1, device=query_BD.device)
    place[chosen] = torch.arange(len(chosen), device=chosen.device)
    inside = place[owners] >= 0
    share = final_weights(scoring.loss, positives.offsets, positives.weights, query_BD.new_empty(len(owners)))
    scores = torch.linalg.vecdot(query_BD[owners[~inside]], item_UD[pos_rows[~inside]]) * inverse
    loss = query_BD.new_zeros(len(query_BD)).index_add(0, owners[~inside], -share[~inside] * scores)
    if scoring.row_weights is not None:
        loss = loss * scoring.row_weights
    if not len(chosen):
        return loss
    kept = place[scoring.hits.rows] >= 0
    part = scoring._replace(
        positives=positives.take(chosen),
        negatives=scoring.negatives._replace(pos_log_q=scoring.negatives.pos_log_q[inside]),
        hits=Hits(place[scoring.hits.rows[kept]], scoring.hits.columns[kept]),
        row_weights=None if scoring.row_weights is None else scoring.row_weights[chosen],
    )
    return loss.index_add(0, chosen, blocked_loss(query_BD[chosen], item_UD, pos_rows[inside], neg_rows, part))
