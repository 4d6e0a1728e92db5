"""What rows cost a rank beside pulling and pushing them: sorting by owner, planning, copies on both ends; timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from xclass.distributed import Group, ShardedTable
from xclass.embeddings import MemoryTable, TableOptions
from xclass.optim import ROW_OPTIMIZERS
from xclass.runtime.rng import torch_generator

TABLE_BYTES = 64 << 20
TRIES, DROPPED = 12, 4


def routing_s(rows: Mapping[str, int], dim: int, optimizer: str) -> float:
    """Seconds of a step, of a rank that asks for and is asked for so many rows of each table (name → rows).

    What a sharded table of this process alone takes, less what a plain one takes for the same rows.
    """
    return max(sum(_extra_s(count, dim, optimizer) for count in rows.values() if count), 0.0)


def _extra_s(count: int, dim: int, optimizer: str) -> float:
    size = max(min(TABLE_BYTES // (4 * dim), 8 * count), count)
    plain = MemoryTable(size, dim, ROW_OPTIMIZERS[optimizer](), TableOptions(0.1))
    sharded = ShardedTable(size, plain, Group())
    generator = torch_generator(0, "routing")
    grads = torch.zeros(count, dim)

    def step(table: MemoryTable | ShardedTable) -> Callable[[Tensor], None]:
        def run(ids: Tensor) -> None:
            table.pull(ids)
            table.push(ids, grads, 1e-3)

        return run

    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(TRIES):
        ids = torch.randperm(size, generator=generator)[:count].sort().values
        for routed, run in ((False, step(plain)), (True, step(sharded))):
            began = time.perf_counter()
            run(ids)
            took[routed].append(time.perf_counter() - began)
    return statistics.median(took[True][DROPPED:]) - statistics.median(took[False][DROPPED:])
