"""A table whose rows are where the computation is: in the machine's memory, or in an accelerator's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xclass.embeddings import _dispatch, row_ops
from xclass.embeddings.hashing import keys_of
from xclass.embeddings.init import write_normal_part
from xclass.embeddings.interface import RowOptimizer
from xclass.embeddings.row_ops import Step, Stored
from xclass.embeddings.storage import BLOCK_ROWS, blocks, in_memory
from xclass.errors import InputError
from xclass.io.tensors import blocks_of
from xclass.runtime.memory import will_read


@dataclass(frozen=True)
class TableOptions:
    """How rows are stored and changed.

    Args:
        init_std: rows start as N(0, init_std²), see :func:`xclass.embeddings.init.write_normal`; None: as zeros, to be
            written or loaded.
        seed: of the initial rows and of stochastic rounding.
        dtype: of the rows: float32, or bfloat16, rounded stochastically in every push.
        rows: the rows themselves, not copied, for a table that is only read: such as those of a mapped file.
        weight_decay: every row is multiplied by 1 − lr·weight_decay in every push, touched or not.
        clip_norm: the largest norm of a row's gradient; 0 for no limit.
        part: (parts, part) when other processes hold the other parts: row j is row ``part + j·parts`` of the whole.
    """

    init_std: float | None = None
    seed: int = 0
    dtype: torch.dtype = torch.float32
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    rows: Tensor | None = None
    part: tuple[int, int] = (1, 0)


@dataclass(frozen=True)
class Place:
    """Where a table computes, and the directory that is its own, should it keep rows in files."""

    device: torch.device | str = "cpu"
    folder: Path | None = None


class MemoryTable:
    """(num_rows, D) rows and their optimiser's state on the device where the computation is.

    Weight decay is decoupled and lazy: with s_t = Σ_{i≤t} log(1 − lr_i·weight_decay), a row that last had its decay at
    push j is multiplied by e^(s_t − s_j) when it is touched in push t or read after it: what multiplying all rows in
    every push gives, whatever the schedule. Cost of a push and a pull: O(U·D), never O(num_rows).

    Args:
        num_rows, dim: the size.
        optimizer: what ``push`` applies; None for a table that is only read: no state is kept.
        options: how rows are stored and changed.
        place: the device of rows and computation.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        optimizer: RowOptimizer | None,
        options: TableOptions = TableOptions(),
        place: Place = Place(),
    ) -> None:
        alone = options.part[0] == 1  # a part of a table may hold no row
        if num_rows < (1 if alone else 0) or dim < 1:
            raise InputError("a table is empty", wanted="at least one row and one dimension", got=f"{num_rows} × {dim}")
        self.optimizer, self.options, self.place = optimizer, options, place
        self._claim_place()
        self.weight = self._first_rows((num_rows, dim))
        shapes = {} if optimizer is None else optimizer.state_shapes(dim)
        state = {name: self._zeros(name, (num_rows, *shape), torch.float32) for name, shape in shapes.items()}
        decays = optimizer is not None and options.weight_decay > 0
        decayed = self._zeros("decayed", (num_rows,), torch.float64) if decays else None
        self._stored = Stored(self.weight, state, decayed)
        self._decay = torch.zeros((), dtype=torch.float64)
        self._pushes = torch.zeros((), dtype=torch.int64)
        if options.init_std is not None:
            write_normal_part(self.weight, options.init_std, options.seed, *options.part)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.weight.shape[0]

    @property
    def rows_here(self) -> int:
        """All of them."""
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where computation is."""
        return self.weight.device

    def pull(self, ids: Tensor) -> Tensor:
        """(U, D) float32 copy of the rows ``ids``. Cost O(U·D)."""
        if not _dispatch.fits(self._stored, None):
            return row_ops.pull(self._stored, ids, float(self._decay))
        rows = self._rows(len(ids))
        _dispatch.pull(self._stored, ids, float(self._decay), rows)
        return rows

    def push(self, ids: Tensor, grads: Tensor, lr: float) -> None:
        """One summed gradient per row; ``ids`` must be distinct and rising. Cost O(U·D).

        Raises:
            InputError: lr · weight_decay is 1 or more; the table is only read; there is no such row (on a CPU).
        """
        if self.optimizer is None:
            raise InputError("this table is only read", got="a push")
        self._advance(lr)
        step = Step(lr, self.options.clip_norm, float(self._decay), self._keys("push"))
        run = _dispatch.push if _dispatch.fits(self._stored, self.optimizer) else row_ops.push
        run(self._stored, self.optimizer, ids, grads, step)

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32 rows as pull gives them, to be read only: they may be the table's own memory."""
        rows = self.weight[start:stop].float()
        until = self._stored.decayed
        return rows if until is None else row_ops.decayed(rows, until[start:stop], float(self._decay))

    def write(self, start: int, rows: Tensor) -> None:
        """Rows from ``start`` on get these values, rounded to nearest; no decay is due on them."""
        self.weight[start : start + len(rows)].copy_(rows)
        if self._stored.decayed is not None:
            self._stored.decayed[start : start + len(rows)] = self._decay.item()

    def settle(self) -> None:
        """Write weight decay that is due into every row. Cost O(num_rows·D), nothing without weight decay."""
        if self._stored.decayed is None:
            return
        decay, keys = float(self._decay), self._keys("settle")
        for start, stop in blocks(self.num_rows, BLOCK_ROWS):
            will_read(self.weight[start:stop])
            part = Stored(self.weight[start:stop], {}, self._stored.decayed[start:stop])
            run = _dispatch.settle if _dispatch.fits(part, None) else row_ops.settle
            run(part, start, decay, keys)

    def blocks(self) -> Iterator[np.ndarray]:
        """The bytes of all rows in order, as they are stored."""
        return blocks_of(self.weight)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the weight, the optimiser's state, and what decay and rounding go on from."""
        found = {"weight": self.weight, **self._stored.state}
        if self._stored.decayed is not None:
            found |= {"decayed": self._stored.decayed, "decay": self._decay}
        if self.weight.dtype == torch.bfloat16 and self.optimizer is not None:
            found["pushes"] = self._pushes
        return found

    def _advance(self, lr: float) -> None:
        """One more push: the running sum of decay and the number that rounding depends on."""
        share = lr * self.options.weight_decay
        if share >= 1.0:
            raise InputError(
                "a step's weight decay leaves nothing of a row",
                wanted="learning rate · weight_decay below 1",
                got=f"{lr:g} · {self.options.weight_decay:g}",
                do="lower tables.weight_decay or train.learning_rate",
            )
        self._decay += math.log1p(-share)
        self._pushes += 1

    def _keys(self, purpose: str) -> tuple[int, int]:
        if self.weight.dtype != torch.bfloat16:
            return 0, 0
        return keys_of(self.options.seed, f"round.{purpose}", int(self._pushes))

    def _first_rows(self, shape: tuple[int, int]) -> Tensor:
        """The rows given, or zeros."""
        given, dtype = self.options.rows, self.options.dtype
        if given is None:
            return self._zeros("weight", shape, dtype)
        if self.optimizer is not None or (given.shape, given.dtype) != (shape, dtype):
            got = f"{tuple(given.shape)} of {given.dtype}"
            raise InputError("these can't be the rows of this table", wanted=f"{shape} of {dtype}, only read", got=got)
        return given

    def _claim_place(self) -> None:
        """Before the first tensor is made."""

    def _rows(self, count: int) -> Tensor:
        return torch.empty(count, self.dim)

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return in_memory(shape, dtype, torch.device(self.place.device))
