"""The contract of a loss and the checks that all of them share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from xclass.errors import InputError


class LossFunction(Protocol):
    """The plain loss."""

    def __call__(
        self, pos_logits: Tensor, neg_logits: Tensor, offsets: Tensor, weights: Tensor | None = None, /
    ) -> Tensor:
        """(B,) loss of each query."""
        ...


class LossBlock(Protocol):
    """Loss and gradient in one pass. ``neg_logits`` is overwritten with its own gradient."""

    def __call__(
        self, pos_logits: Tensor, neg_logits: Tensor, offsets: Tensor, weights: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor]:
        """(B,) loss and (P,) ∂Σloss/∂pos_logits; ∂Σloss/∂neg_logits is left in ``neg_logits``."""
        ...


class Loss(NamedTuple):
    """One registered loss."""

    function: LossFunction
    block: LossBlock


def mask_value(dtype: torch.dtype) -> float:
    """What a masked logit holds: the lowest finite number of ``dtype``.

    Its exponential is 0 as with −inf, but a row of nothing else stays finite.
    """
    return torch.finfo(dtype).min


def check_logits(pos_logits: Tensor, neg_logits: Tensor, offsets: Tensor, weights: Tensor | None) -> None:
    """InputError unless the shapes fit: (P,), (B, K), (B+1,) int64 ending at P, weights (P,)."""
    if pos_logits.dim() != 1 or neg_logits.dim() != 2:
        raise InputError(
            "logits have the wrong shape",
            wanted="pos_logits (P,) and neg_logits (B, K)",
            got=f"{tuple(pos_logits.shape)} and {tuple(neg_logits.shape)}",
        )
    if offsets.dtype != torch.int64 or tuple(offsets.shape) != (len(neg_logits) + 1,):
        raise InputError(
            "offsets are invalid",
            wanted=f"int64 of shape ({len(neg_logits) + 1},)",
            got=f"{offsets.dtype} of shape {tuple(offsets.shape)}",
        )
    if int(offsets[-1]) != len(pos_logits):
        raise InputError("offsets do not end at the number of positives", wanted=len(pos_logits), got=int(offsets[-1]))
    if weights is not None and weights.shape != pos_logits.shape:
        raise InputError("weights have the wrong shape", wanted=tuple(pos_logits.shape), got=tuple(weights.shape))


def positive_rows(offsets: Tensor, num_positives: int) -> Tensor:
    """int64 (P,): the query of each positive."""
    return torch.repeat_interleave(
        torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff(), output_size=num_positives
    )


def normalised_weights(rows: Tensor, num_queries: int, weights: Tensor | None, like: Tensor) -> Tensor:
    """(P,) weights that sum to 1 within each query; a query whose weights are all 0 keeps 0."""
    flat = torch.ones_like(like) if weights is None else weights.to(like.dtype)
    total = torch.zeros(num_queries, dtype=like.dtype, device=like.device).index_add_(0, rows, flat)
    return flat / torch.where(total > 0, total, 1.0)[rows]
