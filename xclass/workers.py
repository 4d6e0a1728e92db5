"""Threads that each take a part of the rows. Inside them an operation runs on one thread."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
_setting_threads = threading.Lock()
_kept = threading.local()


def in_parts(
    work: Callable[[int, int], Result], rows: int, worthwhile: int, device: torch.device, threads: int | None = None
) -> list[Result]:
    """``work(start, stop)`` over contiguous parts of 0 … rows−1, in order.

    Args:
        work: runs without gradients.
        rows: how many there are.
        worthwhile: parts that are large enough to be worth a thread.
        device: on an accelerator there is one part.
        threads: at most so many parts; torch's number of threads unless given.

    The cut depends on the numbers only.
    """
    count = min(threads or torch.get_num_threads(), max(worthwhile, 1), max(rows, 1)) if device.type == "cpu" else 1
    if count == 1:
        return [work(0, rows)]
    bounds = [rows * part // count for part in range(count + 1)]
    return list(_pool(count).map(_without_gradients(work), *zip(*itertools.pairwise(bounds), strict=True)))


def on_one_thread(work: Callable[[], Result]) -> Result:
    """``work()`` with operations on one thread: many short ones cost more in waking threads than they gain."""
    if torch.get_num_threads() == 1:
        return work()
    return _pool(1).submit(_without_gradients(lambda start, stop: work()), 0, 0).result()


def _without_gradients(work: Callable[[int, int], Result]) -> Callable[[int, int], Result]:
    def run(start: int, stop: int) -> Result:
        with torch.no_grad():
            return work(start, stop)

    return run


def scratch(size: int, like: Tensor) -> Tensor:
    """(size,) of the type and device of ``like``, contents arbitrary; each thread has one and keeps it.

    Memory that is given back to the system is faulted in page by page when it is asked for again. Good until the next
    call from the same thread.
    """
    kept: Tensor | None = getattr(_kept, "buffer", None)
    if kept is None or len(kept) < size or kept.dtype != like.dtype or kept.device != like.device:
        kept = _kept.buffer = like.new_empty(size)
    return kept[:size]


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
    """All threads are there when it returns: one that is being made later would change torch's numbers meanwhile."""
    pool = ThreadPoolExecutor(count, "xclass-loss", initializer=_one_thread, initargs=(torch.get_num_threads(),))
    together = threading.Barrier(count)
    for waiting in [pool.submit(together.wait) for _ in range(count)]:
        waiting.result()
    return pool


def _one_thread(elsewhere: int) -> None:
    """One thread for the operations of this thread; threads made later by others keep their number.

    torch keeps the number of the calling thread and the number for new threads apart, and sets both at once. A new
    thread takes its number when it first asks for it, so it asks before it is told another.
    """
    with _setting_threads:
        torch.get_num_threads()
        torch.set_num_threads(1)
        helper = threading.Thread(target=torch.set_num_threads, args=(elsewhere,))
        helper.start()
        helper.join()
