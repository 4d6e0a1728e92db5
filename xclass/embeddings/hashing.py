"""Random bits from a hash of where and when, never from a generator's past: the same whatever computes them.

Keys come from (seed, purpose, step); a row's bits depend on them and its number, a cell's on its place in the row too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.runtime.rng import derive_seed

LOW = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
Keys = tuple[int, int]


def keys_of(seed: int, purpose: str, step: int) -> Keys:
    """Two 32-bit numbers for everything that is drawn for one purpose in one step."""
    both = derive_seed(seed, purpose, step)
    return both & LOW, both >> 32


def row_bits(ids: Tensor, keys: Keys) -> Tensor:
    """32 bits of each row, int64 (U,); all 64 bits of a row's number matter."""
    return mixed(mixed((ids & LOW) ^ keys[0]) ^ (((ids >> 32) + keys[1]) & LOW))


def cell_bits(of_rows: Tensor, count: int) -> Tensor:
    """32 bits for each of ``count`` places in each row, int64 (U, count), from the rows' bits."""
    places = torch.arange(count, device=of_rows.device)
    return mixed((of_rows.unsqueeze(1) + places * GOLDEN) & LOW)


def mixed(x: Tensor) -> Tensor:
    """32 well-mixed bits of the low 32 bits of int64 (Wellons' "lowbias32"); every bit of x moves half of them."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)
