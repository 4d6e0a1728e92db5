"""Propensity-scored metrics for catalogues whose truth is incomplete, rare items most of all.

Jain, Prabhu, Varma: "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing Label
Applications", KDD 2016, equations 6 and 7. The chance that a true pair was recorded is modelled as

    p(item) = 1 / (1 + C · (n_item + B)^−A),   C = (ln(num_queries) − 1) · (B + 1)^A

with n_item the item's train pairs. A hit then counts 1/p(item).

These metrics are ratios of totals: Σ over queries of what was gained, over Σ over queries of what the best possible
lists would gain. Each function here returns one of the two, float64 (B,), NaN for a query without positives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.metrics.matching import Matches
from xclass.metrics.ranking import discounts, ideal_dcg

DEFAULT_A = 0.55
LARGEST_A, LARGEST_B = 10, 1_000_000
DEFAULT_B = 1.5


class Propensities(NamedTuple):
    """1/p of every item, and what it was made with.

    weights_N: float64 (N,). num_queries: train documents. a, b: the constants.
    """

    weights_N: Tensor
    num_queries: int
    a: float = DEFAULT_A
    b: float = DEFAULT_B

    @classmethod
    def of(cls, item_counts: Tensor, num_queries: int, a: float = DEFAULT_A, b: float = DEFAULT_B) -> Propensities:
        """As :func:`inverse_propensities`."""
        return cls(inverse_propensities(item_counts, num_queries, a, b), num_queries, a, b)

    def definition(self) -> str:
        """The formula with its constants."""
        return (
            f"p(item) = 1 / (1 + C·(n + B)^−A) with n the item's train pairs, A = {self.a:g}, B = {self.b:g}, "
            f"C = (ln({self.num_queries}) − 1)·(B + 1)^A, {self.num_queries} train queries (Jain et al. 2016)"
        )


def inverse_propensities(item_counts: Tensor, num_queries: int, a: float = DEFAULT_A, b: float = DEFAULT_B) -> Tensor:
    """float64 (N,): 1/p of every item.

    Args:
        item_counts: (N,), train pairs of each item.
        num_queries: queries with a train pair (documents of the train split).
        a, b: the data set's constants. (.55, 1.5) as a rule; Wikipedia (.5, .4); Amazon (.6, 2.6).

    Raises:
        InputError: num_queries < 3: C would not be positive; a or b is out of range.
    """
    if num_queries < 3:
        raise InputError("propensities need train queries", wanted="num_queries of 3 or more", got=num_queries)
    if not (0 <= a <= LARGEST_A and 0 <= b <= LARGEST_B):
        wanted = f"A from 0 to {LARGEST_A}, B from 0 to {LARGEST_B:,}"
        raise InputError("the constants of propensities can't be right", wanted=wanted, got=f"{a}, {b}")
    c = (math.log(num_queries) - 1.0) * (b + 1.0) ** a
    weights = item_counts.to(torch.float64, copy=True)  # in place from here on: the one float64 number an item
    return weights.add_(b).pow_(-a).mul_(c).add_(1.0)


def ps_precision(matches: Matches, k: int, weights_N: Tensor) -> Tensor:
    """Σ over hits in the first k of 1/p(item), over k."""
    return _skip(matches, matches.sum_by_query(_weights_of(matches.items, weights_N), k) / k)


def best_ps_precision(matches: Matches, k: int, weights_N: Tensor) -> Tensor:
    """The same for the list of the query's positives, rarest first."""
    best, _ = _best_gains(matches, k, weights_N)
    return _skip(matches, best / k)


def ps_ndcg(matches: Matches, k: int, weights_N: Tensor) -> Tensor:
    """Σ over hits in the first k of 1/(p(item)·log2(rank+1)), over Σ of 1/log2(r+1) for r = 1 … min(k, positives)."""
    gains = _weights_of(matches.items, weights_N) * discounts(matches.ranks)
    return matches.sum_by_query(gains, k) / _ideal(matches, k)


def best_ps_ndcg(matches: Matches, k: int, weights_N: Tensor) -> Tensor:
    """The same for the list of the query's positives, rarest first."""
    _, best = _best_gains(matches, k, weights_N)
    return best / _ideal(matches, k)


def _best_gains(matches: Matches, k: int, weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """float64 (B,) twice: what the best list of k gains, plain and discounted by rank."""
    rows, weights = matches.truth.rows(), _weights_of(matches.truth.values, weights_N)
    order = torch.argsort(weights, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    rows, weights = rows[order], weights[order]
    ranks = torch.arange(len(rows)) - matches.truth.offsets[rows] + 1
    weights = torch.where(ranks <= k, weights, 0.0)
    plain, discounted = torch.zeros(2, len(matches), dtype=torch.float64)
    return plain.index_add_(0, rows, weights), discounted.index_add_(0, rows, weights * discounts(ranks))


def _weights_of(items: Tensor, weights_N: Tensor) -> Tensor:
    if len(items) and int(items.max()) >= len(weights_N):
        raise InputError(
            "an item has no propensity", wanted=f"item numbers below {len(weights_N)}", got=int(items.max())
        )
    return weights_N[items]


def _ideal(matches: Matches, k: int) -> Tensor:
    return ideal_dcg(torch.where(matches.positives > 0, matches.positives.double(), torch.nan), k)


def _skip(matches: Matches, values_B: Tensor) -> Tensor:
    return torch.where(matches.positives > 0, values_B, torch.nan)
