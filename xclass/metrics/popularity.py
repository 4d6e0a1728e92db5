"""Popularity: the baseline that everything must beat, and the bands that show what lies behind a mean.

Item numbers fall with train count, so both are ranges: the most popular items a query has not seen are the lowest
unseen numbers, and a band is an interval of numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.types import Ragged, TopK

HEAD_SHARE = 0.5
TORSO_SHARE = 0.8
CHECKED_AT_ONCE = 1 << 22


class Band(NamedTuple):
    """Items ``first … end-1``: those that hold a share of the train pairs.

    definition: in words, e.g. "the most popular items that together hold 50% of the train pairs".
    """

    name: str
    first: int
    end: int
    definition: str

    def restrict(self, positives: Ragged) -> Ragged:
        """Only the positives that lie in this band; every query stays, maybe without any."""
        return positives.filter((positives.values >= self.first) & (positives.values < self.end))


def popularity_bands(item_counts: Tensor) -> list[Band]:
    """Head, torso and tail: the most popular items with 50% of the train pairs, the next 30%, the last 20%; and cold.

    The item that crosses a border belongs to the more popular side. Items without a train pair are cold.
    A band may be empty (a catalogue of one item has only a head).

    Args:
        item_counts: (N,) integers, train pairs of each item, never rising.
    """
    check_falling(item_counts)
    before = torch.cumsum(item_counts, 0).sub_(item_counts)
    total, num_items = int(item_counts.sum()), len(item_counts)
    torso_start = int((before < HEAD_SHARE * total).sum())
    tail_start = int((before < TORSO_SHARE * total).sum())
    cold_start = int((item_counts > 0).sum())
    torso, tail, cold = tail_start - torso_start, cold_start - tail_start, num_items - cold_start
    return [
        Band("head", 0, torso_start, f"the {torso_start:,} most popular items, with 50% of the train pairs"),
        Band("torso", torso_start, tail_start, f"the next {torso:,} items, with 30% of the train pairs"),
        Band("tail", tail_start, cold_start, f"the last {tail:,} items, with 20% of the train pairs"),
        Band("cold", cold_start, num_items, f"the {cold:,} items without a train pair"),
    ]


def popular_topk(seen: Ragged, k: int, item_counts: Tensor, checked: bool = False) -> TopK:
    """The k items with the most train pairs that each query has not seen; the score is the count.

    The r-th unseen number (from 0) is r + the number of seen s_i, rising, with s_i − i ≤ r: one sorted search per
    place. O(B·k·log) whatever the catalogue's size, once it was checked that counts never rise.

    Args:
        seen: Ragged (B), item numbers in any order, repeats allowed.
        item_counts: (N,) integers, never rising.
        checked: :func:`check_falling` has been asked already.
    """
    if k < 1:
        raise InputError("k is too small", wanted="1 or more", got=k)
    if not checked:
        check_falling(item_counts)
    num_items, width = len(item_counts), min(k, len(item_counts))
    keys = torch.unique(seen.rows() * num_items + seen.long().values)
    rows = torch.div(keys, max(num_items, 1), rounding_mode="floor")
    starts = torch.searchsorted(rows, torch.arange(len(seen)))
    unseen_below = keys - rows * num_items - (torch.arange(len(keys)) - starts[rows])
    places = torch.arange(len(seen))[:, None] * (num_items + 1) + torch.arange(width)
    jumped = torch.searchsorted(rows * (num_items + 1) + unseen_below, places, right=True) - starts[:, None]
    numbers = torch.arange(width) + jumped
    keep = numbers < num_items
    return TopK.from_padded(numbers, item_counts[numbers.clamp(max=max(num_items - 1, 0))].float(), keep)


def check_falling(item_counts: Tensor) -> None:
    """InputError where an item has more train pairs than the one before it. O(N), in blocks."""
    for start in range(0, len(item_counts) - 1, CHECKED_AT_ONCE):
        block = item_counts[start : start + CHECKED_AT_ONCE + 1]
        if bool((block[1:] > block[:-1]).any()):
            raise InputError("item numbers must fall with train count", wanted="counts that never rise", got="a rise")
