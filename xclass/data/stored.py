"""Arrays of a dataset, checked once before anything relies on them: type, shape, order and range.

The SHA-256 of the manifest and the range are looked at in one pass, while a block is in the processor's cache. Cost:
about 1.5 GB/s, once a process (:func:`xclass.io.manifest.verified_file`); nothing is kept in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from xclass.errors import ArtefactError
from xclass.io.manifest import verified_file

INTEGERS, FLOATS = ("int32", "int64"), ("float32", "float64")
FINITE = float(np.finfo(np.float64).max)


class Wanted(NamedTuple):
    """What an array must be.

    dtypes: names of NumPy types. length: None for any. low, high: every number lies between them, both included.
    rising: no number is smaller than the one before; the first is ``low`` and the last ``high``.
    """

    dtypes: tuple[str, ...]
    length: int | None = None
    low: float = -FINITE
    high: float = FINITE
    rising: bool = False


def offsets_wanted(lists: int, values: int) -> Wanted:
    """Offsets of ``lists`` lists that together have ``values`` values."""
    return Wanted(("int64",), lists + 1, 0, values, rising=True)


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    length: int
    start: int


def map_array(directory: Path, manifest: dict[str, Any], name: str, wanted: Wanted) -> np.ndarray[Any, Any]:
    """A one-dimensional .npy file of a manifest, memory-mapped: read when touched; a write would stay private.

    Raises:
        ArtefactError: missing, cut, altered, or not what is wanted.
    """
    checked = _Checked(directory / name, wanted)
    path = verified_file(directory, manifest, name, checked, wanted)
    with path.open("rb") as file:
        header = read_header(path, file, wanted)
        if header.length == 0:
            return np.empty(0, header.dtype)
        return np.memmap(file, header.dtype, "c", header.start, (header.length,))


def read_header(path: Path, file: BinaryIO, wanted: Wanted) -> _Header:
    """What the header says, if that is what is wanted and as long as the file."""
    try:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except Exception as error:  # noqa: BLE001  NumPy parses the header as Python, which fails in many ways
        raise ArtefactError("this array can't be read: cut or altered", where=path, got=str(error)) from None
    start, size = file.tell(), path.stat().st_size
    good = dtype in [np.dtype(name) for name in wanted.dtypes] and len(shape) == 1
    good = good and wanted.length in (None, shape[0]) and start + shape[0] * dtype.itemsize == size
    if not good:
        length = "" if wanted.length is None else f"{wanted.length:,} "
        got = f"{'×'.join(map(str, shape)) or 'one'} {dtype} in {size - start:,} bytes"
        raise ArtefactError(
            "this array is of another type or shape", where=path, wanted=length + " or ".join(wanted.dtypes), got=got
        )
    return _Header(dtype, shape[0], start)


class _Checked:
    """Looks at the numbers of a file that comes block by block; what is wrong is said when its hash is known."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path, self._wanted = path, wanted
        self._header: _Header | None = None
        self._wrong: ArtefactError | None = None
        self._place, self._rest, self._last = 0, b"", wanted.low

    def see(self, block: memoryview) -> None:
        """The next block of the file."""
        try:
            if self._wrong is None:
                self._see(block)
        except ArtefactError as error:
            self._wrong = error

    def finish(self) -> None:
        """ArtefactError when something was wrong."""
        if self._wrong is None and self._wanted.rising and self._last != self._wanted.high:
            self._wrong = self._out_of_range(f"{self._wanted.high:,} at the end", f"{self._last:,}")
        if self._wrong is not None:
            raise self._wrong

    def _see(self, block: memoryview) -> None:
        if self._header is None:
            with self._path.open("rb") as file:
                self._header = read_header(self._path, file, self._wanted)
        skipped = min(max(self._header.start - self._place, 0), len(block))
        first = self._place <= self._header.start
        self._place += len(block)
        data = self._rest + bytes(block[skipped:]) if self._rest else block[skipped:]
        whole = len(data) - len(data) % self._header.dtype.itemsize
        self._rest = bytes(data[whole:])
        if whole:
            self._check(np.frombuffer(data[:whole], self._header.dtype), first)

    def _check(self, numbers: np.ndarray[Any, Any], first: bool) -> None:
        wanted, low, high = self._wanted, numbers.min().item(), numbers.max().item()
        if not (wanted.low <= low and high <= wanted.high):  # not a number is in no range
            raise self._out_of_range(f"{wanted.low:,} … {wanted.high:,}", f"{low:,} … {high:,}")
        if wanted.rising:
            start = numbers[0].item()
            if start < self._last or (first and start != wanted.low) or (numbers[1:] < numbers[:-1]).any():
                raise self._out_of_range(f"numbers from {wanted.low} on that never fall", "others")
            self._last = numbers[-1].item()

    def _out_of_range(self, wanted: str, got: str) -> ArtefactError:
        do = "make the directory again: its files contradict each other"
        return ArtefactError("numbers of this array are out of range", where=self._path, wanted=wanted, got=got, do=do)
