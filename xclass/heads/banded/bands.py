"""Bands of the catalogue by train frequency: ranges of item numbers, since items are numbered by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xclass.errors import ConfigError
from xclass.types import Ragged


def band_edges(num_items: int, cuts: Sequence[float]) -> list[int]:
    """The first item of each band, and N: cut c begins at item ⌊c · N⌋, every band has an item at least.

    Raises:
        ConfigError: fewer items than bands.

    >>> band_edges(1000, (0.05, 0.5))
    [0, 50, 500, 1000]
    """
    edges = [0]
    if num_items <= len(cuts):
        raise ConfigError("there are fewer items than bands", where="head.cuts", wanted=len(cuts) + 1, got=num_items)
    for number, cut in enumerate(cuts):
        last = num_items - len(cuts) + number  # leaves an item for each of the bands to come
        edges.append(min(max(int(cut * num_items), edges[-1] + 1), last))
    return [*edges, num_items]


def within(lists: Ragged | None, low: int, high: int) -> Ragged | None:
    """Items low … high−1 of each list, counted from low."""
    if lists is None:
        return None
    kept = lists.filter((lists.values >= low) & (lists.values < high))
    return Ragged(kept.offsets, kept.values.long() - low)


def allowed_within(allowed: Tensor | None, low: int, high: int) -> Tensor | None:
    """The same of numbers that rise."""
    if allowed is None:
        return None
    first, last = torch.searchsorted(allowed, torch.tensor([low, high])).tolist()
    return allowed[first:last] - low
