"""The softmax over the whole catalogue, exactly, in blocks of items."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.heads.log_sum import PART_CELLS, row_log_sums
from xclass.vectors import Vectors
from xclass.workers import in_parts, scratch

BLOCK_SCORES = 1 << 20


@torch.no_grad()
def log_normaliser(query_BD: Tensor, vectors: Vectors, inverse_temperature: float = 1.0) -> Tensor:
    """(B,) log Σ_i e^{⟨q_b, v_i⟩ / τ} over all items, float64 sums of float32 scores.

    Cost 2·B·N·D operations; memory: a block of 1 Mi scores.
    """
    query_BD = query_BD.to(vectors.device).float() * inverse_temperature
    total = torch.full((len(query_BD),), -torch.inf, dtype=torch.float64, device=vectors.device)
    for start in range(0, len(vectors), step := max(BLOCK_SCORES // max(len(query_BD), 1), 1)):
        block = vectors.read(start, min(start + step, len(vectors)))
        cells = scratch(len(query_BD) * len(block), query_BD).view(len(query_BD), len(block))
        scores = torch.mm(query_BD, block.T, out=cells)
        total = torch.logaddexp(total, _log_sums(scores))
    return total


def _log_sums(scores: Tensor) -> Tensor:
    """(B,) float64, rows on several threads."""

    def part(low: int, high: int) -> Tensor:
        return row_log_sums(scores[low:high])

    return torch.cat(in_parts(part, len(scores), scores.numel() // PART_CELLS, scores.device))


@torch.no_grad()
def scores_of_pairs(query_BD: Tensor, vectors: Vectors, rows: Tensor, items: Tensor) -> Tensor:
    """float32 (M,) ⟨q_row, v_item⟩ of each pair. Cost O(M·D), 64 Ki pairs at a time."""
    found = torch.empty(len(items), device=vectors.device)
    for some in torch.arange(len(items)).split(1 << 16):
        queries = query_BD[rows[some]].to(vectors.device).float()
        found[some] = torch.linalg.vecdot(queries, vectors.take(items[some]))
    return found
