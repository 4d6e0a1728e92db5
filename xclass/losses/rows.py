"""The passes over negatives: logits become cells in place, their sums stay. Nothing else is ever made of B × K.

Each has a compiled form for CPU tensors of float32 and bfloat16 (:mod:`xclass.losses._dispatch`), used where numba is
installed. Both give the same numbers but for the order of sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.losses import _dispatch
from xclass.losses.interface import Loss, RowSums, final_weights, mask_value, widened
from xclass.losses.logistic import softplus


def softmax_rows(logits: Tensor, count: Tensor, log_q: Tensor | None = None) -> RowSums:
    """x_bj = logits_bj − log_q_j becomes e^{x_bj − top_b}.

    Args:
        logits: (B, K), overwritten; masked ones hold ``mask_value(dtype)`` and become 0 (in a row of nothing else, 1).
        count: (B,) negatives that are not masked.
        log_q: (K,) or (B, K), float32 for half-precision logits, or None.
    """
    if logits.shape[1] == 0:
        return _no_columns(logits, count, mask_value(widened(logits).dtype))
    if _dispatch.fits(logits, log_q):
        value, total = _dispatch.softmax_rows(logits, log_q)
        return RowSums(value, total, count)
    wide = widened(logits)
    if log_q is not None:
        wide -= log_q
    top = wide.amax(1, keepdim=True)
    total = wide.sub_(top).exp_().sum(1)
    if wide is not logits:
        logits.copy_(wide)
    return RowSums(total.log() + top.squeeze(1), total, count)


def logistic_rows(logits: Tensor, count: Tensor, log_q: Tensor | None = None, shift: Tensor | None = None) -> RowSums:
    """x_bj = logits_bj − log_q_j − shift_b becomes σ(x_bj). ``shift``: (B,) or None; the rest as in softmax_rows."""
    if logits.shape[1] == 0:
        return _no_columns(logits, count, 0.0)
    if _dispatch.fits(logits, log_q):
        value, total = _dispatch.logistic_rows(logits, log_q, shift)
        return RowSums(value, total, count)
    wide = widened(logits)
    if log_q is not None:
        wide -= log_q
    if shift is not None:
        masked = logits == mask_value(logits.dtype)
        wide -= shift.unsqueeze(1)
        wide.masked_fill_(masked, mask_value(wide.dtype))
    value = softplus(wide).sum(1)
    total = wide.sigmoid_().sum(1)
    if wide is not logits:
        logits.copy_(wide)
    return RowSums(value, total, count)


def one_pass(
    loss: Loss, pos_logits: Tensor, neg_logits: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A registered loss by its one-pass form: (B,) loss, (P,) and (B, K) gradients of its sum.

    The same numbers as autograd on ``loss.function``. The blocked kernel does this block by block.
    """
    pos = widened(pos_logits)
    share, rows = final_weights(loss, offsets, weights, pos), offsets
    if loss.per_pair:
        owners = torch.repeat_interleave(torch.arange(len(neg_logits)), offsets.diff())
        neg_logits, rows = neg_logits[owners], torch.arange(len(pos) + 1)
    cells = neg_logits.clone()
    sums = pass_over(loss, cells, _unmasked(neg_logits, pos.dtype), None, pos)
    finished = loss.finish(pos, rows, share, sums)
    grads = cells.to(pos.dtype) * finished.scale.unsqueeze(1)
    if loss.per_pair:
        back = torch.zeros(len(offsets) - 1, cells.shape[1], dtype=pos.dtype).index_add_(0, owners, grads)
        return (
            torch.zeros(len(offsets) - 1, dtype=pos.dtype).index_add_(0, owners, finished.loss),
            finished.pos_grad,
            back,
        )
    return finished.loss, finished.pos_grad, grads


def pass_over(loss: Loss, logits: Tensor, count: Tensor, log_q: Tensor | None, pos_logits: Tensor) -> RowSums:
    """The pass of a loss over its negatives; ``pos_logits`` (B,) is used by a loss whose rows are pairs."""
    if loss.rows == "softmax":
        return softmax_rows(logits, count, log_q)
    return logistic_rows(logits, count, log_q, pos_logits if loss.per_pair else None)


def _unmasked(logits: Tensor, dtype: torch.dtype) -> Tensor:
    return (logits != mask_value(logits.dtype)).sum(1).to(dtype)


def _no_columns(logits: Tensor, count: Tensor, value: float) -> RowSums:
    zeros = widened(logits.new_zeros(len(logits)))
    return RowSums(zeros + value, zeros, count)
