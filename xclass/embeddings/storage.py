"""Where rows lie: memory with large pages, an accelerator's memory, a mapped file."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.memory import advise

BLOCK_ROWS = 1 << 16
LARGE_BYTES = 32 << 20
NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.uint16}


def in_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On a CPU a page is taken when it is first written, and large tables ask for pages of 2 MiB.

    Rows are read in no order, so with pages of 4 KiB nearly every one costs a walk through the page tables, too.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        zeros = np.zeros(shape, NUMPY[dtype])
    except MemoryError:
        raise InputError(
            "a table does not fit into memory",
            got=" × ".join(map(str, shape)) + f" {dtype}".replace("torch.", ""),
            do='lower model.embedding_dim, or set tables.dtype = "bfloat16" or tables.storage = "mapped"',
        ) from None
    tensor = as_tensor(zeros, dtype)
    if tensor.nbytes >= LARGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        advise(tensor, mmap.MADV_HUGEPAGE)
    return tensor


def as_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The same memory; bfloat16 from its bits."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


def blocks(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each block of rows.

    >>> list(blocks(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    return itertools.pairwise([*range(0, rows, size), rows])
