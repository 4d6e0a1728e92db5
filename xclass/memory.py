"""How the C library's allocator treats freed memory, and how the system treats a table's pages."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_FROM_HEAP = 32 << 20  # what the GNU C library allows
KEPT_BYTES = 1 << 30
AHEAD_BYTES = 128 << 10
MEMORY_WORDS = re.compile(r"can't allocate memory|out of memory|bad_alloc|cannot allocate memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device: torch, NumPy, Faiss and the system each say it in their own way."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and MEMORY_WORDS.search(str(error)) is not None


@functools.cache
def keep_freed_memory() -> bool:
    """Keep freed memory for the next request instead of returning it to the system; true where that can be set.

    A training step asks for the same few megabytes again and again. By default the GNU C library returns each of them
    at once, and the system hands them out again page by page, cleared: a seventh of a step's time and more. With this
    up to ``KEPT_BYTES`` stay with the process. It holds for all of the process; without the GNU C library it
    does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_FROM_HEAP), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, 16 << 20))
    return all(mallopt(option, value) == 1 for option, value in settings)


def advise(tensor: Tensor, advice: int) -> bool:
    """Tell the system about the whole pages of a tensor in main memory (``madvise``); true where it took it.

    ``mmap.MADV_HUGEPAGE`` before the memory is first touched: pages of 2 MiB instead of 4 KiB, for tables whose rows
    are read in no order.
    """
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return False
    return _advise(tensor.data_ptr(), tensor.nbytes, advice)


def will_read(tensor: Tensor) -> None:
    """All of this tensor is read next, in order. If it is a file's, mapped for reading in no order, it is read ahead.

    Then it comes at the disk's speed and not page by page, ten times slower. The system reads at most so much ahead at
    once, hence the pieces. Memory of other kinds stays as it is.
    """
    if tensor.device.type == "cpu" and tensor.is_contiguous():
        for start in range(0, tensor.nbytes, AHEAD_BYTES):
            length = min(AHEAD_BYTES + mmap.PAGESIZE, tensor.nbytes - start)
            _advise(tensor.data_ptr() + start, length, mmap.MADV_WILLNEED)


def _advise(address: int, length: int, advice: int) -> bool:
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = (address + length - start) // mmap.PAGESIZE * mmap.PAGESIZE
    madvise = _madvise()
    return whole > 0 and madvise is not None and madvise(start, whole, advice) == 0


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    found: Callable[[int, int, int], int] = madvise
    return found
