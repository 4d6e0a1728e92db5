"""Documents with labels and sparse features, a block of them at a time, as the formats of documents read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from xclass.data.features import Sparse
from xclass.ingest.options import IngestOptions

FEATURES = "features"  # the name of numbered features that come from a file
MOST_NUMBERS = 2**28  # features and labels that a file may number: a vocabulary or a table of items has a row for each


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

    def bound(self, what: str) -> int:
        """Numbers of "features" or "labels" must lie below it."""
        number: int | None = getattr(self, what)
        return MOST_NUMBERS if number is None else number


class DocumentFormat(Protocol):
    """The seam: a file of documents."""

    def layout(self, path: Path, options: IngestOptions) -> Layout:
        """From the file's first line or its header. DataError when that is wrong."""
        ...

    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        """Block by block, in order. DataError that names the first bad line."""
        ...
