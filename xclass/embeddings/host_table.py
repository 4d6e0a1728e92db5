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

from xclass.embeddings.storage import NUMPY, as_tensor, in_memory
from xclass.embeddings.table import MemoryTable
from xclass.errors import ArtefactError, InputError
from xclass.io.files import remove_any, require_space
from xclass.runtime.memory import advise, will_read

CPU = torch.device("cpu")


class HostTable(MemoryTable):
    """Rows and state in main memory; a step's rows move to the accelerator and their gradients back.

    Both go through pinned memory, so that the copies need no staging. On a CPU it is a :class:`MemoryTable`.
    """

    @property
    def device(self) -> torch.device:
        """Where computation is."""
        return torch.device(self.place.device)

    def pull(self, ids: Tensor) -> Tensor:
        """(U, D) float32 copy of the rows ``ids``, on the device of the computation."""
        return super().pull(_to_host(ids)).to(self.device, non_blocking=True)

    def push(self, ids: Tensor, grads: Tensor, lr: float) -> None:
        """One summed gradient per row; see :meth:`MemoryTable.push`."""
        super().push(_to_host(ids), _to_host(grads), lr)

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32 rows on the device of the computation."""
        return super().read(start, stop).to(self.device)

    def _rows(self, count: int) -> Tensor:
        return torch.empty(count, self.dim, pin_memory=self.device.type == "cuda")

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return in_memory(shape, dtype, CPU)


class MappedTable(HostTable):
    """Rows and state in files of their own, mapped: for tables larger than memory.

    The system keeps in memory what is touched often and writes back what changed. Rows are read one by one, without
    those around them; what is to be read in order says so first (:func:`xclass.runtime.memory.will_read`). The files
    are working memory: they are made anew by every process, need as much disk as the table has bytes (taken at the
    start, so that a disk which fills up later harms nothing), and go with the table. What survives is the checkpoint. A
    push costs several times what it does in memory: the system notes every page that changes.
    """

    def _claim_place(self) -> None:
        if self.place.folder is None:
            raise InputError("a mapped table needs a directory of its own", got="none")
        self.folder = Path(self.place.folder)
        remove_any(self.folder)
        self.folder.mkdir(parents=True)
        weakref.finalize(self, _remove, self.folder, self.folder.stat().st_ino)

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32 rows on the device of the computation; the file is read ahead."""
        will_read(self.weight[start:stop])
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


def _to_host(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def _remove(folder: Path, made: int) -> None:
    """Remove a table's files, unless another table has its own there by now."""
    with contextlib.suppress(OSError):
        if folder.stat().st_ino == made:
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.rmdir()
