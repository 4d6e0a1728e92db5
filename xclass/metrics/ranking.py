"""The ranking metrics: plain functions of the matches and the cut-off.

Each takes ``(matches, k)`` and returns float64 (B,), one value per query; NaN where a query has no positive: such
queries are skipped, and counted. Relevance is binary. The order of the list is the ranking, but among equal scores the
positives stand last: a tie counts against the positive. A list shorter than k has misses in its missing places.
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
    gains = matches.once("discounts", lambda: discounts(matches.ranks))
    return matches.sum_by_query(gains, k) / ideal_dcg(_positives(matches), k)


def average_precision(matches: Matches, k: int) -> Tensor:
    """Σ over hits in the first k of (hits up to that rank / rank), over min(k, positives)."""
    gains = matches.once("precisions", lambda: _precisions(matches))
    return matches.sum_by_query(gains, k) / _positives(matches).clamp(max=k)


def reciprocal_rank(matches: Matches, k: int) -> Tensor:
    """1 / rank of the first hit, 0 when the first k hold none."""
    firsts = matches.once("first ranks", lambda: _first_ranks(matches))
    return _skip(matches, torch.where(firsts <= k, 1.0 / firsts, 0.0))


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
    ones = matches.once("ones", lambda: torch.ones(len(matches.rows), dtype=torch.float64))
    return matches.once(f"hits@{k}", lambda: matches.sum_by_query(ones, k))


def _precisions(matches: Matches) -> Tensor:
    """float64 (H,): hits up to this one / its rank."""
    firsts = torch.searchsorted(matches.rows, matches.rows)
    return torch.arange(1, len(matches.rows) + 1).sub(firsts).double() / matches.ranks


def _first_ranks(matches: Matches) -> Tensor:
    """float64 (B,): the best rank of a hit, infinite where there is none."""
    ranks = torch.full((len(matches),), torch.inf, dtype=torch.float64)
    return ranks.scatter_reduce_(0, matches.rows, matches.ranks.double(), "amin")


def _positives(matches: Matches) -> Tensor:
    """float64 (B,), number of positives, NaN instead of 0."""
    return torch.where(matches.positives > 0, matches.positives.double(), torch.nan)


def _skip(matches: Matches, values_B: Tensor) -> Tensor:
    return torch.where(matches.positives > 0, values_B, torch.nan)
