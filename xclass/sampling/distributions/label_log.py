"""A log that grows at one end and is cut at the other."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_CAPACITY = 1 << 10


class GrowingLog:
    """Numbers in the order of their coming. Appending costs O(1) each, whatever the length: the buffer doubles when it
    is full, or closes up when half of it was dropped.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._buffer = torch.empty(FIRST_CAPACITY, dtype=dtype)
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def append(self, values: Tensor) -> None:
        """At the new end."""
        if self._end + len(values) > len(self._buffer):
            self._make_room(len(self) + len(values))
        self._buffer[self._end : self._end + len(values)] = values
        self._end += len(values)

    def drop(self, number: int) -> None:
        """The oldest go."""
        self._start += number

    def view(self) -> Tensor:
        """All of them, oldest first: the log's own memory."""
        return self._buffer[self._start : self._end]

    def replace(self, values: Tensor) -> None:
        """Hold these instead."""
        self._start = self._end = 0
        self.append(values)

    def _make_room(self, wanted: int) -> None:
        kept, capacity = self.view().clone(), len(self._buffer)
        while capacity < 2 * wanted:
            capacity *= 2
        if capacity > len(self._buffer):
            self._buffer = torch.empty(capacity, dtype=self._buffer.dtype)
        self._buffer[: len(kept)] = kept
        self._start, self._end = 0, len(kept)
