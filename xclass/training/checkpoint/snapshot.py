"""The state of a model at one moment, written while training goes on.

Small tensors are copied at once. Rows are read block by block; a row that is about to change before its block was read
is saved first (copy on write, by row), so what is read is the state at the beginning, bit for bit. Cost follows the
rows that change meanwhile, and the memory for them is bounded: the trainer waits when it is full.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from xclass.io.tensors import as_bytes, blocks_of, rows_per_block
from xclass.runtime.memory import will_read

SPARE_BYTES = 1 << 29
FREE = 0
COPIES_PER_BLOCK = 8  # a block is copied in so many pieces: the trainer waits for no more than one of them


class Cancelled(Exception):
    """Nobody wants this snapshot any more."""


class SavedRows:
    """Rows of one tensor as they were, until their block is read. Memory is taken as it is first used.

    Args:
        capacity: how many rows.
        row_bytes: of one row.
        block_rows: rows in a block.
    """

    def __init__(self, capacity: int, row_bytes: int, block_rows: int) -> None:
        self._memory = mmap.mmap(-1, max(capacity * row_bytes, 1))
        self._rows = np.frombuffer(self._memory, np.uint8, capacity * row_bytes).reshape(capacity, row_bytes)
        self._numbers = np.zeros(capacity, np.int64)
        self._blocks = np.zeros(capacity, np.int32)  # block + 1; FREE where nothing lies
        self._given_back = np.zeros(capacity, np.int64)
        self._num_given_back = self._used = 0
        self.capacity, self._block_rows = capacity, block_rows

    @property
    def room(self) -> int:
        """How many more rows fit in."""
        return self.capacity - self._used + self._num_given_back

    def put(self, numbers: np.ndarray, rows: np.ndarray) -> None:
        """Save rows by their numbers."""
        again = min(len(numbers), self._num_given_back)
        first = self._num_given_back - again
        places = np.concatenate(
            [
                self._given_back[first : self._num_given_back],
                np.arange(self._used, self._used + len(numbers) - again),
            ]
        )
        self._num_given_back, self._used = first, self._used + len(numbers) - again
        self._numbers[places], self._blocks[places] = numbers, numbers // self._block_rows + 1
        self._rows[places] = rows

    def take(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, rows) saved for a block; their places are free again."""
        places = np.flatnonzero(self._blocks[: self._used] == block + 1)
        found = self._numbers[places], self._rows[places]
        self._blocks[places] = FREE
        self._given_back[self._num_given_back : self._num_given_back + len(places)] = places
        self._num_given_back += len(places)
        return found


class _Live:
    """A tensor of rows that goes on changing."""

    def __init__(self, tensor: Tensor, capacity: int) -> None:
        self.tensor, self.num_rows = tensor.detach(), tensor.shape[0]
        self.block_rows = min(rows_per_block(tensor), self.num_rows)
        self.row_bytes = tensor.nbytes // self.num_rows
        self.passed = 0  # rows before it have been read
        self.saved = SavedRows(min(capacity, self.num_rows), self.row_bytes, self.block_rows)
        self._bytes = as_bytes(self.tensor) if tensor.device.type == "cpu" else None

    def read(self, start: int, stop: int) -> np.ndarray:
        """uint8 (rows, row_bytes)."""
        return as_bytes(self.tensor[start:stop].cpu()) if self._bytes is None else self._bytes[start:stop]

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """The same of named rows, a copy."""
        if self._bytes is not None:
            return self._bytes.take(numbers, axis=0)
        return as_bytes(self.tensor.index_select(0, torch.from_numpy(numbers).to(self.tensor.device)).cpu())


class Snapshot:
    """See the top of this file. One thread calls :meth:`before_push`, another reads :meth:`blocks`.

    Args:
        tensors: everything, by name.
        rows: table → names of the tensors that hold its rows; all of a table have as many. The rest is small.
        spare_bytes: for rows that change before they were read.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], rows: Mapping[str, list[str]], spare_bytes: int = SPARE_BYTES
    ) -> None:
        self._tables = {table: names for table, names in rows.items() if names}
        named = {name for names in self._tables.values() for name in names}
        whole = sum(tensors[name].nbytes for name in named)
        self._live = {
            name: _Live(tensors[name], max(int(spare_bytes / whole * tensors[name].shape[0]), 1)) for name in named
        }
        self._small = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items() if name not in named}
        self._was_saved = {
            table: np.zeros(self._live[names[0]].num_rows, np.bool_) for table, names in self._tables.items()
        }
        self._changed = threading.Condition()
        self._closed = self._cancelled = False

    def before_push(self, ids: Mapping[str, Tensor]) -> None:
        """These rows of these tables (distinct, rising) are about to change. Waits while there is no room for them."""
        for table, numbers in ids.items():
            if table in self._tables and len(numbers) and not self._closed:
                self._save(table, numbers.cpu().numpy())

    def _save(self, table: str, numbers: np.ndarray) -> None:
        live, was_saved = [self._live[name] for name in self._tables[table]], self._was_saved[table]
        with self._changed:
            while not self._closed:
                first = min(tensor.passed for tensor in live)
                if first >= len(was_saved):
                    return
                fresh = numbers[np.searchsorted(numbers, first) :]
                fresh = fresh[~was_saved[fresh]]
                parts = [fresh[np.searchsorted(fresh, tensor.passed) :] for tensor in live]
                if all(len(part) <= tensor.saved.room for part, tensor in zip(parts, live, strict=True)):
                    break
                self._changed.wait()
            else:
                return
            was_saved[fresh] = True
            for part, tensor in zip(parts, live, strict=True):
                if len(part):
                    tensor.saved.put(part, tensor.gather(part))

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The bytes of a tensor in order. A block is good until the next one is asked for.

        Raises:
            Cancelled: by :meth:`cancel`.
        """
        if name in self._small:
            yield from blocks_of(self._small[name])
            return
        tensor = self._live[name]
        buffer = np.empty((tensor.block_rows, tensor.row_bytes), np.uint8)
        for block, start in enumerate(range(0, tensor.num_rows, tensor.block_rows)):
            if self._cancelled:
                raise Cancelled
            stop = min(start + tensor.block_rows, tensor.num_rows)
            self._copy(tensor, start, stop, buffer)
            with self._changed:
                numbers, rows = tensor.saved.take(block)
                self._changed.notify_all()
            buffer[numbers - start] = rows
            yield buffer[: stop - start]

    def _copy(self, tensor: _Live, start: int, stop: int, buffer: np.ndarray) -> None:
        step = max(tensor.block_rows // COPIES_PER_BLOCK, 1)
        for low in range(start, stop, step):
            high = min(low + step, stop)
            will_read(tensor.tensor[low:high])
            with self._changed:
                buffer[low - start : high - start] = tensor.read(low, high)
                tensor.passed = high

    def cancel(self) -> None:
        """The reader gets :class:`Cancelled` at its next block."""
        self._cancelled = True
        self.close()

    def close(self) -> None:
        """Nothing more will be read: nobody waits, nothing more is saved."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
