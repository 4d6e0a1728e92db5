"""Every row once an epoch, in an order that needs no memory for all of them.

Rows lie on disk in blocks of neighbours. The blocks are permuted; a window is as many of them as hold about a million
rows; its rows are permuted. Up to a million rows that is one permutation of them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.runtime.rng import torch_generator
from xclass.types import offsets_of

WINDOW_ROWS = 1 << 20

Load = Callable[[Tensor], tuple[Tensor, ...]]


class Window(NamedTuple):
    """Blocks whose rows are shuffled together, and the place of their first row in the epoch."""

    number: int
    start: int
    blocks: Tensor


class Shuffle:
    """The order of the rows.

    Args:
        block_rows: int64, how many rows each block has.
        seed: the order of epoch e depends on (seed, e) only.

    Memory: 16 bytes a block and about 40 a row of a window.
    """

    def __init__(self, block_rows: Tensor, seed: int, window_rows: int = WINDOW_ROWS) -> None:
        self.block_rows, self.seed, self.window_rows = block_rows, seed, window_rows
        self.num_rows = int(block_rows.sum())

    def windows(self, epoch: int, first_row: int = 0) -> Iterator[Window]:
        """The windows of an epoch from the one that holds ``first_row`` on."""
        order = torch.randperm(len(self.block_rows), generator=torch_generator(self.seed, "order", epoch))
        bounds = offsets_of(self.block_rows[order])
        window_of = torch.div(bounds[:-1], self.window_rows, rounding_mode="floor")
        edges = offsets_of(torch.unique_consecutive(window_of, return_counts=True)[1]).tolist()
        for number, (low, high) in enumerate(itertools.pairwise(edges)):
            if int(bounds[high]) > first_row:
                yield Window(number, int(bounds[low]), order[low:high])

    def batches(self, epoch: int, size: int, first: int, load: Load) -> Iterator[tuple[Tensor, ...]]:
        """Rows in batches of ``size`` from number ``first`` on; the last one may be shorter.

        Args:
            load: the columns of all rows of some blocks, in the order of the blocks.
        """
        skip, pending = first * size, tuple[Tensor, ...]()
        for window in self.windows(epoch, skip):
            columns = self._shuffled(load(window.blocks), epoch, window.number)
            columns = tuple(column[max(skip - window.start, 0) :] for column in columns)
            if pending:
                columns = tuple(torch.cat(both) for both in zip(pending, columns, strict=True))
            full = len(columns[0]) // size * size
            for start in range(0, full, size):
                yield tuple(column[start : start + size] for column in columns)
            pending = tuple(column[full:].clone() for column in columns)
        if pending and len(pending[0]):
            yield pending

    def _shuffled(self, columns: tuple[Tensor, ...], epoch: int, window: int) -> tuple[Tensor, ...]:
        generator = torch_generator(self.seed, "order", epoch, window)
        order = torch.randperm(len(columns[0]), generator=generator)
        return tuple(column.index_select(0, order) for column in columns)
