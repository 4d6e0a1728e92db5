"""How the C library's allocator treats freed memory, and how the system treats a table's pages."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # a limit above this is none
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_FROM_HEAP = 32 << 20  # what the GNU C library allows
KEPT_BYTES = 1 << 30
AHEAD_BYTES = 128 << 10
MEMORY_WORDS = re.compile(
    r"can't allocate memory|out of memory|bad_alloc|cannot allocate memory|unable to allocate|memory allocation"
    r"|failed to map segment|can't start new thread|could not spawn threads|'libllvmlite\.so'",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device, also for threads and for libraries that are being loaded: torch,
    NumPy, Polars, Faiss, numba and the system each say it in their own way."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = isinstance(error, RuntimeError | ImportError | OSError) or type(error).__name__ == "PanicException"
    return said and MEMORY_WORDS.search(str(error)) is not None


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


def left_memory() -> tuple[int, int]:
    """Bytes that can be had: (without swapping, if every cache and all swap were given up), outside of this process.

    Limits of control groups count; where the system tells nothing, both are ``UNLIMITED``.
    """
    fields = system_fields(MEMINFO)
    if not fields:
        return UNLIMITED, UNLIMITED
    caches = sum(fields.get(name, 0) for name in ("MemFree", "Buffers", "Cached", "SReclaimable", "SwapFree"))
    most = max(fields.get("MemAvailable", 0) + fields.get("SwapFree", 0), caches - fields.get("Shmem", 0))
    left = _left_in_groups()
    return min(fields.get("MemAvailable", most), left), min(most, left)


def _left_in_groups() -> int:
    """Bytes that the control groups of this process leave it, their caches given up; version 1 and 2."""
    left = UNLIMITED
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return left
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            left = min(
                left, _left_below(CGROUPS, name, "memory.max", "memory.current", ("active_file", "inactive_file"))
            )
        elif "memory" in controllers.split(","):
            files = ("total_active_file", "total_inactive_file")
            left = min(
                left, _left_below(CGROUPS / "memory", name, "memory.limit_in_bytes", "memory.usage_in_bytes", files)
            )
    return left


def _left_below(root: Path, name: str, limit: str, usage: str, caches: tuple[str, ...]) -> int:
    left, folder = UNLIMITED, root / name.strip("/")
    for group in [folder, *folder.parents]:
        if group != root and root not in group.parents:
            break
        try:
            most, used = int((group / limit).read_text()), int((group / usage).read_text())
            given_up = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group in this container, or its limit is the word "max"
            continue
        if most < UNLIMITED:
            left = min(left, max(most - used + sum(int(given_up.get(cache, 0)) for cache in caches), 0))
    return left


def system_fields(path: Path) -> dict[str, int]:
    """``Name: 12 kB`` lines as bytes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    split = [line.replace(":", " ").split() for line in lines]
    return {words[0]: int(words[1]) * 1024 for words in split if len(words) == 3 and words[2] == "kB"}
