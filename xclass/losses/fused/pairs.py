"""Inner products and gradients of single pairs of rows, without a copy of the rows.

Compiled by numba for float32 on the CPU; the plain forms give the same but for the order of sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.runtime.jit import compiles


def pair_scores(query: Tensor, query_rows: Tensor, items: Tensor, item_rows: Tensor) -> Tensor:
    """(P,) ⟨query[query_rows_p], items[item_rows_p]⟩."""
    if not _fits(query, items):
        return torch.linalg.vecdot(query.index_select(0, query_rows), items.index_select(0, item_rows))
    from xclass.losses.fused import _numba_pairs

    scores = torch.empty(len(query_rows))
    _numba_pairs.pair_scores(query.numpy(), query_rows.numpy(), items.numpy(), item_rows.numpy(), scores.numpy())
    return scores


def add_rows(target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor, factor: Tensor) -> None:
    """target[target_rows_i] += factor_i · source[source_rows_i], in place; rows may repeat."""
    if not _fits(target, source, factor):
        target.index_add_(0, target_rows, source.index_select(0, source_rows) * factor.unsqueeze(1))
        return
    from xclass.losses.fused import _numba_pairs

    rows = target_rows.numpy(), source_rows.numpy()
    _numba_pairs.add_rows(target.numpy(), rows[0], source.numpy(), rows[1], factor.numpy())


def _fits(*tensors: Tensor) -> bool:
    return compiles() and all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors
    )
