"""The ranking metrics: plain functions of the matches and the cut-off.

Each takes ``(matches, k)`` and returns float64 (B,), one value per query; NaN where a query has no positive: such
queries are skipped, and counted. Relevance is binary. The order of the list is the ranking: ties of score were broken
by the search (lower item number first), never by the truth. A list shorter than k has misses in its missing places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.metrics.matching import Matches


def recall(matches: Matches, k: int) -> Tensor:
    """Hits in the first k / positives."""
    return _hits(matches, k) / _positives(matches)


def capped_recall(matches: Matches, k: int) -> Tensor:
    """Hits in the first k / min(k, positives): 1 can be reached even with more than k positives."""
    return _hits(matches, k) / _positives(matches).clamp(max=k)


def precision(matches: Matches, k: int) -> Tensor:
    """Hits in the first k / k."""
    return _skip(matches, _hits(matches, k) / k)


def hit_rate(matches: Matches, k: int) -> Tensor:
    """1 when the first k hold a positive, else 0."""
    return _skip(matches, _hits(matches, k).clamp(max=1.0))


def ndcg(matches: Matches, k: int) -> Tensor:
    """Σ over hits of 1/log2(rank+1), over the same sum of an ideal list: ranks 1 … min(k, positives)."""
    gained = matches.sum_by_query(discounts(matches.ranks), k)
    return gained / ideal_dcg(_positives(matches), k)


def average_precision(matches: Matches, k: int) -> Tensor:
    """Σ over hits in the first k of (hits up to that rank / rank), over min(k, positives)."""
    firsts = torch.searchsorted(matches.rows, matches.rows)
    hit_numbers = torch.arange(1, len(matches.rows) + 1) - firsts
    gained = matches.sum_by_query(hit_numbers.double() / matches.ranks, k)
    return gained / _positives(matches).clamp(max=k)


def reciprocal_rank(matches: Matches, k: int) -> Tensor:
    """1 / rank of the first hit, 0 when the first k hold none."""
    best = torch.zeros(len(matches), dtype=torch.float64)
    reciprocals = torch.where(matches.ranks <= k, 1.0 / matches.ranks.double(), 0.0)
    return _skip(matches, best.scatter_reduce_(0, matches.rows, reciprocals, "amax"))


def discounts(ranks: Tensor) -> Tensor:
    """float64, 1/log2(rank+1) of each rank (1 = best)."""
    return 1.0 / torch.log2(ranks.double() + 1.0)


def ideal_dcg(positives_B: Tensor, k: int) -> Tensor:
    """float64 (B,): Σ of 1/log2(r+1) for r = 1 … min(k, positives); NaN where there is no positive."""
    longest = int(torch.nan_to_num(positives_B).clamp(max=k).max()) if len(positives_B) else 0
    totals = torch.cumsum(discounts(torch.arange(1, max(longest, 1) + 1)), 0)
    places = torch.nan_to_num(positives_B, nan=1.0).clamp(max=k).long() - 1
    return torch.where(positives_B.isnan(), torch.nan, totals[places])


def _hits(matches: Matches, k: int) -> Tensor:
    return matches.sum_by_query(torch.ones(len(matches.rows), dtype=torch.float64), k)


def _positives(matches: Matches) -> Tensor:
    """float64 (B,), number of positives, NaN instead of 0."""
    return torch.where(matches.positives > 0, matches.positives.double(), torch.nan)


def _skip(matches: Matches, values_B: Tensor) -> Tensor:
    return torch.where(matches.positives > 0, values_B, torch.nan)
