"""Weights of positives by their place among the items: training looks at the top k, as the metric does.

Source: Yang et al. 2025, "Breaking the Top-K barrier: advancing top-K ranking metrics optimization in recommender
systems" (SL@K), eq. 12 and its estimate of the quantile from a sample.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.losses.interface import mask_value, positive_rows, widened


class TopWeights(NamedTuple):
    """k: the cut-off. temperature: how soft the edge is, in units of the score."""

    k: int
    temperature: float


def top_weights(
    settings: TopWeights,
    neg_scores: Tensor,
    log_q: Tensor | None,
    pos_scores: Tensor,
    offsets: Tensor,
    inverse_temperature: float,
) -> Tensor:
    """(P,) weight σ((score_p − β_b) / temperature) of each positive, without gradient.

    β_b is the score of the item at place k of query b, estimated from the sample: a negative j stands for e^−log_q_j
    items, a positive for itself; β_b is where their number, counted from the highest score down, first reaches k (the
    lowest score of all if it never does).

    Args:
        settings: cut-off and softness.
        neg_scores: (B, K) scores / τ without log-Q; masked ones hold ``mask_value(dtype)``. Not changed.
        log_q: (K,) or (B, K).
        pos_scores: (P,) scores / τ.
        offsets: (B+1,).
        inverse_temperature: 1/τ, to return to the score's own units.

    Cost O(B·K), of the top candidates only as many as could reach k.
    """
    rows = positive_rows(offsets, len(pos_scores))
    scores, counts = _candidates(settings, neg_scores, log_q, pos_scores, offsets, rows)
    ordered, order = scores.sort(dim=1, descending=True)
    reached = counts.gather(1, order).cumsum(1) >= settings.k * (1 - 1e-6)
    lowest = (scores > mask_value(scores.dtype)).sum(1, keepdim=True).clamp(min=1) - 1
    place = torch.where(reached.any(1, keepdim=True), reached.int().argmax(1, keepdim=True), lowest)
    edge = ordered.gather(1, place).squeeze(1)[rows]
    return torch.sigmoid((pos_scores - edge) / (inverse_temperature * settings.temperature))


def _candidates(
    settings: TopWeights, neg_scores: Tensor, log_q: Tensor | None, pos_scores: Tensor, offsets: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, m + T) scores of the best negatives and of the positives, and how many items each stands for."""
    columns = neg_scores.shape[1]
    log_q = neg_scores.new_zeros(columns, dtype=pos_scores.dtype) if log_q is None else log_q
    largest = float(log_q.max()) if log_q.numel() else 0.0
    wanted = min(columns, math.ceil(settings.k * math.exp(min(largest, 50.0))))
    best, which = neg_scores.topk(wanted, dim=1)
    best = widened(best).to(pos_scores.dtype)
    stands_for = torch.exp(-(log_q[which] if log_q.dim() == 1 else log_q.gather(1, which)))
    stands_for = torch.where(best == mask_value(best.dtype), 0.0, stands_for)
    width = int(offsets.diff().max()) if len(offsets) > 1 else 0
    own = pos_scores.new_full((len(offsets) - 1, width), mask_value(pos_scores.dtype))
    places = torch.arange(len(pos_scores), device=rows.device) - offsets[rows]
    own[rows, places] = pos_scores
    counts = torch.zeros_like(own)
    counts[rows, places] = 1.0
    return torch.cat([best, own], 1), torch.cat([stands_for, counts], 1)
