"""Weighted sums of rows, list by list, with their gradient: in compiled loops, or torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts

PART_NUMBERS = 1 << 18  # less than this for each thread is not worth waking it
LEAST_DIMS = 16  # a line of the cache


def weighted_bags(rows: Tensor, positions: Tensor, offsets: Tensor, shares: Tensor) -> Tensor:
    """(B, D): bag_b = Σ_j a_j x_j over list b, differentiable in the rows.

    Args:
        rows: (U, D).
        positions: int64 (M,), where each value of the lists stands among the rows.
        offsets: int64 (B+1,), which values are a list's.
        shares: (M,), a_j; they have no gradient.

    Cost O(M·D). Sums are made in the order of the values, whatever the threads.
    """
    if rows.device.type == "cpu" and rows.dtype == shares.dtype == torch.float32 and compiles():
        compiled: Tensor = _Bags.apply(rows, positions, offsets, shares)
        return compiled
    return functional.embedding_bag(positions, rows, offsets[:-1], mode="sum", per_sample_weights=shares)


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, positions: Tensor, offsets: Tensor, shares: Tensor) -> Tensor:
        from xclass.towers import _numba

        rows, lists = rows.contiguous(), (positions.contiguous(), offsets.contiguous(), shares.contiguous())
        found, given = rows.new_empty(len(offsets) - 1, rows.shape[1]), [each.detach().numpy() for each in lists]

        numbers = rows.detach().numpy(), *given, found.numpy()

        def add_up(low: int, high: int) -> None:
            _numba.add_up(low, high, *numbers)

        in_parts(add_up, len(found), len(positions) * rows.shape[1] // PART_NUMBERS, rows.device)
        ctx.given, ctx.shape = given, rows.shape
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from xclass.towers import _numba

        gradient, dim = upstream.new_zeros(ctx.shape), ctx.shape[1]
        numbers = upstream.contiguous().numpy(), *ctx.given, gradient.numpy()

        def hand_back(low: int, high: int) -> None:
            _numba.hand_back(low, high, *numbers)

        worthwhile = min(len(ctx.given[0]) * dim // PART_NUMBERS, dim // LEAST_DIMS)
        in_parts(hand_back, dim, worthwhile, upstream.device)
        return gradient, None, None, None
