"""The part of a blocked loss that some queries of a batch are, with the first of its candidates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.losses.fused.accidental_hits import Hits
from xclass.losses.fused.sampled_loss import Scoring


class Some(NamedTuple):
    """scoring: of the chosen queries. positives: bool (P,), the positives that are theirs."""

    scoring: Scoring
    positives: Tensor


def some_queries(scoring: Scoring, chosen: Tensor, columns: int | None = None) -> Some:
    """The scoring of the queries ``chosen`` (int64, rising) with their first ``columns`` candidates; None for all.

    Cost O(B + P + hits), and of candidates of each query's own the cells that are kept.
    """
    positives, negatives, hits = scoring.positives, scoring.negatives, scoring.hits
    place = torch.full((len(positives),), -1, device=chosen.device)
    place[chosen] = torch.arange(len(chosen), device=chosen.device)
    inside = place[positives.rows()] >= 0
    kept = place[hits.rows] >= 0
    if columns is not None:
        kept &= hits.columns < columns
    cells = (slice(columns),) if negatives.log_q.dim() == 1 else (chosen, slice(columns))
    part = negatives._replace(
        ids=negatives.ids[cells], log_q=negatives.log_q[cells], pos_log_q=negatives.pos_log_q[inside]
    )
    return Some(
        scoring._replace(
            positives=positives.take(chosen),
            negatives=part,
            hits=Hits(place[hits.rows[kept]], hits.columns[kept]),
            row_weights=None if scoring.row_weights is None else scoring.row_weights[chosen],
        ),
        inside,
    )
