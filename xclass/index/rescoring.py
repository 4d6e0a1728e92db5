"""Inner products of what a compressed or hashed search found, with the vectors themselves: the best of them, in order.

So nobody keeps a second copy of the vectors for refinement: an index holds codes, and what is exact is read from the
source that it was built from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from xclass.compiling import compiles
from xclass.index.running import best_first
from xclass.vectors import Vectors
from xclass.workers import in_parts

PRODUCTS_PER_THREAD = 1 << 13
PLAIN_CELLS = 1 << 22
CPU = torch.device("cpu")


def matrix_of(vectors: Vectors) -> np.ndarray[Any, Any] | None:
    """The matrix behind a source as compiled loops read it (bfloat16 as its bits); None when they can't."""
    rows = vectors.in_memory() if compiles() else None
    if rows is None or rows.device.type != "cpu" or not rows.is_contiguous():
        return None
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.uint16).numpy()
    return rows.numpy() if rows.dtype == torch.float32 else None


@torch.no_grad()
def best_of(
    vectors: Vectors, query_BD: Tensor, ids_BF: Tensor, keep: int, threads: int | None = None
) -> tuple[Tensor, Tensor]:
    """The ``keep`` items of each row of ``ids_BF`` with the largest inner products.

    Args:
        vectors: (N,D). query_BD: float32, contiguous, on the CPU.
        ids_BF: int64 item numbers, none twice in a row, below 0 for none.
        keep: at least 1.
        threads: at most so many; all unless given.

    Returns:
        int64 (B,keep) and float32 (B,keep): best first, equal scores by item number; −1 and −∞ behind the last.
        Cost: B·F rows read, 2·B·F·D operations.
    """
    matrix = matrix_of(vectors)
    if matrix is None:
        return _plain(vectors, query_BD, ids_BF, keep)
    return _compiled(matrix, query_BD, ids_BF, keep, threads)


def _compiled(
    matrix: np.ndarray[Any, Any], query_BD: Tensor, ids_BF: Tensor, keep: int, threads: int | None
) -> tuple[Tensor, Tensor]:
    from xclass.index import kernels

    items, scores = torch.empty(len(ids_BF), keep, dtype=torch.int64), torch.empty(len(ids_BF), keep)
    given = query_BD.numpy(), ids_BF.contiguous().numpy(), matrix
    out = items.numpy(), scores.numpy()

    def part(low: int, high: int) -> None:
        kernels.rescore(*given, low, high, *out)

    in_parts(part, len(ids_BF), ids_BF.numel() // PRODUCTS_PER_THREAD, CPU, threads)
    return items, scores


def _plain(vectors: Vectors, query_BD: Tensor, ids_BF: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    parts = []
    for rows in torch.arange(len(ids_BF)).split(max(1, PLAIN_CELLS // max(ids_BF.shape[1] * vectors.dim, 1))):
        ids = ids_BF[rows]
        taken = vectors.take(ids.clamp(min=0).flatten()).cpu().view(*ids.shape, -1)
        scores = torch.einsum("bd,bfd->bf", query_BD[rows], taken).masked_fill_(ids < 0, -torch.inf)
        ids, scores = best_first(ids.masked_fill(ids < 0, len(vectors)), scores)
        parts.append((ids[:, :keep], scores[:, :keep]))
    if not parts:
        return torch.empty(0, keep, dtype=torch.int64), torch.empty(0, keep)
    ids, scores = (torch.cat(columns) for columns in zip(*parts, strict=True))
    missing = (0, keep - ids.shape[1])
    ids = torch.nn.functional.pad(torch.where(ids < len(vectors), ids, -1), missing, value=-1)
    return ids, torch.nn.functional.pad(scores, missing, value=-torch.inf)
