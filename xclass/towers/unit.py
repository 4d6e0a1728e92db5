"""Rows of unit length, in one pass forward and one back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts

SMALLEST = np.float32(1e-12)
PART_NUMBERS = 1 << 18  # less than this for each thread is not worth waking it


def unit_rows(vectors: Tensor) -> Tensor:
    """(B, D) x_b / max(|x_b|, 1e-12); a zero vector stays zero.

    With y the result, ∂/∂x_b = (g_b − y_b ⟨y_b, g_b⟩) / |x_b|. Compiled for float32 on the CPU, where autograd's own
    dozen passes cost ten times as much; elsewhere :func:`torch.nn.functional.normalize`. Cost O(B·D).
    """
    if vectors.device.type == "cpu" and vectors.dtype == torch.float32 and compiles():
        unit: Tensor = _UnitRows.apply(vectors.contiguous())
        return unit
    return functional.normalize(vectors, dim=1, eps=float(SMALLEST))


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        from xclass.towers import _numba

        unit, lengths = torch.empty_like(vectors), torch.empty(len(vectors))
        arrays = [tensor.detach().numpy() for tensor in (vectors, unit, lengths)]

        def part(low: int, high: int) -> None:
            x, y, n = (array[low:high] for array in arrays)
            _numba.unit_rows(x, SMALLEST, y, n)

        in_parts(part, len(vectors), vectors.numel() // PART_NUMBERS, vectors.device)
        ctx.save_for_backward(unit, lengths)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        from xclass.towers import _numba

        unit, lengths = ctx.saved_tensors
        gradient = torch.empty_like(unit)
        arrays = [tensor.numpy() for tensor in (unit, lengths, upstream.contiguous(), gradient)]

        def part(low: int, high: int) -> None:
            y, n, g, out = (array[low:high] for array in arrays)
            _numba.unit_rows_back(y, n, SMALLEST, g, out)

        in_parts(part, len(unit), unit.numel() // PART_NUMBERS, unit.device)
        return gradient
