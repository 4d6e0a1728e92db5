"""Stochastic rounding of float32 to bfloat16: unbiased, and the same bits whatever the threads and the order of rows.

x becomes one of its two neighbours, the upper one with the probability (x − lower) / (upper − lower), so that the mean
of many roundings is x and small updates are not lost. Source: Gupta et al. 2015, "Deep learning with limited numerical
precision".
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.embeddings.hashing import LOW, Keys, cell_bits, row_bits


def round_stochastically(rows: Tensor, ids: Tensor, keys: Keys) -> Tensor:
    """bfloat16 of (U, D) float32 rows whose numbers in the table are ``ids``. Infinity and NaN stay what they are."""
    noise = cell_bits(row_bits(ids, keys), rows.shape[1]) >> 16
    bits = rows.contiguous().view(torch.int32).long() & LOW
    rounded = ((bits + noise) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(rows.isfinite(), rounded, rows.bfloat16())
