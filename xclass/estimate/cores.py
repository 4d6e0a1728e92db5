"""A process on some of its cores only, as a rank that has no more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

THREADS = Path("/proc/self/task")


@contextlib.contextmanager
def at_most(cores: int | None) -> Iterator[None]:
    """All threads of this process on so many cores, and as many threads in an operation, while the context is open.

    Nothing for None, or as many as there are. Where threads can't be bound to cores there are only fewer of them.
    """
    if cores is None or cores >= own_cores():
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(min(cores, threads))
    whole = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    _bind(set(sorted(whole)[:cores]))
    try:
        yield
    finally:
        _bind(whole)
        torch.set_num_threads(threads)


def own_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bind(cores: set[int]) -> None:
    for thread in THREADS.iterdir() if cores and THREADS.is_dir() else ():
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread.name), cores)
