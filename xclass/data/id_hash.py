"""Distinct 64-bit keys to numbers, fast enough for hundreds of millions of rows."""

from __future__ import annotations

import mmap

import numpy as np
import torch

from xclass.runtime.jit import compiles
from xclass.runtime.memory import advise

LEAST_SLOTS = 1 << 12
SMALL = 1 << 24


class KeyNumbers:
    """Key → number. Keys that were given are numbered by their place; others can be taken in as they come.

    Compiled: as long as all keys are from 0 to 2^24, a table of 4 bytes a key up to the largest; then a hash table of
    16 bytes a slot, at most half full. Plain: sorted search.

    >>> numbers = KeyNumbers(np.array([40, 7]))
    >>> numbers.of(np.array([7, 9, 40])).tolist(), numbers.of(np.array([9, 7, 9]), grow=True).tolist(), len(numbers)
    ([1, -1, 0], [2, 1, 2], 3)
    """

    def __init__(self, keys: np.ndarray) -> None:
        """Number int64 ``keys``, all different."""
        self._compiled, self._count = compiles(), 0
        self._small: np.ndarray | None = np.zeros(0, dtype=np.int32)
        self._slots = np.zeros((0, 2), dtype=np.int64)
        self._keys = self._order = np.empty(0, dtype=np.int64)
        self.of(keys.astype(np.int64), grow=True)

    def __len__(self) -> int:
        """How many keys have a number."""
        return self._count

    def of(self, keys: np.ndarray, grow: bool = False) -> np.ndarray:
        """int64, the number of each key; an unknown one gets −1, or with ``grow`` the next free number."""
        if not len(keys):
            return np.empty(0, dtype=np.int64)
        return (self._compiled_of if self._compiled else self._plain_of)(keys, grow)

    def _compiled_of(self, keys: np.ndarray, grow: bool) -> np.ndarray:
        if self._small is None or int(keys.min()) < 0 or int(keys.max()) >= SMALL:
            return self._hashed(keys, grow)
        from xclass.data._numba import look_up_small

        numbers, largest = np.empty(len(keys), dtype=np.int64), int(keys.max())
        if largest >= len(self._small):
            longer = np.zeros(max(largest + 1, 2 * len(self._small)), dtype=np.int32)
            longer[: len(self._small)] = self._small
            self._small = longer
        self._count = look_up_small(keys, self._small, self._count, grow, numbers)
        return numbers

    def _hashed(self, keys: np.ndarray, grow: bool) -> np.ndarray:
        from xclass.data._numba import look_up

        if self._small is not None:
            held = np.flatnonzero(self._small)
            held = held[np.argsort(self._small[held])].astype(np.int64)
            self._small = None
            self._rebuild(held, max(self._count, len(keys) if grow and not self._count else 0))
        numbers, place = np.empty(len(keys), dtype=np.int64), 0
        while place < len(keys):
            shift, most = _shift(self._slots), len(self._slots) // 2
            place, self._count = look_up(keys, place, self._slots, shift, self._count, most, grow, numbers)
            if place < len(keys):
                held = self._slots[self._slots[:, 1] > 0]
                self._rebuild(held[np.argsort(held[:, 1]), 0].copy(), 2 * self._count)
        return numbers

    def _rebuild(self, keys: np.ndarray, room: int) -> None:
        """A hash table with room for so many keys that holds these, numbered by their place."""
        from xclass.data._numba import look_up

        slots = torch.empty(max(LEAST_SLOTS, 1 << (2 * room - 1).bit_length()), 2, dtype=torch.int64)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            advise(slots, mmap.MADV_HUGEPAGE)  # slots are read in no order
        self._slots = slots.zero_().numpy()
        look_up(keys, 0, self._slots, _shift(self._slots), 0, len(keys), True, np.empty(len(keys), dtype=np.int64))

    def _plain_of(self, keys: np.ndarray, grow: bool) -> np.ndarray:
        numbers = self._search(keys)
        if grow and bool((numbers < 0).any()):
            came, first = np.unique(keys[numbers < 0], return_index=True)
            self._keys = np.concatenate([self._keys, came[np.argsort(first)]])
            self._order, self._count = np.argsort(self._keys, kind="stable"), len(self._keys)
            return self._search(keys)
        return numbers

    def _search(self, keys: np.ndarray) -> np.ndarray:
        if not len(self._keys):
            return np.full(len(keys), -1, dtype=np.int64)
        places = np.searchsorted(self._keys, keys, sorter=self._order).clip(max=len(self._keys) - 1)
        numbers = self._order[places]
        return np.where(self._keys[numbers] == keys, numbers, -1)


def _shift(slots: np.ndarray) -> np.uint64:
    """The top bits of a hash that number the slots."""
    return np.uint64(65 - len(slots).bit_length())


def first_of_each(offsets: np.ndarray, ids: np.ndarray) -> np.ndarray | None:
    """Bool (M,): false where a list has that id at an earlier place; None when no list repeats one."""
    if compiles():
        from xclass.data._numba import mark_repeats

        keep = np.ones(len(ids), dtype=np.bool_)
        return keep if mark_repeats(offsets, ids, keep) else None
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((ids, rows))  # stable: the earlier place first
    same = (np.diff(rows[order]) == 0) & (np.diff(ids[order]) == 0)
    if not same.any():
        return None
    keep = np.ones(len(ids), dtype=np.bool_)
    keep[order[1:][same]] = False
    return keep
