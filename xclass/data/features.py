"""Lists of weighted features as NumPy arrays, on their way to the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from xclass.types import Ragged, offsets_of


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
        largest = np.finfo(np.float32).max
        summed = np.add.reduceat(weights.astype(np.float64), starts).clip(-largest, largest).astype(np.float32)
        return Sparse(np.bincount(rows[starts], minlength=len(self.lengths)), values[starts], summed)


def joined(blocks: Iterable[Sparse]) -> Sparse:
    """The lists of all blocks, one after the other."""
    empty = Sparse(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    parts = [empty, *blocks]
    if len(parts) == 2:
        return parts[1]
    lengths, values, weights = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("lengths", "values", "weights")
    )
    return Sparse(lengths, values, weights)


def ragged_of(blocks: Iterable[Sparse]) -> Ragged:
    """The lists of all blocks, one after the other, as tensors."""
    found = joined(blocks)
    lengths, values, weights = (torch.from_numpy(part) for part in (found.lengths, found.values, found.weights))
    return Ragged(offsets_of(lengths), values, weights)


def stable_order(major: np.ndarray, minor: np.ndarray) -> np.ndarray:
    """Positions that sort by ``major``, then ``minor``, then place: ``np.lexsort((minor, major))``, faster.

    Integers whose ranges fit are packed with their position into one int64 each, and sorted as such.
    """
    if len(major) == 0 or minor.dtype.kind != "i":
        return np.lexsort((minor, major))
    low_major, low_minor = int(major.min()), int(minor.min())
    span = int(minor.max()) - low_minor + 1
    place_bits = (len(major) - 1).bit_length()
    if ((int(major.max()) - low_major + 1) * span) >> (62 - place_bits):
        return np.lexsort((minor, major))
    packed = (major.astype(np.int64) - low_major) * span
    packed += minor
    packed -= low_minor
    packed <<= place_bits
    packed |= np.arange(len(major))
    packed.sort()
    packed &= (1 << place_bits) - 1
    return packed
