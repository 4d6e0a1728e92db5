"""Documents with labels and sparse features, a block of them at a time, as the formats of documents read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from xclass.data.options import IngestOptions
from xclass.data.pairs import stable_order

FEATURES = "features"  # the name of numbered features that come from a file; those of texts are called "text"
MOST_NUMBERS = 2**31 - 1  # of features and of labels


@dataclass(frozen=True, slots=True)
class Sparse:
    """Lists of features: lengths int64 (B,), values int64 (M,) and weights float32 (M,), list after list."""

    lengths: np.ndarray
    values: np.ndarray
    weights: np.ndarray

    def rows(self) -> np.ndarray:
        """int64 (M,), the list that each value belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def canonical(self) -> Sparse:
        """Values rising within each list, each there once: weights of a value that comes again are summed."""
        rows = self.rows()
        same = rows[1:] == rows[:-1]
        if not (same & (self.values[1:] <= self.values[:-1])).any():
            return self
        order = stable_order(rows, self.values)
        rows, values, weights = rows[order], self.values[order], self.weights[order]
        first = np.ones(len(rows), dtype=bool)
        first[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
        starts = np.flatnonzero(first)
        summed = np.add.reduceat(weights.astype(np.float64), starts).astype(np.float32)
        return Sparse(np.bincount(rows[starts], minlength=len(self.lengths)), values[starts], summed)


@dataclass(frozen=True, slots=True)
class Documents:
    """B documents in the order of the file.

    label_lengths: int64 (B,). labels: numbers, int64, where the file says how many there are; else the labels' ids as
    strings. ids: the documents' own ids, or None where a document is known by its place.
    """

    label_lengths: np.ndarray
    labels: np.ndarray | pl.Series
    features: Sparse
    ids: pl.Series | None = None

    def __len__(self) -> int:
        """Number of documents, B."""
        return len(self.label_lengths)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file says of itself before it is read: numbers of documents, features, labels; None where it does not."""

    documents: int | None = None
    features: int | None = None
    labels: int | None = None


class DocumentFormat(Protocol):
    """The seam: a file of documents."""

    def layout(self, path: Path, options: IngestOptions) -> Layout:
        """From the file's first line or its header. DataError when that is wrong."""
        ...

    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        """Block by block, in order. DataError that names the first bad line."""
        ...
