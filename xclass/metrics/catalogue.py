"""What a set of lists as a whole looks like: how much of the catalogue it shows, how unequally, how alike it is."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.types import TopK

CATALOGUE_DEFINITIONS: dict[str, str] = {
    "coverage": "items that stand in the first {k} of at least one list / all items of the catalogue",
    "gini": "Gini coefficient, over all items of the catalogue, of how often each stands in a first {k}:"
    " 0 all equally often, towards 1 few items fill all lists",
    "identical_lists": "queries that share the most common first {k} (same items, same order) / queries with a list; "
    "1 means everybody gets the same",
}
LEAST_TO_COUNT = 1 << 20


class CatalogueUse:
    """Counts over all lists, one batch after the other. Memory: about 50 bytes for each item shown and 8 a query,
    whatever the size of the catalogue.
    """

    def __init__(self, num_items: int, k: int) -> None:
        self.k, self.num_items = k, num_items
        self._items = self._times = torch.empty(0, dtype=torch.int64)
        self._waiting: list[Tensor] = []
        self._fingerprints: list[Tensor] = []

    def add(self, found: TopK) -> None:
        """Count one batch of lists in."""
        head = found.head(self.k)
        self._waiting.append(head.ids)
        if sum(map(len, self._waiting)) > max(len(self._items), LEAST_TO_COUNT):
            self._count()
        self._fingerprints.append(_fingerprints(head)[head.lengths() > 0])

    def result(self) -> dict[str, float]:
        """``coverage@k``, ``gini@k``, ``identical_lists@k``; gini and identical_lists NaN when every list is empty."""
        self._count()
        values = {
            "coverage": len(self._items) / self.num_items if self.num_items else float("nan"),
            "gini": gini(self._times, self.num_items),
            "identical_lists": _largest_share(torch.cat([torch.empty(0, dtype=torch.int64), *self._fingerprints])),
        }
        return {f"{name}@{self.k}": value for name, value in values.items()}

    def definitions(self) -> dict[str, str]:
        """What each number of :meth:`result` is."""
        return {f"{name}@{self.k}": text.format(k=self.k) for name, text in CATALOGUE_DEFINITIONS.items()}

    def _count(self) -> None:
        """Count in what is waiting: only items that were shown have a place."""
        shown, times = torch.unique(torch.cat([torch.empty(0, dtype=torch.int64), *self._waiting]), return_counts=True)
        self._waiting = []
        self._items, places = torch.unique(torch.cat([self._items, shown]), return_inverse=True)
        together = torch.zeros(len(self._items), dtype=torch.int64)
        self._times = together.index_add_(0, places, torch.cat([self._times, times]))


def gini(counts: Tensor, num_items: int | None = None) -> float:
    """Gini coefficient of counts: Σ (2i − N − 1)·x_i / (N·Σ x), x rising, i from 1. NaN when all are 0.

    Args:
        counts: of each item, or of some: all others are 0 then.
        num_items: N, if ``counts`` are of some items only.

    >>> gini(torch.tensor([2, 2, 2])), gini(torch.tensor([0, 0, 0, 4])), gini(torch.tensor([4]), 4)
    (0.0, 0.75, 0.75)
    """
    n = len(counts) if num_items is None else num_items
    total = float(counts.sum())
    if total == 0:
        return float("nan")
    weights = 2.0 * torch.arange(n - len(counts) + 1, n + 1, dtype=torch.float64) - n - 1
    return float((weights * torch.sort(counts).values.double()).sum()) / (n * total)


def _fingerprints(lists: TopK) -> Tensor:
    """int64 (B,): a 64-bit hash of every ordered list; two different lists collide with chance 2^-64."""
    mixed = _mix(_mix(lists.ids) + lists.ranks())
    return torch.zeros(len(lists), dtype=torch.int64).index_add_(0, lists.rows(), mixed)


def _mix(values: Tensor) -> Tensor:
    """A bijection of int64 that spreads every bit (SplitMix64's finaliser; overflow wraps)."""
    values = values * -7046029254386353131
    values = (values ^ ((values >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    values = (values ^ ((values >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return values ^ ((values >> 31) & 0x1FFFFFFFF)


def _largest_share(fingerprints: Tensor) -> float:
    if not len(fingerprints):
        return float("nan")
    _, counts = torch.unique(fingerprints, return_counts=True)
    return float(counts.max()) / len(fingerprints)
