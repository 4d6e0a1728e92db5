"""Sparse features on their way to a dataset directory: written as they are read, counted and named at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl

from xclass.data.features import Sparse
from xclass.data.npy_stream import ArrayWriter
from xclass.data.vectorizer import Vectoriser

VALUES_PER_BLOCK = 1 << 22


class FeatureSpool:
    """Lists of features, appended to two files below ``folder``; only the lists' lengths are kept in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lengths: list[np.ndarray] = []
        self._values = ArrayWriter(folder / "values.npy", np.int32)
        self._weights = ArrayWriter(folder / "weights.npy", np.float32)
        self._length, self._closed = 0, False

    def __enter__(self) -> FeatureSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish both files. Nothing happens when that was done."""
        if not self._closed:
            self._closed = True
            self._values.__exit__(None, None, None)
            self._weights.__exit__(None, None, None)

    def __len__(self) -> int:
        """Number of lists."""
        return self._length

    @property
    def num_values(self) -> int:
        """Values of all lists."""
        return self._values.length

    def append(self, block: Sparse) -> None:
        """Write the lists of one block."""
        self._lengths.append(block.lengths)
        self._values.append(block.values)
        self._weights.append(block.weights)
        self._length += len(block.lengths)

    def offsets(self) -> np.ndarray:
        """int64 (lists + 1,)."""
        offsets = np.zeros(self._length + 1, dtype=np.int64)
        np.cumsum(np.concatenate([np.zeros(0, dtype=np.int64), *self._lengths]), out=offsets[1:])
        return offsets


def write_features(
    folder: Path,
    spool: FeatureSpool,
    size: int | None,
    counted: np.ndarray,
    names: pl.Series | None = None,
    order: np.ndarray | None = None,
    vectoriser: Vectoriser | None = None,
) -> dict[str, Any]:
    """Move a closed spool to ``folder`` and write its offsets and vocabulary; returns what the manifest says of it.

    Args:
        size: how many features there can be; None: one more than the largest.
        counted: bool (lists,), the lists whose features are counted in the vocabulary: the train documents.
        names: of the features; their numbers without.
        order: lists in the order in which they are to stand; None: as they are.
        vectoriser: what made the features of texts; it is stored with them, and names and counts them.
    """
    folder.mkdir(parents=True)
    offsets = spool.offsets()
    if vectoriser is None:
        values = np.load(spool.folder / "values.npy", mmap_mode="r", allow_pickle=False)
        size = int(values.max(initial=-1)) + 1 if size is None else size
        counts = count_features(values, offsets, counted, size)
        named = pl.Series("feature", np.arange(size)) if names is None else names.alias("feature")
        vocabulary = pl.DataFrame({"feature": named, "count": counts})
    else:
        vocabulary, size = vectoriser.vocabulary(), vectoriser.size
        vectoriser.save(folder)
    vocabulary.write_parquet(folder / "vocabulary.parquet")
    if order is None:
        for name in ("values.npy", "weights.npy"):
            os.replace(spool.folder / name, folder / name)
    else:
        offsets = _reordered(spool.folder, folder, offsets, order)
    np.save(folder / "offsets.npy", offsets)
    return {"size": size, "values": spool.num_values}


def _reordered(source: Path, target: Path, offsets: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Write the lists in another order, block by block; returns their offsets."""
    lengths = np.diff(offsets)[order]
    after = np.zeros_like(offsets)
    np.cumsum(lengths, out=after[1:])
    for name, kind in (("values.npy", np.int32), ("weights.npy", np.float32)):
        array = np.load(source / name, mmap_mode="r", allow_pickle=False)
        with ArrayWriter(target / name, kind) as writer:
            for start, stop in blocks_of_lists(after):
                places = np.arange(after[stop] - after[start])
                places += np.repeat(
                    offsets[order[start:stop]] - (after[start:stop] - after[start]), lengths[start:stop]
                )
                writer.append(array[places])
    return after


def blocks_of_lists(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of lists with some million values together, at least one list each."""
    row, rows = 0, len(offsets) - 1
    while row < rows:
        stop = int(np.searchsorted(offsets, offsets[row] + VALUES_PER_BLOCK, side="right")) - 1
        stop = min(max(stop, row + 1), rows)
        yield row, stop
        row = stop


def count_features(values: np.ndarray, offsets: np.ndarray, counted: np.ndarray, size: int) -> np.ndarray:
    """int64 (size,): in how many of the lists ``counted`` each value is; block by block."""
    counts = np.zeros(size, dtype=np.int64)
    for row, stop in blocks_of_lists(offsets):
        chosen = np.repeat(counted[row:stop], np.diff(offsets[row : stop + 1]))
        np.add.at(counts, values[offsets[row] : offsets[stop]][chosen], 1)
    return counts
