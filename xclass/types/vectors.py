"""Item vectors as a source that is read block by block: nobody has to hold all of them as one float32 matrix.

What reads vectors (searching, indexing, writing) asks for some thousand rows at a time. A matrix in memory gives views
of itself; bfloat16 rows are widened as they are read; a table behind a projection is projected as it is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError

BLOCK_ROWS = 1 << 16


class Vectors(ABC):
    """(N, D) vectors, row number = item number. What is read is float32, on ``device``, and not to be changed.

    A source of your own gives ``__len__``, ``dim``, ``read`` and ``take``; reads may come from several threads at once.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} × {self.dim}, float32; all of them with .tensor())"

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D."""

    @property
    def device(self) -> torch.device:
        """Where what is read lies."""
        return torch.device("cpu")

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32: rows ``start … stop − 1``; a view where that is possible."""

    @abstractmethod
    def take(self, ids: Tensor) -> Tensor:
        """(len(ids), D) float32: these rows, in any order, repeats allowed."""

    def in_memory(self) -> Tensor | None:
        """The rows as they lie in memory, if they lie there as they are read but for the type: (N, D) of any floating
        type. None for rows that are computed. Compiled loops read rows here and there without a call for each."""
        return None

    @property
    def nbytes(self) -> int:
        """What is stored for them."""
        return 4 * len(self) * self.dim

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, Tensor]]:
        """(first row, block) one after the other, ``rows`` in each but the last."""
        for start in range(0, len(self), rows):
            yield start, self.read(start, min(start + rows, len(self)))

    def tensor(self) -> Tensor:
        """All of them as one (N, D) float32 matrix: 4·N·D bytes, unless they are one already."""
        whole = torch.empty(len(self), self.dim, device=self.device)
        for start, block in self.blocks():
            whole[start : start + len(block)] = block
        return whole


class TensorVectors(Vectors):
    """Vectors of a matrix in memory or memory-mapped, of any floating type, on any device. Nothing is copied."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.detach()

    def __len__(self) -> int:
        """N."""
        return self.rows.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.rows.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the matrix is."""
        return self.rows.device

    def read(self, start: int, stop: int) -> Tensor:
        """A view of float32 rows, a copy of others."""
        return self.rows[start:stop].to(torch.float32)

    def take(self, ids: Tensor) -> Tensor:
        """A copy."""
        return self.rows[ids.to(self.rows.device)].to(torch.float32)

    def in_memory(self) -> Tensor | None:
        """The matrix."""
        return self.rows

    @property
    def nbytes(self) -> int:
        """Of the matrix."""
        return self.rows.nbytes

    def tensor(self) -> Tensor:
        """The matrix itself when it is float32."""
        return self.rows if self.rows.dtype == torch.float32 else super().tensor()


class RangeOfVectors(Vectors):
    """Rows ``low … high − 1`` of another source, numbered from 0. Nothing else of it is read."""

    def __init__(self, whole: Vectors, low: int, high: int) -> None:
        self.whole, self.low, self.high = whole, low, high

    def __len__(self) -> int:
        """High − low."""
        return self.high - self.low

    @property
    def dim(self) -> int:
        """D."""
        return self.whole.dim

    @property
    def device(self) -> torch.device:
        """Of the whole."""
        return self.whole.device

    def read(self, start: int, stop: int) -> Tensor:
        """As the whole gives them."""
        return self.whole.read(self.low + start, self.low + stop)

    def take(self, ids: Tensor) -> Tensor:
        """As the whole gives them."""
        return self.whole.take(ids + self.low)

    def in_memory(self) -> Tensor | None:
        """A view, where the whole lies in memory."""
        rows = self.whole.in_memory()
        return None if rows is None else rows[self.low : self.high]

    @property
    def nbytes(self) -> int:
        """The range's share."""
        return self.whole.nbytes * len(self) // max(len(self.whole), 1)


def as_vectors(vectors: Tensor | np.ndarray | Vectors) -> Vectors:
    """A matrix as a source, copied only if its rows do not lie one after the other; a source as it is.

    Raises:
        InputError: neither, or no floating-point matrix.
    """
    if isinstance(vectors, np.ndarray):
        if vectors.dtype.kind != "f":
            raise wrong_shape(f"{vectors.dtype} of shape {vectors.shape}")
        vectors = torch.as_tensor(vectors)
    if isinstance(vectors, Tensor):
        if vectors.dim() != 2 or not vectors.is_floating_point():
            raise wrong_shape(f"{vectors.dtype} of shape {tuple(vectors.shape)}")
        return TensorVectors(vectors.contiguous())
    if not isinstance(vectors, Vectors):
        raise wrong_shape(type(vectors).__name__)
    return vectors


def wrong_shape(got: str) -> InputError:
    """The error about what can't be item vectors."""
    return InputError("item vectors are of the wrong shape", wanted="floating (N,D), N and D of 1 or more", got=got)
