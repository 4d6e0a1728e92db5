"""Which engine: the launch decides, not the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xclass.distributed.distributed import DistributedEngine, Kind
from xclass.distributed.interface import Engine
from xclass.distributed.local import LocalEngine
from xclass.distributed.placement import Sharding
from xclass.distributed.process_group import Group, launched
from xclass.runtime.progress import silence


@contextmanager
def open_engine(
    timeout_s: float,
    device: torch.device | str = "cpu",
    tables: Kind = "exchange",
    sharding: Sharding = "row-wise",
    shared_memory: bool = True,
) -> Iterator[Engine]:
    """The processes of a launch when torchrun started this one, else this process alone.

    Args:
        timeout_s: no process waits longer for the others.
        device: where the computation is.
        tables, sharding: what holds the rows of a launch, and on which ranks.
        shared_memory: whether ranks of one host exchange rows through it.
    """
    if not launched():
        yield LocalEngine()
        return
    with Group(timeout_s, device, shared_memory) as group:
        if not group.is_first:
            silence()
        yield DistributedEngine(group, tables, sharding)
