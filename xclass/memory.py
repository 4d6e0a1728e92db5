"""How the C library's allocator treats freed memory, and how the system treats a table's pages."""

from __future__ import annotations

import ctypes
import functools
import mmap

from torch import Tensor

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_FROM_HEAP = 32 << 20  # what the GNU C library allows
KEPT_BYTES = 1 << 30


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
    are read in no order. ``mmap.MADV_WILLNEED``: a mapped file's part will be read next, in order.
    """
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    length = (tensor.data_ptr() + tensor.nbytes - start) // page * page
    if length <= 0 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return False
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return False
    return bool(madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice)) == 0)
