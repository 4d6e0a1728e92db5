"""A table in memory: the machine's, or an accelerator's."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.tables.working_set import RowOptimizer

INIT_BLOCK_ROWS = 1 << 16


class MemoryTable:
    """(num_rows, D) float32 on one device with its row optimiser.

    Args:
        num_rows, dim: the size.
        optimizer: what ``push`` applies.
        init_std: rows start as N(0, init_std²); written block by block, each block from ``generator`` (on the CPU, so
            that they are the same on every device).
        device: where the rows live.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        optimizer: RowOptimizer,
        init_std: float,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_rows < 1 or dim < 1:
            raise InputError("a table is empty", wanted="at least one row and one dimension", got=f"{num_rows} × {dim}")
        self.optimizer = optimizer
        self.weight = torch.empty(num_rows, dim, device=device)
        for start in range(0, num_rows, INIT_BLOCK_ROWS):
            block = self.weight[start : start + INIT_BLOCK_ROWS]
            block.copy_(torch.empty(block.shape).normal_(0.0, init_std, generator=generator))
        shapes = optimizer.state_shapes(dim)
        self.state = {name: torch.zeros(num_rows, *shape, device=device) for name, shape in shapes.items()}

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where computation is."""
        return self.weight.device

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32 rows as pull gives them, to be read only: they may be the table's own memory."""
        return self.weight[start:stop].float()

    def pull(self, ids: Tensor) -> Tensor:
        """(U, D) copy of the rows ``ids``. Cost O(U·D)."""
        return self.weight.index_select(0, ids)

    def push(self, ids: Tensor, grads: Tensor, lr: float) -> None:
        """Apply one summed gradient per row; ``ids`` must be distinct. Cost O(U·D), never O(num_rows)."""
        self.optimizer.update(self.weight, self.state, ids, grads, lr)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the weight and the optimiser's state, by name."""
        return {"weight": self.weight, **self.state}
