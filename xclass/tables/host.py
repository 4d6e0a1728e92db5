"""Tables whose rows lie in main memory or in files while the computation may be on an accelerator."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xclass.errors import ArtefactError, InputError
from xclass.manifest import require_space
from xclass.memory import advise
from xclass.tables.memory import MemoryTable
from xclass.tables.places import NUMPY, as_tensor, in_memory

CPU = torch.device("cpu")


class HostTable(MemoryTable):
    """Rows and state in main memory; a step's rows move to the accelerator and their gradients back.

    Pulled rows go through pinned memory, so the copy needs no staging. On a CPU it is a :class:`MemoryTable`.
    """

    @property
    def device(self) -> torch.device:
        """Where computation is."""
        return torch.device(self.place.device)

    def pull(self, ids: Tensor) -> Tensor:
        """(U, D) float32 copy of the rows ``ids``, on the device of the computation."""
        return super().pull(ids.to(CPU)).to(self.device, non_blocking=True)

    def push(self, ids: Tensor, grads: Tensor, lr: float) -> None:
        """One summed gradient per row; see :meth:`MemoryTable.push`."""
        super().push(ids.to(CPU), grads.to(CPU), lr)

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32 rows on the device of the computation."""
        return super().read(start, stop).to(self.device)

    def _rows(self, count: int) -> Tensor:
        return torch.empty(count, self.dim, pin_memory=self.device.type == "cuda")

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return in_memory(shape, dtype, CPU)


class MappedTable(HostTable):
    """Rows and state in files of their own, mapped: for tables larger than memory.

    The system keeps in memory what is touched often and writes back what changed. The files are working memory: they
    are made anew by every process, need as much disk as the table has bytes (taken at the start: a disk that fills up
    later takes nothing away), and go with the table. What survives is the checkpoint.
    """

    def _claim_place(self) -> None:
        if self.place.folder is None:
            raise InputError("a mapped table needs a directory of its own", got="none")
        self.folder = Path(self.place.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        weakref.finalize(self, _remove, self.folder)

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32 rows on the device of the computation; the file is read ahead."""
        advise(self.weight[start:stop], mmap.MADV_WILLNEED)
        return super().read(start, stop)

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        path, cells = self.folder / f"{name}.bin", np.dtype(NUMPY[dtype])
        size = int(np.prod(shape)) * cells.itemsize
        require_space(self.folder, size)
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise ArtefactError("a table's file can't be made", where=path, got=error.strerror) from None
        tensor = as_tensor(np.memmap(path, cells, "r+", shape=shape), dtype)
        advise(tensor, mmap.MADV_RANDOM)
        return tensor


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
