"""Which candidates must not count as negatives: positions, never a (B, K) mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.types import Ragged


class Hits(NamedTuple):
    """Cells of the (B, K) logits to mask: ``rows`` rising, int64 (H,) each."""

    rows: Tensor
    columns: Tensor


def find_hits(excluded: Ragged, candidates: Tensor) -> Hits:
    """Every (query, column) whose candidate is among the query's excluded items; all copies of a candidate count.

    Args:
        excluded: Ragged (B) of item numbers.
        candidates: int64 (K,), repeats allowed.

    Cost O((K + M) log K + hits) for M excluded items; no B × K anything.

    >>> find_hits(Ragged.from_lists([[4], [], [7, 4]]), torch.tensor([4, 9, 4])).columns.tolist()
    [0, 2, 0, 2]
    """
    ordered, order = torch.sort(candidates, stable=True)
    low = torch.searchsorted(ordered, excluded.values)
    copies = torch.searchsorted(ordered, excluded.values, right=True) - low
    hit = copies.nonzero().squeeze(1)
    low, copies = low[hit], copies[hit]
    rows = torch.repeat_interleave(excluded.rows()[hit], copies)
    starts = torch.repeat_interleave(low - (copies.cumsum(0) - copies), copies)
    return Hits(rows, order[starts + torch.arange(len(starts))])
