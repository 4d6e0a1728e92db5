"""Stochastic rounding of float32 to bfloat16: unbiased, from a hash of where and when, never from a generator's past.

x becomes one of its two neighbours, the upper one with the probability (x − lower) / (upper − lower), so that the mean
of many roundings is x and small updates are not lost. The 16 random bits depend on (keys, row, dimension) only: neither
on threads nor on the order of rows. Source: Gupta et al. 2015, "Deep learning with limited numerical precision".
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.rng import derive_seed

LOW = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
Keys = tuple[int, int]


def rounding_keys(seed: int, purpose: str, step: int) -> Keys:
    """Two 32-bit numbers for all roundings of one step."""
    both = derive_seed(seed, f"round.{purpose}", step)
    return both & LOW, both >> 32


def round_stochastically(rows: Tensor, ids: Tensor, keys: Keys) -> Tensor:
    """bfloat16 of (U, D) float32 rows whose numbers in the table are ``ids``. Infinity and NaN stay what they are."""
    dims = torch.arange(rows.shape[1], device=rows.device)
    of_row = mixed(mixed((ids & LOW) ^ keys[0]) ^ (((ids >> 32) + keys[1]) & LOW))
    noise = mixed((of_row.unsqueeze(1) + dims * GOLDEN) & LOW) >> 16
    bits = rows.contiguous().view(torch.int32).long() & LOW
    rounded = ((bits + noise) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(rows.isfinite(), rounded, rows.bfloat16())


def mixed(x: Tensor) -> Tensor:
    """32 well-mixed bits of the low 32 bits of int64 (Wellons' "lowbias32"); every bit of x moves half of them."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)
