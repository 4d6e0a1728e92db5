"""The working set: a step finds the distinct rows it needs, pulls them once, computes on that small dense tensor with
plain autograd, and pushes one summed update. Nothing here is as long as the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from xclass.runtime.jit import compiles

DENSE_PLACES = 4  # places for each id asked for: walking over them costs no more than one pass of a sort


class Table(Protocol):
    """Rows that can be pulled and pushed; only the table knows where they live and in which type."""

    weight: Tensor
    """(num_rows, D) as stored, float32 or bfloat16. What pull gives may differ by weight decay that is still due."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def rows_here(self) -> int:
        """How many of them lie in this process: the length of ``weight``."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def device(self) -> torch.device:
        """Where computation is: pull and read give there, push takes from there. The rows may live elsewhere."""
        ...

    def pull(self, ids: Tensor) -> Tensor:
        """(U, D) float32 rows, a copy."""
        ...

    def push(self, ids: Tensor, grads: Tensor, lr: float) -> None:
        """One summed gradient (U, D) for each of ``ids``, which are distinct and rising; none at all is a step too."""
        ...

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32 rows as pull gives them, to be read only: they may be the table's own memory."""
        ...

    def write(self, start: int, rows: Tensor) -> None:
        """Rows from ``start`` on get these values, rounded to nearest; no decay is due on them."""
        ...

    def settle(self) -> None:
        """Write weight decay that is due into every row, block by block. ``weight`` is then what pull gives."""
        ...

    def blocks(self) -> Iterator[np.ndarray]:
        """The bytes of all rows in order, as they are stored: uint8, block by block."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, the tensors themselves: the weight and the optimiser's state, by name.

        One whose first size is num_rows holds rows, which push changes at its ids only; every other one is small.
        """
        ...


class RowOptimizer(Protocol):
    """The update of gathered rows; a table gathers, decays, clips, rounds and scatters around it.

    State is float32, per row, 0 at the start.
    """

    def state_shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """What it keeps for a row of ``dim`` numbers: the shape of each named state, () for one number."""
        ...

    def step(self, rows: Tensor, state: dict[str, Tensor], grads: Tensor, lr: float) -> None:
        """One step on U rows, in place.

        Args:
            rows: (U, D), changed.
            state: (U, *shape) for each of ``state_shapes(D)``, changed.
            grads: (U, D).
            lr: learning rate of this step.
        """
        ...

    def compiled(self) -> tuple[str, float, float, float] | None:
        """What the compiled pass needs of it: its kind there, β₁, β₂ and eps; None to go without one."""
        ...


class RowPlan(NamedTuple):
    """Which rows of one table a step needs.

    unique: int64 (U,), rising, distinct.
    positions: for each named request, where its ids stand in ``unique`` (int64, the request's length).
    """

    unique: Tensor
    positions: dict[str, Tensor]

    def to(self, device: torch.device) -> RowPlan:
        """The same plan on another device."""
        return RowPlan(self.unique.to(device), {name: ids.to(device) for name, ids in self.positions.items()})


def plan_rows(requests: dict[str, Tensor]) -> RowPlan:
    """The distinct ids of all requests together. Cost O(M) for M ids asked for where compiled, else O(M log M).

    Where ids are no larger than a few times M, each has a place of its own for the moment; else they are sorted.

    >>> plan = plan_rows({"a": torch.tensor([5, 3, 5]), "b": torch.tensor([9])})
    >>> plan.unique.tolist(), plan.positions["a"].tolist(), plan.positions["b"].tolist()
    ([3, 5, 9], [1, 0, 1], [2])
    """
    ids = torch.cat(list(requests.values()))
    unique, inverse = _compiled_distinct(ids) if _fits(ids) else torch.unique(ids, return_inverse=True)
    parts = inverse.split([len(ids) for ids in requests.values()])
    return RowPlan(unique, dict(zip(requests, parts, strict=True)))


def _fits(ids: Tensor) -> bool:
    """An id and a place go into one number."""
    return ids.device.type == "cpu" and 0 < len(ids) < 1 << 22 and compiles()


def _compiled_distinct(ids: Tensor) -> tuple[Tensor, Tensor]:
    from xclass.embeddings import _numba_plan

    end = int(ids.max()) + 1
    positions, unique = torch.empty_like(ids), ids.new_empty(min(len(ids), end) + 1)
    found = ids.numpy(), unique.numpy(), positions.numpy()
    if end <= DENSE_PLACES * len(ids) and int(ids.min()) >= 0:
        return unique[: _numba_plan.distinct_dense(found[0], np.zeros(end, np.int32), *found[1:])], positions
    bits = max((end - 1).bit_length(), 1)
    assert bits <= 40, "row numbers have 40 bits at most"
    count = _numba_plan.distinct(found[0], bits, *found[1:])
    return unique[:count], positions
