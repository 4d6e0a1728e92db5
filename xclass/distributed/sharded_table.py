"""Tables whose rows lie in several processes: as a rule row i is row i ÷ R of the shard of rank i mod R
(:mod:`xclass.distributed.placement`).

A step asks for distinct rows. Their numbers go to the ranks that hold them, the rows come back; their gradients go the
same way, and the owner adds up what several ranks found for one row before its optimiser sees it. Items are numbered by
falling frequency: taking turns, every rank holds as many popular ones as the others.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xclass.distributed.all_to_all import Exchange
from xclass.distributed.placement import Turns
from xclass.distributed.process_group import Group
from xclass.distributed.routing import Route, plan_routes
from xclass.embeddings import MemoryTable
from xclass.errors import InputError
from xclass.io.tensors import as_bytes

BLOCK_BYTES = 1 << 22


class ShardedTable:
    """One rank's part of a table (see the top of this file), as a table of all rows: pull and push are collective.

    Args:
        num_rows: of all ranks together.
        shard: the rows that lie here, with their optimiser's state: any kind of table.
        group: the ranks. All of them pull, then push, in the same order.
        turns: which of them hold rows; all of them unless given.
    """

    def __init__(self, num_rows: int, shard: MemoryTable, group: Group, turns: Turns | None = None) -> None:
        self.shard, self.group, self.weight = shard, group, shard.weight
        self.turns = turns or Turns.of_all(num_rows, group.size)
        self._num_rows = num_rows
        self._route: Route | None = None
        self._ahead = collections.deque[Route]()
        self._pulling: Exchange | None = None
        self._pushing: Exchange | None = None

    @property
    def num_rows(self) -> int:
        """Of all ranks together."""
        return self._num_rows

    @property
    def dim(self) -> int:
        """D."""
        return self.shard.dim

    @property
    def device(self) -> torch.device:
        """Where computation is."""
        return self.shard.device

    @property
    def rows_here(self) -> int:
        """How many rows lie in this process."""
        return self.shard.num_rows

    def expect(self, lr: float) -> None:
        """The rate of the next push, for tables that need it before a pull."""

    def plan_ahead(self, route: Route) -> None:
        """Of rows that will be pulled; from another thread than pulls, in their order."""
        self._ahead.append(route)

    def begin_pull(self, ids: Tensor) -> None:
        """Send what the others ask for; the pull of the same ``ids`` waits for the rest."""
        planned = self._ahead.popleft() if self._ahead and self._ahead[0].ids is ids else None
        self._route = route = planned or plan_routes([ids], [self.turns], self.group)[0]
        mine = self.shard.pull(route.asked)
        self._pulling = self.group.begin_exchange(mine, route.receives, route.sends, "a pull")

    def pull(self, ids: Tensor) -> Tensor:
        """(U, D) float32 rows, a copy. Two exchanges: of U numbers, and of the rows that lie elsewhere."""
        if self._pulling is None or self._route is None or ids is not self._route.ids:
            self.begin_pull(ids)
        assert self._route is not None and self._pulling is not None
        rows, self._pulling = self._pulling.wait(), None
        return rows.index_select(0, self._route.places)

    def begin_push(self, ids: Tensor, grads: Tensor) -> None:
        """Send the gradients of others' rows; the push of the same ``ids`` waits for those of the rows here."""
        if self._route is None or ids is not self._route.ids:
            self._route = plan_routes([ids], [self.turns], self.group)[0]
        route = self._route
        ordered = grads.index_select(0, route.order)
        self._pushing = self.group.begin_exchange(ordered, route.sends, route.receives, "a push")

    def push(self, ids: Tensor, grads: Tensor, lr: float) -> None:
        """One summed gradient per row on every rank; what ranks have in common is added up. One exchange after a pull
        of the same ``ids``; on any rank if on one."""
        if self._pushing is None:
            self.begin_push(ids, grads)
        assert self._route is not None and self._pushing is not None
        theirs, route = self._pushing.wait(), self._route
        self._pushing = self._route = None
        if ids is not route.ids:  # it was begun before all ranks knew that none has a gradient
            self.shard.push(route.unique[:0], theirs[:0], lr)
            return
        total = theirs.new_zeros(len(route.unique), self.dim).index_add_(0, route.positions, theirs)
        self.shard.push(route.unique, total, lr)

    def read(self, start: int, stop: int) -> Tensor:
        """Not of a table that lies in several processes: :attr:`shard` reads what is here."""
        raise InputError("rows that lie in other processes can't be read in order", wanted="pull, on all ranks")

    def write(self, start: int, rows: Tensor) -> None:
        """Those of the rows from ``start`` on that lie here; every rank is given all of them."""
        turns, mine = len(self.turns.holders), self.turns.first(self.group.rank)
        first = len(rows) if mine is None else (mine - start) % turns
        if first < len(rows):
            self.shard.write((start + first) // turns, rows[first::turns])

    def settle(self) -> None:
        """Write weight decay that is due into every row that lies here."""
        self.shard.settle()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the rows that lie here, and what all ranks have alike."""
        return self.shard.tensors()

    def blocks(self) -> Iterator[np.ndarray]:
        """The bytes of all rows in order, on rank 0; collective: the other ranks get blocks without rows."""
        size, turns = self.group.size, len(self.turns.holders)
        row_bytes = self.dim * self.weight.element_size()
        rows = max(BLOCK_BYTES // row_bytes // turns, 1)
        for start in range(0, -(-self.num_rows // turns), rows):
            lengths = [min(self.turns.rows(self.num_rows, rank, start * turns), rows) for rank in range(size)]
            here = torch.from_numpy(as_bytes(self.weight[start : start + rows].cpu())).reshape(-1, row_bytes)
            to_first, from_all = [len(here), *[0] * (size - 1)], lengths if self.group.is_first else [0] * size
            found = self.group.exchange(here, to_first, from_all, "writing the model")
            if self.group.is_first:
                whole, parts = found.new_empty(sum(lengths), found.shape[1]), found.split(lengths)
                for turn, rank in enumerate(self.turns.holders):
                    whole[turn::turns] = parts[rank]
                yield whole.numpy()
            one_each = [1] * size  # nobody goes ahead of rank 0, and buffers that it has read are free
            self.group.exchange(torch.zeros(size, dtype=torch.uint8), one_each, one_each, "writing the model")
