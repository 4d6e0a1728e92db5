"""How often each item followed each other one: counts of pairs, to draw from and to look up."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.jit import compiles
from xclass.sampling.interface import check_state

FIRST_FOLD = 1 << 12
GROWTH = 0.25  # pairs wait until they are so large a share of those counted: sorting costs a few looks at each


class BigramCounts:
    """Counts of (context, item) pairs seen so far, as one sorted array of pairs with running totals.

    P(i | c) = count of (c, i) / count of c. New pairs wait and are counted in when they are a quarter of those counted,
    so that learning n pairs costs O(n log n) altogether and the law stands still in between.

    Args:
        num_items: N: contexts and items are numbers below it.

    Memory 16 bytes for each different pair, 8 for each that waits, and 8 an item. A draw and a look-up cost O(log of
    the different pairs of a context).
    """

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self._waiting: list[Tensor] = []
        self._num_waiting = 0
        nothing = torch.zeros(0, dtype=torch.int64)
        self._set(nothing, nothing)

    def learn(self, contexts: Tensor, items: Tensor) -> None:
        """Pairs were seen: int64 (P,) each."""
        if not len(items):
            return
        self._waiting.append(contexts * self.num_items + items)
        self._num_waiting += len(items)
        if self._num_waiting >= max(FIRST_FOLD, GROWTH * self.num_counted):
            self.fold()

    def fold(self) -> None:
        """Count in what waits."""
        if not self._num_waiting:
            return
        counts = torch.diff(self._totals, prepend=self._totals.new_zeros(1))
        waiting = torch.cat(self._waiting)
        keys, place = torch.unique(torch.cat([self._keys, waiting]), return_inverse=True)
        summed = torch.zeros(len(keys), dtype=torch.int64)
        summed.index_add_(0, place, torch.cat([counts, torch.ones_like(waiting)]))
        self._waiting, self._num_waiting = [], 0
        self._set(keys, summed)

    @property
    def num_counted(self) -> int:
        """Pairs in the counts."""
        return int(self._totals[-1]) if len(self._totals) else 0

    def counts_of(self, contexts: Tensor) -> Tensor:
        """int64: pairs counted of each context; 0 for −1."""
        some = contexts.clamp(min=0)
        return torch.where(contexts < 0, 0, self._before(some + 1) - self._before(some))

    def draw(self, contexts: Tensor, u: Tensor) -> Tensor:
        """int64: an item for each context by its counts, decided by u in [0, 1); contexts without counts give 0."""
        low = self._before(contexts.clamp(min=0))
        number = self.counts_of(contexts)
        wanted = low + torch.minimum((u * number).long(), (number - 1).clamp(min=0))
        if not len(self._keys):
            return torch.zeros_like(contexts)
        place = torch.searchsorted(self._totals, wanted, right=True).clamp_(max=len(self._keys) - 1)
        return torch.where(number > 0, self._keys[place] - contexts * self.num_items, 0)

    def probability(self, contexts: Tensor, items: Tensor) -> Tensor:
        """float64: P(item | context), 0 for contexts without counts; of two shapes alike, or (B,) and (B, K)."""
        shaped = contexts if contexts.shape == items.shape else contexts.unsqueeze(1).expand(items.shape)
        number = self.counts_of(contexts)
        number = number if contexts.shape == items.shape else number.unsqueeze(1)
        return self._count(shaped, items).double() / number.clamp(min=1)

    def _count(self, contexts: Tensor, items: Tensor) -> Tensor:
        """int64: how often each pair was counted."""
        if not len(self._keys):
            return torch.zeros_like(items)
        if compiles():
            found = torch.empty(items.numel(), dtype=torch.int64)
            arrays = contexts.flatten(), items.flatten(), self._keys, self._totals, self._starts, found
            _kernels().count_pairs(*(array.numpy() for array in arrays), self.num_items)
            return found.view(items.shape)
        keys = contexts * self.num_items + items
        place = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        count = self._totals[place] - torch.where(place > 0, self._totals[place - 1], 0)
        return torch.where((self._keys[place] == keys) & (contexts >= 0), count, 0)

    def _before(self, contexts: Tensor) -> Tensor:
        """Pairs counted of the contexts below."""
        place = self._starts[contexts]
        return torch.where(place > 0, self._totals[place - 1], 0) if len(self._totals) else torch.zeros_like(contexts)

    def _set(self, keys: Tensor, counts: Tensor) -> None:
        self._keys, self._totals = keys, counts.cumsum(0)
        self._starts = torch.searchsorted(keys, torch.arange(self.num_items + 1) * self.num_items)

    def state(self) -> dict[str, Tensor]:
        """Different pairs, how often each was counted, and those that wait."""
        counts = torch.diff(self._totals, prepend=self._totals.new_zeros(1))
        waiting = torch.cat(self._waiting) if self._waiting else self._keys[:0]
        return {"pairs": self._keys, "counts": counts, "waiting": waiting}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        pairs, waiting = state["pairs"], state["waiting"]
        most = self.num_items**2 - 1
        if len(pairs) and int(pairs[-1]) > most:
            raise InputError("the state is of another catalogue", wanted=f"{self.num_items} items")
        check_state("pairs", pairs, 0, most)
        check_state("pairs", pairs.diff(), 1, most)
        check_state("counts", state["counts"], 1, 1 << 53, len(pairs))
        check_state("waiting", waiting, 0, most)
        self._set(pairs, state["counts"])
        self._waiting, self._num_waiting = [waiting] if len(waiting) else [], len(waiting)


@functools.cache
def _kernels() -> Any:
    from xclass.sampling import _numba

    return _numba
