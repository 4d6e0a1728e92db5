"""The contract of a loss and the checks that all of them share."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from xclass.errors import InputError

Positives = Literal["separate", "joint"]


class LossFunction(Protocol):
    """The plain loss."""

    def __call__(
        self, pos_logits: Tensor, neg_logits: Tensor, offsets: Tensor, weights: Tensor | None = None, /
    ) -> Tensor:
        """(B,) loss of each query."""
        ...


class RowSums(NamedTuple):
    """What a pass over the negatives of each query leaves, beside one cell for every logit x_bj.

    softmax pass: cells e^{x_bj − top_b}, value log Σ_j e^{x_bj}; logistic: σ(x_bj), Σ_j softplus(x_bj).

    value: (B,).
    total: (B,) sum of the cells.
    unmasked: (B,) negatives that are not masked, of the type of value.
    """

    value: Tensor
    total: Tensor
    unmasked: Tensor


class Finished(NamedTuple):
    """The loss and its gradient: ∂Σloss/∂x_bj = scale_b · cell_bj.

    loss: (B,).
    pos_grad: (P,) ∂Σloss/∂pos_logits.
    scale: (B,).
    """

    loss: Tensor
    pos_grad: Tensor
    scale: Tensor


class Finish(Protocol):
    """From the sums of a pass and the positives to the loss: O(P), no negative is looked at again."""

    def __call__(self, pos_logits: Tensor, offsets: Tensor, share: Tensor, sums: RowSums, /) -> Finished:
        """Loss and gradient; ``share`` (P,) holds the final weight of each positive."""
        ...


class Loss(NamedTuple):
    """One registered loss: the plain function, and the two halves of its one-pass form.

    function: for autograd.
    rows: the pass over the negatives.
    finish: what comes after it.
    normalise: the weights of a query's positives are divided by their sum.
    per_pair: every positive is a row of its own, and its logit is subtracted from the row's negatives.
    full: the positives are among the negatives' logits.
    all_items: the negatives are every item but the positives (or every item, when ``full``).
    mean_weights: weights of items multiply what sums to 1 within a query; when false, 1 for each positive.
    positive_log_q: log-Q, where it is subtracted, is subtracted from positives, too.
    subtract_log_q, remove_accidental_hits: what the logits should be made with, unless a configuration says otherwise.
    """

    function: LossFunction
    rows: Literal["softmax", "logistic"]
    finish: Finish
    normalise: bool = True
    per_pair: bool = False
    full: bool = False
    all_items: bool = False
    subtract_log_q: bool = True
    remove_accidental_hits: bool = True
    positive_log_q: bool = True
    mean_weights: bool = True


def mask_value(dtype: torch.dtype) -> float:
    """What a masked logit holds: the lowest finite number of ``dtype``.

    Its exponential is 0 as with −inf, but a row of nothing else stays finite.
    """
    return torch.finfo(dtype).min


def widened(logits: Tensor) -> Tensor:
    """At least float32: sums over thousands of half-precision numbers do not fit their type. Masks stay masks."""
    if logits.dtype not in (torch.float16, torch.bfloat16):
        return logits
    wide = logits.float()
    return wide.masked_fill_(logits == mask_value(logits.dtype), mask_value(torch.float32))


def check_logits(pos_logits: Tensor, neg_logits: Tensor, offsets: Tensor, weights: Tensor | None) -> None:
    """InputError unless the arguments fit: (P,), (B, K), rising (B+1,) int64 from 0 to P, weights (P,) ≥ 0."""
    if pos_logits.dim() != 1 or neg_logits.dim() != 2 or not pos_logits.is_floating_point():
        raise InputError(
            "logits have the wrong shape",
            wanted="floating pos_logits (P,) and neg_logits (B, K)",
            got=f"{tuple(pos_logits.shape)} {pos_logits.dtype} and {tuple(neg_logits.shape)}",
        )
    if pos_logits.dtype != neg_logits.dtype:
        raise InputError(
            "pos_logits and neg_logits differ in type", wanted=f"{neg_logits.dtype}", got=f"{pos_logits.dtype}"
        )
    if offsets.dtype != torch.int64 or tuple(offsets.shape) != (len(neg_logits) + 1,):
        raise InputError(
            "offsets are invalid",
            wanted=f"int64 of shape ({len(neg_logits) + 1},)",
            got=f"{offsets.dtype} of shape {tuple(offsets.shape)}",
        )
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(pos_logits) or bool((offsets.diff() < 0).any()):
        raise InputError(
            "offsets do not cut the positives",
            wanted=f"rising, from 0 to {len(pos_logits)}",
            got=f"from {int(offsets[0])} to {int(offsets[-1])}, smallest step {int(offsets.diff().min())}",
        )
    check_weights(weights, pos_logits)


def check_weights(weights: Tensor | None, pos_logits: Tensor) -> None:
    """InputError unless the weights are (P,), finite and ≥ 0."""
    if weights is None:
        return
    if weights.shape != pos_logits.shape:
        raise InputError("weights have the wrong shape", wanted=tuple(pos_logits.shape), got=tuple(weights.shape))
    bad = ~(weights >= 0) | torch.isinf(weights)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise InputError(f"the weight of positive {first} is invalid", wanted="finite and ≥ 0", got=weights[first])


def positive_rows(offsets: Tensor, num_positives: int) -> Tensor:
    """int64 (P,): the query of each positive."""
    return torch.repeat_interleave(
        torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff(), output_size=num_positives
    )


def sum_by_row(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """(B,): the sum of the values of each query."""
    return values.new_zeros(num_rows).index_add(0, rows, values)


def normalised_weights(rows: Tensor, num_queries: int, weights: Tensor | None, like: Tensor) -> Tensor:
    """(P,) weights that sum to 1 within each query; a query whose weights are all 0 keeps 0."""
    flat = torch.ones_like(like) if weights is None else weights.to(like.dtype)
    total = sum_by_row(flat, rows, num_queries)
    return flat / torch.where(total > 0, total, 1.0)[rows]


def even_shares(offsets: Tensor, like: Tensor) -> Tensor:
    """(P,) 1 / (the number of positives of the query): :func:`normalised_weights` of equal ones, in one pass."""
    lengths = offsets.diff()
    return torch.repeat_interleave(lengths.to(like.dtype).reciprocal_(), lengths, output_size=len(like))


def shares_of(rows: Tensor, num_queries: int, weights: Tensor | None, like: Tensor, normalise: bool) -> Tensor:
    """(P,): normalised within each query, or as they are (1 unless given)."""
    if normalise:
        return normalised_weights(rows, num_queries, weights, like)
    return torch.ones_like(like) if weights is None else weights.to(like.dtype)


def final_weights(loss: Loss, offsets: Tensor, weights: Tensor | None, like: Tensor) -> Tensor:
    """(P,) what ``finish`` takes as ``share``."""
    if weights is None and loss.normalise:
        return even_shares(offsets, like)
    return shares_of(positive_rows(offsets, len(like)), len(offsets) - 1, weights, like, loss.normalise)
