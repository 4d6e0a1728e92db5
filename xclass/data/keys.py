"""Distinct 64-bit keys to numbers, fast enough for hundreds of millions of rows."""

from __future__ import annotations

import numpy as np

from xclass.compiling import compiles

LEAST_SLOTS = 1 << 12


class KeyNumbers:
    """Key → number. Keys that were given are numbered by their place; others can be taken in as they come.

    Compiled: one hash table of 16 bytes a slot, at most half full. Plain: sorted search.

    >>> numbers = KeyNumbers(np.array([40, 7]))
    >>> numbers.of(np.array([7, 9, 40])).tolist(), numbers.of(np.array([9, 7, 9]), grow=True).tolist(), len(numbers)
    ([1, -1, 0], [2, 1, 2], 3)
    """

    def __init__(self, keys: np.ndarray) -> None:
        """Number int64 ``keys``, all different."""
        self._compiled, self._keys = compiles(), keys.astype(np.int64)
        self._count = 0 if self._compiled else len(keys)
        self._order = np.argsort(self._keys, kind="stable")
        self._slots = np.zeros((LEAST_SLOTS, 2), dtype=np.int64)
        if self._compiled:
            self._resize(len(keys))
            self.of(self._keys, grow=True)
            self._keys = self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """How many keys have a number."""
        return self._count

    def of(self, keys: np.ndarray, grow: bool = False) -> np.ndarray:
        """int64, the number of each key; an unknown one gets −1, or with ``grow`` the next free number."""
        return (self._compiled_of if self._compiled else self._plain_of)(keys, grow)

    def _compiled_of(self, keys: np.ndarray, grow: bool) -> np.ndarray:
        from xclass.data.kernels import look_up

        numbers, place = np.empty(len(keys), dtype=np.int64), 0
        while place < len(keys):
            shift, most = np.uint64(65 - len(self._slots).bit_length()), len(self._slots) // 2
            place, self._count = look_up(keys, place, self._slots, shift, self._count, most, grow, numbers)
            if place < len(keys):
                self._resize(2 * self._count)
        return numbers

    def _resize(self, room: int) -> None:
        """A table for ``room`` keys with what is held now."""
        from xclass.data.kernels import look_up

        held = self._slots[self._slots[:, 1] > 0]
        held = held[np.argsort(held[:, 1])]
        self._slots = np.zeros((max(LEAST_SLOTS, 1 << (2 * room).bit_length()), 2), dtype=np.int64)
        shift, ignored = np.uint64(65 - len(self._slots).bit_length()), np.empty(len(held), dtype=np.int64)
        look_up(np.ascontiguousarray(held[:, 0]), 0, self._slots, shift, 0, len(held), True, ignored)

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


def first_of_each(offsets: np.ndarray, ids: np.ndarray) -> np.ndarray | None:
    """bool (M,): false where a list has that id at an earlier place; None when no list repeats one."""
    if compiles():
        from xclass.data.kernels import mark_repeats

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
