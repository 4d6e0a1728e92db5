"""The distribution of the labels seen so far."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.jit import compiles
from xclass.sampling.distributions.fixed import Bins, Law, UniformLaw, WeightedLaw, gathered
from xclass.sampling.interface import check_size, check_state

FIRST_CAPACITY = 1 << 12
FOLD = 1 << 20  # labels: shorter logs are not worth folding
FOLD_SHARE = 4  # labels per item: folding costs as much as some ten labels an item
NUM_BINS = 1 << 15
MOST_SEEN = 1 << 53
NO_TALLY = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class LearnedLaw:
    """Every item starts at weight 1, every occurrence of a label adds 1, of the last ``window`` labels or of all.

    No tree is needed: a draw is, with probability N / (N + n), a uniform item, otherwise a uniformly chosen entry of
    the log of the n labels. Exact, O(1) a draw and O(1) an update at any N. When the log is four times as long as the
    catalogue its counts take the place of the uniform items, as a
    :class:`xclass.sampling.distributions.fixed.WeightedLaw`: O(N), once in 4 N labels, so that memory does not grow
    with the stream.

    Args:
        num_items: N.
        window: only the last so many labels count; 0 for all.
        tallied: keep how many items have each count, which :meth:`bins` needs; half the cost of an update.

    Memory 8 bytes an item, 4 (8 from 2³¹ items on) for every label of the log, and 24 an item once it was folded.
    """

    def __init__(self, num_items: int, window: int = 0, tallied: bool = True) -> None:
        self.num_items = self.num_drawable = check_size("num_items", num_items)
        if not isinstance(window, int) or window < 0:
            raise InputError("window is out of range", wanted="a number of labels, or 0 for all", got=repr(window))
        self.window, self.num_seen, self.num_folded = window, 0, 0
        self._folded: Law = UniformLaw(num_items)
        kind = torch.int32 if num_items < 1 << 31 else torch.int64
        self._counts = torch.ones(num_items, dtype=torch.int64)
        self._tally = Tally.of(self._counts) if tallied else None
        self._log = torch.empty(window or FIRST_CAPACITY, dtype=kind)

    @property
    def total(self) -> int:
        """N + n."""
        return self.num_items + self.num_remembered

    @property
    def num_remembered(self) -> int:
        """n: labels that count."""
        return min(self.num_seen, self.window) if self.window else self.num_seen

    @property
    def num_logged(self) -> int:
        """Labels in the log."""
        return self.num_remembered - self.num_folded

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,)."""
        entry = torch.randint(self.total, (count,), generator=generator)
        before = entry if self.num_folded == 0 else self._folded.draw(count, generator)
        if self.num_logged == 0:
            return before
        first = self.total - self.num_logged
        if compiles():
            _kernels().logged(entry.numpy(), before.numpy(), self._log.numpy(), first)
            return before
        place = entry - first
        return torch.where(place < 0, before, self._log.index_select(0, place.clamp(min=0)).long())

    def probability(self, ids: Tensor) -> Tensor:
        """(1 + occurrences) / (N + n)."""
        return gathered(self._counts, ids).double().div_(self.total)

    def update(self, labels: Tensor) -> None:
        """Every occurrence in ``labels`` (int64, any number) counts. O(labels)."""
        if self.window:
            self._update_window(labels)
            return
        self._count(labels, 1)
        start, end = self.num_logged, self.num_logged + len(labels)
        self.num_seen += len(labels)
        if end > max(FOLD_SHARE * self.num_items, FOLD):
            self._fold()
            return
        if end > len(self._log):
            grown = torch.empty(max(2 * len(self._log), end), dtype=self._log.dtype)
            grown[:start] = self._log[:start]
            self._log = grown
        self._log[start:end] = labels

    def _fold(self) -> None:
        """All that was seen goes into the counts that draws begin with; the log is empty again."""
        self.num_folded = self.num_seen
        self._folded = WeightedLaw(self._counts.double())

    def counts(self) -> Tensor:
        """int64 (N,): 1 + occurrences."""
        return self._counts.clone()

    def bins(self) -> Bins:
        """By count, to 1 in 128."""
        assert self._tally is not None, "this law was made with tallied=False"
        used = self._tally.number > 0
        number = self._tally.number[used].double()
        return Bins(self._tally.mass[used].double() / number / self.total, number)

    def state(self) -> dict[str, Tensor]:
        """The log as it lies, and the counts that were folded; everything else follows."""
        found = {"log": self._log[: self.num_logged].clone(), "num_seen": torch.tensor(self.num_seen)}
        if self.num_folded:
            folded = self._counts.clone()
            found["folded"] = folded.scatter_add_(0, found["log"].long(), -torch.ones(self.num_logged).long())
        return found

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`: the same draws from the same generator."""
        log, folded = state["log"], state.get("folded")
        if folded is not None and len(folded) != self.num_items:
            raise InputError("the state is of another catalogue", wanted=f"{self.num_items} items", got=len(folded))
        self._check_state(log, folded, int(state["num_seen"]))
        self.num_seen = int(state["num_seen"])
        self._counts = torch.ones(self.num_items, dtype=torch.int64) if folded is None else folded.clone()
        self.num_folded = int(self._counts.sum()) - self.num_items
        self._folded = UniformLaw(self.num_items) if folded is None else WeightedLaw(folded.double())
        self._tally = None if self._tally is None else Tally.of(self._counts)
        self._count(log, 1)
        self._log = torch.empty(self.window or max(len(log), FIRST_CAPACITY), dtype=self._log.dtype)
        self._log[: len(log)] = log

    def _check_state(self, log: Tensor, folded: Tensor | None, seen: int) -> None:
        before = 0 if folded is None else int(folded.sum()) - self.num_items
        length = min(seen, self.window) if self.window else seen - before
        check_state("log", log, 0, self.num_items - 1, length)
        if folded is not None:
            check_state("folded", folded, 1, MOST_SEEN)

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
    def of(cls, counts: Tensor) -> Tally:
        """Of given counts, O(N)."""
        key = bin_of(counts)
        mass = torch.zeros(NUM_BINS, dtype=torch.int64).scatter_add_(0, key, counts)
        return cls(torch.bincount(key, minlength=NUM_BINS), mass)


def bin_of(counts: Tensor) -> Tensor:
    """int64: the first 16 bits of the count as float32: exact below 129, to 1 in 128 above."""
    return (counts.float().view(torch.int32) >> 16).long()


def count_labels(counts: Tensor, tally: Tally | None, labels: Tensor, change: int) -> None:
    """Every occurrence in ``labels`` changes its count by ``change``, in place; so does the tally. O(labels)."""
    if compiles():
        number, mass = NO_TALLY if tally is None else (tally.number.numpy(), tally.mass.numpy())
        _kernels().count_labels(counts.numpy(), number, mass, labels.numpy(), change)
    elif tally is None:
        counts.index_add_(0, labels, torch.full_like(labels, change))
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
def _kernels() -> Any:
    from xclass.sampling import _numba

    return _numba
