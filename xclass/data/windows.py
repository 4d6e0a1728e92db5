"""Ordered histories of positions in sequences: the items just before each, read off the sequence itself.

A text is stored once, as the next items of its positions in order (``values.npy`` of each split). What comes before a
position is therefore what the positions before it have as their next item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.types import Ragged, offsets_of


class SequenceFacts(NamedTuple):
    """How a dataset's sequences are to be read.

    context: items before a position that are its history, at most.
    borders: stop, cross or ignore; see ``IngestOptions.borders``.
    border_item: number of the item that ends a sentence; None with borders = "ignore".
    unknown_item: number of the item that stands for every word outside of the vocabulary; None without one.
    """

    context: int
    borders: str
    border_item: int | None
    unknown_item: int | None


class Windows:
    """Lists by position: the ``context`` items before it, oldest first; fewer after the start of its part.

    Args:
        parts: the items of each part in order; positions are counted through all of them.
        context: L, items at most.
        stop: an item that no list reaches back to or over; None for none.

    Nothing is read before lists are taken; a list costs O(L).
    """

    def __init__(self, parts: Sequence[Tensor], context: int, stop: int | None) -> None:
        self.parts, self.context, self.stop = [part for part in parts if len(part)], context, stop
        self._edges = offsets_of(torch.tensor([len(part) for part in self.parts], dtype=torch.int64))

    def __len__(self) -> int:
        """Number of positions."""
        return int(self._edges[-1])

    def take(self, rows: Tensor) -> Ragged:
        """The lists of the positions ``rows`` (int64, any order, repeats allowed), int64 items."""
        before = torch.arange(-self.context, 0)
        items = torch.full((len(rows), self.context), -1)
        part_of = torch.searchsorted(self._edges[1:], rows, right=True)
        for number, part in enumerate(self.parts):
            mine = (part_of == number).nonzero().squeeze(1)
            places = (rows[mine] - self._edges[number]).unsqueeze(1) + before
            found = part[places.clamp(min=0)].long()
            items[mine] = torch.where(places < 0, -1, found)
        keep = items >= 0
        if self.stop is not None:
            keep &= (items == self.stop).flip(1).cumsum(1).flip(1) == 0
        return Ragged(offsets_of(keep.sum(1)), items[keep])


def follow_counts(items: Tensor, num_items: int, stop: int | None) -> Ragged:
    """Ragged (N): which items come next after each item in a sequence, with how often as weights.

    Args:
        items: the sequence.
        stop: an item after which a new sequence starts.

    Cost O(M log M) for M items.
    """
    first, then = items[:-1].long(), items[1:].long()
    if stop is not None:
        kept = first != stop
        first, then = first[kept], then[kept]
    pairs, counts = torch.unique(first * num_items + then, return_counts=True)
    offsets = offsets_of(torch.bincount(pairs // num_items, minlength=num_items))
    return Ragged(offsets, pairs % num_items, counts.float())
