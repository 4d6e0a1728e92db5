"""PECOS's sparse matrices: ``X….npz`` (documents by features) beside ``Y….npz`` (documents by labels), CSR.

An .npz is a zip of arrays; they are read block by block, and nothing in them is unpickled.
"""

from __future__ import annotations

import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.lib import format as npy

from xclass.data.features import Sparse
from xclass.errors import DataError
from xclass.ingest.formats.document_blocks import MOST_NUMBERS, Documents, Layout
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines

VALUES_PER_BLOCK = 1 << 20
READ_ERRORS = (*lines.READ_ERRORS, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
# NumPy parses the header as Python source.
HEADER_ERRORS = (ValueError, TypeError, KeyError, SyntaxError, tokenize.TokenError, RecursionError, OverflowError)
KINDS = {"format": "SU", "shape": "iu", "indptr": "iu", "indices": "iu", "data": "biuf"}


class Npz:
    """Matrices as scipy and PECOS save them. A label counts where Y's value is not 0; X's values are the weights."""

    def layout(self, path: Path, options: IngestOptions) -> Layout:
        """The shapes of X and Y."""
        with Matrix(path) as documents, Matrix(labels_of(path)) as labels:
            if documents.shape[0] != labels.shape[0]:
                raise DataError(
                    "X and Y are of different documents",
                    where=path,
                    wanted=f"{documents.shape[0]:,} rows in {labels.path.name}",
                    got=f"{labels.shape[0]:,}",
                    do="give matrices of the same documents",
                )
            return Layout(documents.shape[0], documents.shape[1], labels.shape[1])

    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        """Rows of both matrices, some thousand at a time."""
        with Matrix(path) as documents, Matrix(labels_of(path)) as labels:
            row = 0
            while row < documents.shape[0]:
                stop = documents.stop_of_block(row)
                features, chosen = documents.rows(row, stop), labels.rows(row, stop)
                there = chosen.weights != 0
                lengths = np.bincount(chosen.rows()[there], minlength=stop - row)
                yield Documents(lengths, chosen.values[there], features.canonical())
                row = stop


def labels_of(path: Path) -> Path:
    """The path of Y that belongs to X: Y.trn.npz beside X.trn.npz."""
    found = path.with_name("Y" + path.name[1:])
    if not path.name.startswith("X") or not found.exists():
        raise DataError(
            "the labels' matrix is missing",
            where=path,
            wanted="X….npz, and Y….npz of the same name beside it",
            do="name the files X.trn.npz, Y.trn.npz, X.tst.npz, Y.tst.npz",
        )
    return found


class Matrix:
    """A sparse CSR matrix in an .npz file, read from its first row to its last.

    Raises:
        DataError: not such a file, not CSR, offsets that fall, a column out of range, a value that is not finite.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines.check_regular(path)
        try:
            self._file = zipfile.ZipFile(path)
            kind = bytes(self._whole("format")).decode("utf-8", "replace") if "format.npy" in self._names() else "?"
            if kind.replace("\0", "") != "csr":
                raise DataError(
                    "this matrix is not in compressed sparse rows",
                    where=path,
                    wanted="scipy.sparse.save_npz of a csr_matrix",
                    got=kind,
                )
            self.shape: tuple[int, int] = self._checked_shape()
            self._offsets = self._checked_offsets()
            self._columns, self._values = self._stream("indices"), self._stream("data")
        except READ_ERRORS as error:
            raise self._unreadable(error) from None

    def __enter__(self) -> Matrix:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def stop_of_block(self, row: int) -> int:
        """Where a block of about a million values that starts at this row ends."""
        stop = int(np.searchsorted(self._offsets, self._offsets[row] + VALUES_PER_BLOCK, side="right")) - 1
        return min(max(stop, row + 1), self.shape[0])

    def rows(self, row: int, stop: int) -> Sparse:
        """The rows ``row … stop − 1``; they must be asked for in order."""
        count = int(self._offsets[stop] - self._offsets[row])
        try:
            columns = self._columns.take(count).astype(np.int64)
            values = self._values.take(count).astype(np.float32)
        except READ_ERRORS as error:
            raise self._unreadable(error) from None
        lengths = np.diff(self._offsets[row : stop + 1])
        bad = (columns < 0) | (columns >= self.shape[1]) | ~np.isfinite(values)
        if bad.any():
            place = int(bad.argmax())
            where = row + int(np.repeat(np.arange(stop - row), lengths)[place])
            raise DataError(
                "a column or a value of this matrix can't be",
                where=f"{self.path}, row {where:,}",
                wanted=f"columns 0 to {self.shape[1] - 1:,} and finite values",
                got=f"column {columns[place]}, value {values[place]}",
            )
        return Sparse(lengths, columns, values)

    def _names(self) -> set[str]:
        return set(self._file.namelist())

    def _stream(self, name: str) -> _Stream:
        return _Stream(self._file.open(f"{name}.npy"), KINDS[name])

    def _whole(self, name: str) -> np.ndarray:
        stream = self._stream(name)
        return stream.take(stream.length)

    def _checked_shape(self) -> tuple[int, int]:
        shape = self._whole("shape").astype(np.int64)
        if len(shape) != 2 or shape[0] < 1 or not 0 <= shape[1] <= MOST_NUMBERS:
            raise DataError(
                "the shape of this matrix can't be right",
                where=self.path,
                wanted=f"at least one row, at most {MOST_NUMBERS:,} columns",
                got=shape.tolist(),
            )
        return int(shape[0]), int(shape[1])

    def _checked_offsets(self) -> np.ndarray:
        stream = self._stream("indptr")
        offsets = stream.take(stream.length).astype(np.int64) if stream.length == self.shape[0] + 1 else np.zeros(0)
        lengths = [self._stream(name).length for name in ("indices", "data")]
        whole = len(offsets) and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
        if not whole or [int(offsets[-1])] * 2 != lengths:
            raise DataError(
                "the rows of this matrix do not fit its values",
                where=self.path,
                wanted=f"{self.shape[0] + 1:,} rising offsets from 0 to the number of values",
                got=f"{stream.length:,} offsets, {lengths[0]:,} columns, {lengths[1]:,} values",
            )
        return offsets

    def _unreadable(self, error: Exception) -> DataError:
        do = "save it with scipy.sparse.save_npz"
        return DataError("this file is not a whole sparse matrix", where=self.path, got=str(error)[:200], do=do)


class _Stream:
    """One array of an .npz file, from its start to its end. A scalar is an array of one."""

    def __init__(self, file: IO[bytes], kinds: str) -> None:
        shape, fortran, self._dtype = _header(file)
        if len(shape) > 1 or fortran or self._dtype.kind not in kinds or min(shape, default=1) < 0:
            raise ValueError(f"an array of shape {shape} and type {self._dtype} where a list of numbers is wanted")
        self.length = int(shape[0]) if shape else 1
        self._file = file

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` values."""
        raw = self._file.read(count * self._dtype.itemsize)
        if len(raw) != count * self._dtype.itemsize:
            raise EOFError("an array ends early")
        return np.frombuffer(raw, dtype=self._dtype)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type that an array begins with; ValueError when they can't be read."""
    try:
        version = npy.read_magic(file)
        return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except HEADER_ERRORS as error:
        raise ValueError(f"the header of an array can't be read: {error}") from None
