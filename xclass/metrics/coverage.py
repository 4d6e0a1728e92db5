"""What a set of lists as a whole looks like: how much of the catalogue it shows, how unequally, how alike it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.runtime.jit import compiles
from xclass.types import TopK

CATALOGUE_DEFINITIONS: dict[str, str] = {
    "coverage": "items that stand in the first {k} of at least one list / all items of the catalogue",
    "gini": "Gini coefficient, over all items of the catalogue, of how often each stands in a first {k}:"
    " 0 all equally often, towards 1 few items fill all lists",
    "identical_lists": "queries that share the most common first {k} (same items, same order) / queries with a list; "
    "1 means everybody gets the same",
    "mean_popularity": "mean, over the filled places of all first {k}, of the train pairs of the item there",
}
LEAST_TO_COUNT = 1 << 20
DENSE_ITEMS = 1 << 24


class CatalogueUse:
    """Counts over all lists, one batch after the other, for several cut-offs at once.

    Memory: 8 bytes a query and cut-off; and for item numbers below 2^24 as many counts of 4 bytes an item and cut-off
    as the largest number shown asks for. Above that, about 50 bytes for each item shown, whatever the catalogue's size.
    """

    def __init__(self, cut_offs: Sequence[int]) -> None:
        self.cut_offs = sorted(set(cut_offs))
        self._dense = np.zeros((0, len(self.cut_offs)), dtype=np.int32)
        self._sparse = _SparseCounts()
        self._fingerprints: list[Tensor] = []

    def add(self, found: TopK) -> None:
        """Count one batch of lists in."""
        longest = int(found.lengths().max()) if len(found) else 0
        head = found.head(self.cut_offs[-1]) if longest > self.cut_offs[-1] else found
        largest = int(head.ids.max()) if len(head.ids) else 0
        room = (len(self.cut_offs), len(head))
        if compiles() and largest < DENSE_ITEMS:
            from xclass.metrics import _numba

            self._grow(largest + 1)
            fingerprints = np.empty(room, dtype=np.int64)
            cuts = np.array(self.cut_offs, dtype=np.int64)
            _numba.count_lists(head.offsets.numpy(), head.ids.numpy(), cuts, self._dense, fingerprints)
            hashes = torch.from_numpy(fingerprints)
        else:
            ranks = head.ranks()
            first_cut = torch.searchsorted(torch.tensor(self.cut_offs), ranks)
            self._sparse.add(head.ids * len(self.cut_offs) + first_cut)
            hashes = _fingerprints(head, ranks, self.cut_offs)
        self._fingerprints.append(hashes[:, head.lengths() > 0])

    def result(self, num_items: int, item_counts: Tensor | None = None) -> dict[str, float]:
        """``coverage@k``, ``gini@k``, ``identical_lists@k``, and with counts ``mean_popularity@k``.

        NaN where every list is empty.

        Args:
            num_items: items of the catalogue.
            item_counts: (N,) train pairs of each item; items beyond it have none.
        """
        items, times = self._totals()
        hashes = torch.cat([torch.empty(len(self.cut_offs), 0, dtype=torch.int64), *self._fingerprints], dim=1)
        values = {}
        for place, k in enumerate(self.cut_offs):
            shown = times[:, place] > 0
            values[f"coverage@{k}"] = int(shown.sum()) / num_items if num_items else float("nan")
            values[f"gini@{k}"] = gini(times[:, place][shown], num_items)
            values[f"identical_lists@{k}"] = _largest_share(hashes[place])
            if item_counts is not None:
                values[f"mean_popularity@{k}"] = _mean_count(items[shown], times[:, place][shown], item_counts)
        return values

    def definitions(self, item_counts: bool = False) -> dict[str, str]:
        """What each number of :meth:`result` is."""
        names = [name for name in CATALOGUE_DEFINITIONS if item_counts or name != "mean_popularity"]
        return {f"{name}@{k}": CATALOGUE_DEFINITIONS[name].format(k=k) for k in self.cut_offs for name in names}

    def _grow(self, size: int) -> None:
        if size > len(self._dense):
            larger = np.zeros((max(size, 2 * len(self._dense)), len(self.cut_offs)), dtype=np.int32)
            larger[: len(self._dense)] = self._dense
            self._dense = larger

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Items shown, rising, and int64 (items, cut-offs): how often each stands in the first k."""
        width = len(self.cut_offs)
        keys, times = self._sparse.result()
        dense = np.flatnonzero(self._dense)
        keys = torch.cat([torch.from_numpy(dense), keys])
        times = torch.cat([torch.from_numpy(self._dense.ravel()[dense].astype(np.int64)), times])
        items, places = torch.unique(torch.div(keys, width, rounding_mode="floor"), return_inverse=True)
        table = torch.zeros(len(items) * width, dtype=torch.int64).index_add_(0, places * width + keys % width, times)
        return items, torch.cumsum(table.view(-1, width), 1)


class _Counted(NamedTuple):
    keys: Tensor
    times: Tensor


class _SparseCounts:
    """How often each key came; only keys that came have a place."""

    def __init__(self) -> None:
        none = torch.empty(0, dtype=torch.int64)
        self._counted, self._waiting = _Counted(none, none), [none]

    def add(self, keys: Tensor) -> None:
        self._waiting.append(keys)
        if sum(map(len, self._waiting)) > max(len(self._counted.keys), LEAST_TO_COUNT):
            self.result()

    def result(self) -> _Counted:
        came, times = torch.unique(torch.cat(self._waiting), return_counts=True)
        keys, places = torch.unique(torch.cat([self._counted.keys, came]), return_inverse=True)
        together = torch.zeros(len(keys), dtype=torch.int64)
        together.index_add_(0, places, torch.cat([self._counted.times, times]))
        self._counted, self._waiting = _Counted(keys, together), self._waiting[:1]
        return self._counted


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


def _mean_count(items: Tensor, times: Tensor, item_counts: Tensor) -> float:
    known = items < len(item_counts)
    gained = (item_counts[items[known]].double() * times[known]).sum()
    total = int(times.sum())
    return float(gained) / total if total else float("nan")


def _fingerprints(lists: TopK, ranks: Tensor, cut_offs: Sequence[int]) -> Tensor:
    """int64 (cut-offs, B): a 64-bit hash of every ordered first k; two different ones collide with chance 2^-64."""
    mixed, rows = _mix(_mix(lists.ids) + ranks), lists.rows()
    none = torch.zeros(len(lists), dtype=torch.int64)
    return torch.stack([none.index_add(0, rows, torch.where(ranks <= k, mixed, 0)) for k in cut_offs])


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
