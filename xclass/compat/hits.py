"""Accidental hits: sampled classes that are a true class of the row."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.compat.checks import INTEGERS, check_count, check_seed
from xclass.errors import InputError

FLT_MAX = torch.finfo(torch.float32).max


def compute_accidental_hits(
    true_classes: Tensor,
    sampled_candidates: Tensor,
    num_true: int,
    seed: int | None = None,
    name: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of the [batch, num_sampled] logits whose sampled class is a true class of that row.

    Args:
        true_classes: integers [batch_size, num_true].
        sampled_candidates: integers [num_sampled], repeats allowed.
        num_true: columns of ``true_classes``.
        seed: accepted as TensorFlow accepts it; nothing is drawn here.
        name: stands in error messages.

    Returns:
        ``indices`` int32 (H,) rows, ``ids`` int64 (H,) *positions* in ``sampled_candidates`` (not classes), ``weights``
        float32 (H,), −3.4e38 each: what to add to those logits. Ordered by row, true column, position; a class that a
        row has twice is reported twice.

    Every copy of a repeated candidate is reported; TensorFlow reports the last one only, so that the others stay in the
    loss as negatives. Cost O(batch_size · num_true + num_sampled · log num_sampled).
    """
    where = name or "compute_accidental_hits"
    check_seed(seed, where)
    check_count("num_true", num_true, where)
    for argument, ids, dims in (("true_classes", true_classes, 2), ("sampled_candidates", sampled_candidates, 1)):
        if not isinstance(ids, Tensor) or ids.dtype not in INTEGERS or ids.dim() != dims:
            wanted = f"integers [batch_size, {num_true}]" if dims == 2 else "integers [num_sampled]"
            got = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise InputError(f"{argument} is of the wrong kind", where=where, wanted=wanted, got=got)
    if true_classes.shape[1] != num_true:
        raise InputError(
            "true_classes must be a matrix of num_true columns",
            where=where,
            wanted=f"[batch_size, {num_true}]",
            got=list(true_classes.shape),
        )
    rows, columns = _every_hit(true_classes.long(), sampled_candidates.long())
    return rows.int(), columns, torch.full(rows.shape, -FLT_MAX, device=rows.device)


def _every_hit(true_BT: Tensor, sampled_S: Tensor) -> tuple[Tensor, Tensor]:
    """(row, position) of every hit of every true class, in the order of the true classes."""
    ordered, order = torch.sort(sampled_S, stable=True)
    flat = true_BT.reshape(-1)
    low = torch.searchsorted(ordered, flat)
    copies = torch.searchsorted(ordered, flat, right=True) - low
    owners = torch.repeat_interleave(torch.arange(len(flat), device=flat.device), copies)
    starts = low - (copies.cumsum(0) - copies)
    positions = order[starts[owners] + torch.arange(len(owners), device=flat.device)]
    return torch.div(owners, max(true_BT.shape[1], 1), rounding_mode="floor"), positions
