"""Tensors of a scorer's file, checked before compiled loops follow them: types, shapes, order and ranges.

All raise InputError for what can't be, and KeyError for a tensor that is missing. Cost: each is read once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.scorers.reference import Rows
from xclass.types import Ragged

Names = tuple[str, str, str]


def checked_tensor(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, length: int | None = None) -> Tensor:
    """A vector of this type and length (None: any), of finite numbers."""
    tensor = tensors[name]
    if tensor.dtype != dtype or tensor.dim() != 1 or length not in (None, len(tensor)):
        wanted = f"{dtype} ({'any' if length is None else length},)"
        raise InputError(f'the tensor "{name}" is of another type or shape', wanted=wanted, got=_shown(tensor))
    if dtype.is_floating_point and not bool(tensor.isfinite().all()):
        raise InputError(f'the tensor "{name}" is not finite')
    return tensor


def checked_lists(tensors: Mapping[str, Tensor], names: Names, size: int) -> Ragged:
    """Lists of numbers below ``size``, int32, of offsets, values and weights; there may be no weights."""
    values = checked_tensor(tensors, names[1], torch.int32)
    if len(values) and (int(values.min()) < 0 or int(values.max()) >= size):
        raise InputError(f'the tensor "{names[1]}" is out of range', wanted=f"0 … {size - 1}")
    weights = checked_tensor(tensors, names[2], torch.float32, len(values)) if names[2] in tensors else None
    return Ragged(tensors[names[0]], values, weights)


def checked_rows(tensors: Mapping[str, Tensor], names: Names, rows: int, size: int) -> Rows:
    """A sparse matrix (rows, size) of offsets, features and values."""
    lists = checked_lists(tensors, names, size)
    if lists.weights is None:
        raise KeyError(names[2])
    if len(lists) != rows:
        raise InputError(f'the tensor "{names[0]}" is of another shape', wanted=(rows + 1,), got=(len(lists) + 1,))
    return Rows(lists.offsets.numpy(), lists.values.numpy(), lists.weights.numpy(), size)


def _shown(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
