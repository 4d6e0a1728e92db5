"""How the C library's allocator treats freed memory."""

from __future__ import annotations

import ctypes
import functools

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
