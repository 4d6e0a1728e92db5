"""The distribution of the labels seen so far."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.laws import Bins
from xclass.sampling.seam import check_size

FIRST_CAPACITY = 1 << 12
NUM_BINS = 1 << 15


class LearnedLaw:
    """Every item starts at weight 1, every occurrence of a label adds 1, of the last ``window`` labels or of all.

    No tree is needed: a draw is, with probability N / (N + n), a uniform item, otherwise a uniformly chosen entry of
    the log of the n labels. Exact, O(1) a draw and O(1) an update at any N.

    Args:
        num_items: N.
        window: only the last so many labels count; 0 for all.

    Memory 8 bytes an item, and 4 (8 from 2³¹ items on) for every label remembered.
    """

    def __init__(self, num_items: int, window: int = 0) -> None:
        self.num_items = self.num_drawable = check_size("num_items", num_items)
        if not isinstance(window, int) or window < 0:
            raise InputError("window is out of range", wanted="a number of labels, or 0 for all", got=repr(window))
        self.window, self.num_seen = window, 0
        kind = torch.int32 if num_items < 1 << 31 else torch.int64
        self._counts, self._tally = torch.ones(num_items, dtype=torch.int64), Tally.of_ones(num_items)
        self._log = torch.empty(window or FIRST_CAPACITY, dtype=kind)

    @property
    def total(self) -> int:
        """N + n."""
        return self.num_items + self.num_remembered

    @property
    def num_remembered(self) -> int:
        """n: labels that count."""
        return min(self.num_seen, self.window) if self.window else self.num_seen

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,)."""
        entry = torch.randint(self.total, (count,), generator=generator)
        label = self._log[(entry - self.num_items).clamp_(min=0)].long()
        return torch.where(entry < self.num_items, entry, label)

    def probability(self, ids: Tensor) -> Tensor:
        """(1 + occurrences) / (N + n)."""
        return self._counts[ids].double() / self.total

    def update(self, labels: Tensor) -> None:
        """Every occurrence in ``labels`` (int64, any number) counts. O(labels)."""
        if self.window:
            self._update_window(labels)
            return
        self._count(labels, 1)
        end = self.num_seen + len(labels)
        if end > len(self._log):
            grown = torch.empty(max(2 * len(self._log), end), dtype=self._log.dtype)
            grown[: self.num_seen] = self._log[: self.num_seen]
            self._log = grown
        self._log[self.num_seen : end] = labels
        self.num_seen = end

    def counts(self) -> Tensor:
        """int64 (N,): 1 + occurrences."""
        return self._counts.clone()

    def bins(self) -> Bins:
        """By count, to 1 in 128."""
        used = self._tally.number > 0
        number = self._tally.number[used].double()
        return Bins(self._tally.mass[used].double() / number / self.total, number)

    def state(self) -> dict[str, Tensor]:
        """The log as it lies; the counts follow from it."""
        return {"log": self._log[: self.num_remembered].clone(), "num_seen": torch.tensor(self.num_seen)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`: the same draws from the same generator."""
        log, self.num_seen = state["log"], int(state["num_seen"])
        self._counts.fill_(1)
        self._tally = Tally.of_ones(self.num_items)
        self._count(log, 1)
        self._log = torch.empty(self.window or max(len(log), FIRST_CAPACITY), dtype=self._log.dtype)
        self._log[: len(log)] = log

    def _update_window(self, labels: Tensor) -> None:
        """A ring: new labels take the places of the oldest."""
        if len(labels) >= self.window:
            self._count(self._log[: self.num_remembered], -1)
            self.num_seen += len(labels) - self.window
            labels = labels[-self.window :]
            self._count(labels, 1)
            self._put(labels, self.num_seen)
            self.num_seen += self.window
            return
        places = (self.num_seen + torch.arange(len(labels))) % self.window
        old = places if self.num_seen >= self.window else places[places < self.num_seen]
        self._count(self._log[old[: max(self.num_seen + len(labels) - self.window, 0)]], -1)
        self._count(labels, 1)
        self._put(labels, self.num_seen)
        self.num_seen += len(labels)

    def _put(self, labels: Tensor, first: int) -> None:
        places = (first + torch.arange(len(labels))) % self.window if self.window else torch.arange(len(labels))
        self._log[places] = labels.to(self._log.dtype)

    def _count(self, labels: Tensor, change: int) -> None:
        if len(labels):
            count_labels(self._counts, self._tally, labels.long(), change)


class Tally(NamedTuple):
    """How many items have each count, and how much count they have together: int64 (bins,), by :func:`bin_of`."""

    number: Tensor
    mass: Tensor

    @classmethod
    def of_ones(cls, num_items: int) -> Tally:
        """Every item has the count 1."""
        number = torch.zeros(NUM_BINS, dtype=torch.int64)
        number[bin_of(torch.ones(1, dtype=torch.int64))] = num_items
        return cls(number, number.clone())


def bin_of(counts: Tensor) -> Tensor:
    """int64: the first 16 bits of the count as float32: exact below 129, to 1 in 128 above."""
    return (counts.float().view(torch.int32) >> 16).long()


def count_labels(counts: Tensor, tally: Tally, labels: Tensor, change: int) -> None:
    """Every occurrence in ``labels`` changes its count by ``change``, in place; so does the tally. O(labels)."""
    if compiled():
        _kernel()(counts.numpy(), tally.number.numpy(), tally.mass.numpy(), labels.numpy(), change)
    else:
        _plain_count(counts, tally, labels, change)


def _plain_count(counts: Tensor, tally: Tally, labels: Tensor, change: int) -> None:
    distinct, times = torch.unique(labels, return_counts=True)
    for sign in (-1, 1):
        if sign == 1:
            counts[distinct] += change * times
        now = counts[distinct]
        tally.number.index_add_(0, bin_of(now), torch.full_like(now, sign))
        tally.mass.index_add_(0, bin_of(now), sign * now)


@functools.cache
def compiled() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _kernel() -> Any:
    from xclass.sampling import kernels

    return kernels.count_labels
