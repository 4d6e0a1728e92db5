"""Where the positives stand in the lists: all that a ranking metric needs, found once per batch by sorted search.

A rectangle of queries × items is never made: (query, item) pairs become one int64 key each, the keys of the
positives are sorted, and every recommended pair looks its key up. O((predictions + positives) · log positives).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.types import Ragged, TopK, offsets_of


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The hits of a batch, and what could have been hit.

    rows, ranks, items: int64 (H,): query, rank (1 = best) and item of every recommended positive, by query, then rank.
    positives: int64 (B,), number of *distinct* positives of each query.
    truth: Ragged (B,), those distinct positives, rising within a query.
    """

    rows: Tensor
    ranks: Tensor
    items: Tensor
    positives: Tensor
    truth: Ragged

    def __len__(self) -> int:
        """Number of queries, B."""
        return len(self.positives)

    def sum_by_query(self, gains_H: Tensor, k: int) -> Tensor:
        """float64 (B,): the sum of ``gains_H`` over each query's hits of rank ≤ k."""
        gains_H = torch.where(self.ranks <= k, gains_H, 0.0).to(torch.float64)
        return torch.zeros(len(self), dtype=torch.float64).index_add_(0, self.rows, gains_H)


def match(found: TopK, truth: Ragged) -> Matches:
    """Find the positives in the lists.

    Args:
        found: B lists, best first, in the order that counts.
        truth: Ragged (B), the positives; any order, repeats count once, weights are not looked at.

    Raises:
        InputError: another number of lists; a negative item number; a positive that one list recommends twice.
    """
    if len(found) != len(truth):
        raise InputError(
            "lists and truth are of different length", wanted=f"{len(truth)} lists", got=f"{len(found)} lists"
        )
    truth = truth.long()
    for name, ids in (("recommended", found.ids), ("positive", truth.values)):
        if len(ids) and int(ids.min()) < 0:
            raise InputError(f"a {name} item number is negative", wanted="0 and up", got=int(ids.min()))
    stride = 1 + max((int(ids.max()) for ids in (found.ids, truth.values) if len(ids)), default=0)
    wanted = torch.unique(truth.rows() * stride + truth.values)
    wanted_rows = torch.div(wanted, stride, rounding_mode="floor")
    positives = torch.bincount(wanted_rows, minlength=len(truth))
    distinct = Ragged(offsets_of(positives), wanted - wanted_rows * stride)
    if not len(wanted) or not len(found.ids):
        none = torch.empty(0, dtype=torch.int64)
        return Matches(none, none, none, positives, distinct)
    return _hits(found, wanted, stride, positives, distinct)


def _hits(found: TopK, wanted: Tensor, stride: int, positives: Tensor, truth: Ragged) -> Matches:
    rows = found.rows()
    keys = rows * stride + found.ids
    places = torch.searchsorted(wanted, keys).clamp_(max=len(wanted) - 1)
    hits = (wanted[places] == keys).nonzero().squeeze(1)
    if len(torch.unique(places[hits])) < len(hits):
        raise InputError("a list recommends the same item twice", wanted="distinct items in every list")
    rows = rows[hits]
    return Matches(rows, hits - found.offsets[rows] + 1, found.ids[hits], positives, truth)
