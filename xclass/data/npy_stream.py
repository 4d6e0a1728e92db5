"""One-dimensional .npy files that grow block by block, without their length being known before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy

VALUES_PER_BLOCK = 1 << 22


class ArrayWriter:
    """Appends arrays to a .npy file; the header gets its length when the file is closed.

    NumPy pads its headers so that a growing first dimension can be written over in place.
    """

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.length, self._dtype = 0, np.dtype(dtype)
        self._file = path.open("w+b")
        self._header()
        self._start = self._file.tell()

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._file.seek(0)
                self._header()
                assert self._file.tell() == self._start
        finally:
            self._file.close()

    def append(self, values: np.ndarray) -> None:
        """Write ``values`` behind what is there."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self.length += len(values)

    def _header(self) -> None:
        npy.write_array_header_1_0(
            self._file, {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        )


def rewrite_blocks(path: Path) -> Iterator[np.ndarray]:
    """Views of a .npy file, block by block; what is written into them is written to the file."""
    array = np.load(path, mmap_mode="r+", allow_pickle=False)
    for start in range(0, len(array), VALUES_PER_BLOCK):
        yield array[start : start + VALUES_PER_BLOCK]
    if isinstance(array, np.memmap):
        array.flush()
