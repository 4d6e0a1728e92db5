"""The best of what a search proposed: scored with the vectors themselves, without what a query must not get, in order.

So nobody keeps a second copy of the vectors for refinement: an index holds codes, and what is exact is read from the
source that it was built from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.index.filtering import Hidden
from xclass.index.topk_lists import best_first
from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts
from xclass.types import Ragged
from xclass.types.vectors import Vectors

PRODUCTS_PER_THREAD = 1 << 13
COPIES_PER_THREAD = 1 << 17
PLAIN_CELLS = 1 << 22
CPU = torch.device("cpu")


class Found(NamedTuple):
    """The best of each query's proposals.

    ids: int64 (B,k), best first, equal scores by item number, −1 behind the last. scores: float32 (B,k), −∞ there.
    lengths: int64 (B,), how many. hits: int64 (B,), proposals that were passed over because they are hidden.
    """

    ids: Tensor
    scores: Tensor
    lengths: Tensor
    hits: Tensor

    @classmethod
    def concat(cls, parts: list[Found]) -> Found:
        """The queries of one after those of the other."""
        return parts[0] if len(parts) == 1 else cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


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
    vectors: Vectors,
    query_BD: Tensor,
    ids_BF: Tensor,
    keep: int,
    hidden: Ragged | None = None,
    threads: int | None = None,
) -> Found:
    """The ``keep`` items of each row of ``ids_BF`` with the largest inner products.

    Args:
        vectors: (N,D). query_BD: float32, contiguous, on the CPU.
        ids_BF: int64 item numbers, none twice in a row, below 0 for none.
        keep: at least 1.
        hidden: (B) int64, items to pass over, repeats allowed.
        threads: at most so many; all unless given.

    Cost: B·F rows read, 2·B·F·D operations.
    """
    matrix = matrix_of(vectors)
    if matrix is None:
        return _plain(vectors, query_BD, ids_BF, keep, hidden)
    from xclass.index import _numba

    made, out = _empty(len(ids_BF), keep)
    given = query_BD.numpy(), ids_BF.contiguous().numpy(), matrix, *_bounds(hidden, len(ids_BF))

    def part(low: int, high: int) -> None:
        _numba.rescore(*given, low, high, *out)

    in_parts(part, len(ids_BF), ids_BF.numel() // PRODUCTS_PER_THREAD, CPU, threads)
    return made


@torch.no_grad()
def best_scored(ids_BF: Tensor, scores_BF: Tensor, keep: int, hidden: Ragged | None = None) -> Found:
    """The ``keep`` first of proposals that have their scores, as :func:`best_of` gives them.

    Args:
        ids_BF, scores_BF: int64 and float32, best first (equal scores in any order), ids below 0 for none.
    """
    if not compiles():
        return _kept(ids_BF, scores_BF, keep, hidden)
    from xclass.index import _numba

    made, out = _empty(len(ids_BF), keep)
    given = ids_BF.contiguous().numpy(), scores_BF.contiguous().numpy(), *_bounds(hidden, len(ids_BF))

    def part(low: int, high: int) -> None:
        _numba.keep_best(*given, low, high, *out)

    in_parts(part, len(ids_BF), ids_BF.numel() // COPIES_PER_THREAD, CPU)
    return made


def _empty(rows: int, keep: int) -> tuple[Found, tuple[np.ndarray[Any, Any], ...]]:
    """Room for a result, and its memory as compiled loops write it."""
    made = Found(
        torch.empty(rows, keep, dtype=torch.int64),
        torch.empty(rows, keep),
        torch.empty(rows, dtype=torch.int64),
        torch.empty(rows, dtype=torch.int64),
    )
    return made, tuple(column.numpy() for column in made)


def _bounds(hidden: Ragged | None, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if hidden is None:
        return np.zeros(rows + 1, np.int64), np.zeros(0, np.int64)
    return hidden.offsets.numpy(), hidden.values.contiguous().numpy()


def _plain(vectors: Vectors, query_BD: Tensor, ids_BF: Tensor, keep: int, hidden: Ragged | None) -> Found:
    parts = []
    step = max(1, PLAIN_CELLS // max(ids_BF.shape[1] * vectors.dim, 1))
    for start in range(0, len(ids_BF), step):
        ids = ids_BF[start : start + step]
        taken = vectors.take(ids.clamp(min=0).flatten()).cpu().view(*ids.shape, -1)
        scores = torch.einsum("bd,bfd->bf", query_BD[start : start + step], taken)
        gone = None if hidden is None else hidden.slice(start, start + len(ids))
        parts.append(_kept(ids, scores, keep, gone))
    return Found.concat(parts) if parts else _empty(0, keep)[0]


def _kept(ids: Tensor, scores: Tensor, keep: int, hidden: Ragged | None) -> Found:
    """The same without a compiler."""
    most = 1 + max([int(each.max()) for each in (ids, *(() if hidden is None else (hidden.values,))) if each.numel()])
    gone = Hidden(hidden, len(ids), max(most, 1)).contains(torch.arange(len(ids)), ids)
    bad = gone | (ids < 0)
    ids, scores = best_first(ids.masked_fill(bad, most), scores.masked_fill(bad, -torch.inf))
    missing = (0, max(keep - ids.shape[1], 0))
    ids = torch.nn.functional.pad(ids, missing, value=most)[:, :keep]
    scores = torch.nn.functional.pad(scores, missing, value=-torch.inf)[:, :keep]
    return Found(torch.where(ids < most, ids, -1), scores, (ids < most).sum(1), gone.sum(1))
