"""Where the positives stand in the lists: all that a ranking metric needs, found once per batch.

A rectangle of queries × items is never made. Compiled, each recommended item is looked up among its query's sorted
positives. Plain, (query, item) pairs become one int64 key each, the keys of the positives are sorted, and every
recommended pair looks its key up. O(predictions · log positives) either way, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.jit import compiles
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
    _kept: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Number of queries, B."""
        return len(self.positives)

    def sum_by_query(self, gains_H: Tensor, k: int) -> Tensor:
        """float64 (B,): the sum of ``gains_H`` over each query's hits of rank ≤ k, added in the order of ranks."""
        gains = np.where(self.ranks.numpy() <= k, gains_H.numpy(), 0.0)
        return torch.from_numpy(np.bincount(self.rows.numpy(), weights=gains, minlength=len(self)).astype(np.float64))

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, computed for the first metric that asks and kept for the others."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def restrict(self, first: int, end: int) -> Matches:
        """The same lists with only the positives ``first … end − 1``; ranks stay what they are."""
        hits = (self.items >= first) & (self.items < end)
        truth = self.truth.filter((self.truth.values >= first) & (self.truth.values < end))
        return Matches(self.rows[hits], self.ranks[hits], self.items[hits], truth.lengths(), truth)


def match(found: TopK, truth: Ragged) -> Matches:
    """Find the positives in the lists.

    The order of a list is its ranking; where scores are equal, positives are ranked behind the others of that score.

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
    distinct = _distinct(truth)
    if not len(distinct.values) or not len(found.ids):
        none = torch.empty(0, dtype=torch.int64)
        return Matches(none, none, none, distinct.lengths(), distinct)
    rows, ranks, items = (_compiled_hits if compiles() else _plain_hits)(found, distinct)
    return Matches(rows, ranks, items, distinct.lengths(), distinct)


def _distinct(truth: Ragged) -> Ragged:
    """Each query's positives, rising, without repeats; the same object's values when they are so already."""
    rows = truth.rows()
    rising = (truth.values[1:] > truth.values[:-1]) | (rows[1:] != rows[:-1])
    if bool(rising.all()):
        return truth
    stride = 1 + int(truth.values.max())
    keys = torch.unique(rows * stride + truth.values)
    rows = torch.div(keys, stride, rounding_mode="floor")
    return Ragged(offsets_of(torch.bincount(rows, minlength=len(truth))), keys - rows * stride)


def _compiled_hits(found: TopK, truth: Ragged) -> tuple[Tensor, Tensor, Tensor]:
    from xclass.metrics import _numba

    room = tuple(np.empty(len(truth.values), dtype=np.int64) for _ in range(3))
    lists = (found.offsets.numpy(), found.ids.numpy(), found.scores.numpy())
    count = _numba.find_hits(*lists, truth.offsets.numpy(), truth.values.numpy(), *room)
    if count < 0:
        _refuse_repeat()
    rows, ranks, items = (torch.from_numpy(values[:count]) for values in room)
    return rows, ranks, items


def _plain_hits(found: TopK, truth: Ragged) -> tuple[Tensor, Tensor, Tensor]:
    stride = 1 + max(int(found.ids.max()), int(truth.values.max()))
    wanted = truth.rows() * stride + truth.values
    rows = found.rows()
    keys = rows * stride + found.ids
    places = torch.searchsorted(wanted, keys).clamp_(max=len(wanted) - 1)
    hits = (wanted[places] == keys).nonzero().squeeze(1)
    if len(torch.unique(places[hits])) < len(hits):
        _refuse_repeat()
    starts = found.offsets[rows[hits]]
    return rows[hits], _behind_their_equals(found, rows, hits) - starts + 1, found.ids[hits]


def _behind_their_equals(found: TopK, rows: Tensor, hits: Tensor) -> Tensor:
    """int64 (H,): the places of the hits, moved to the end of their group of equal scores."""
    tied = (found.scores[1:] == found.scores[:-1]) & (rows[1:] == rows[:-1])
    if not bool(tied.any()) or not len(hits):
        return hits
    groups = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(~tied, 0)])
    ends = torch.cumsum(torch.bincount(groups), 0)
    group_H = groups[hits]
    numbers = torch.arange(len(hits)) - torch.searchsorted(group_H, group_H)
    return ends[group_H] - torch.bincount(group_H, minlength=len(ends))[group_H] + numbers


def _refuse_repeat() -> None:
    raise InputError("a list recommends the same item twice", wanted="distinct items in every list")
