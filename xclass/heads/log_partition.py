"""The softmax over the whole catalogue, exactly, in blocks of items."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.heads.log_sum_exp import log_sum
from xclass.types.vectors import Vectors

READ_ROWS = 1 << 14


@torch.no_grad()
def log_normaliser(query_BD: Tensor, vectors: Vectors, inverse_temperature: float = 1.0) -> Tensor:
    """(B,) log Σ_i e^{⟨q_b, v_i⟩ / τ} over all items, float64 sums of float32 scores.

    Cost 2·B·N·D operations and B·N exponentials; memory: 16 Ki vectors, and 256 Ki scores for each thread.
    """
    query_BD = query_BD.to(vectors.device).float() * inverse_temperature
    total = torch.full((len(query_BD),), -torch.inf, dtype=torch.float64, device=vectors.device)
    for _, block in vectors.blocks(READ_ROWS):
        total = torch.logaddexp(total, log_sum(query_BD, block).double())
    return total


@torch.no_grad()
def scores_of_pairs(query_BD: Tensor, vectors: Vectors, rows: Tensor, items: Tensor) -> Tensor:
    """float32 (M,) ⟨q_row, v_item⟩ of each pair. Cost O(M·D), 64 Ki pairs at a time."""
    found = torch.empty(len(items), device=vectors.device)
    for some in torch.arange(len(items)).split(1 << 16):
        queries = query_BD[rows[some]].to(vectors.device).float()
        found[some] = torch.linalg.vecdot(queries, vectors.take(items[some]))
    return found
