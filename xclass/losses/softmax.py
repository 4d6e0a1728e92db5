"""Sampled softmax, and the full softmax it stands in for.

Source: Bengio & Senécal 2008 ("Adaptive importance sampling…", eq. 7, self-normalised); Jean et al. 2015, eq. 7 to 9;
for several positives each one is set against the negatives on its own and the mean is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xclass.losses.seam import check_logits, mask_value, normalised_weights, positive_rows


def sampled_softmax_loss(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    positive_in_denominator: bool = True,
    denominator_power: float = 1.0,
) -> Tensor:
    """Mean over a query's positives of the cross-entropy of that positive against the query's negatives.

    loss_b = Σ_p w_p · (log(e^{pos_p} + (Σ_j e^{neg_bj})^power) − pos_p) / Σ_p w_p, over the positives p of query b;
    without the positive in the denominator: Σ_p w_p · (power · log Σ_j e^{neg_bj} − pos_p) / Σ_p w_p.

    Args:
        pos_logits: (P,) positives of all queries, flat.
        neg_logits: (B, K) negatives; masked ones hold ``mask_value(dtype)``.
        offsets: int64 (B+1,).
        weights: (P,) ≥ 0, or None for 1.
        positive_in_denominator: false leaves it out, so that a pair already well placed still pulls (Yeh et al. 2022,
            "Decoupled contrastive learning", eq. 6). The loss then has no lower bound but that of the scores.
        denominator_power: the sum over negatives to this power; above 1 weighs hard negatives more (Wu et al. 2024,
            "BSL", eq. 8).

    Returns:
        (B,); 0 for a query without positives (or with weights of 0 only).

    With logits corrected by log-Q and every item but the known positives in ``neg_logits`` it is the full softmax.
    Cost O(P + B·K).
    """
    check_logits(pos_logits, neg_logits, offsets, weights)
    rows = positive_rows(offsets, len(pos_logits))
    share = normalised_weights(rows, len(neg_logits), weights, pos_logits)
    if neg_logits.shape[1] == 0:
        return pos_logits.new_zeros(len(neg_logits)).index_add(0, rows, pos_logits * 0)
    gap = _powered(neg_logits.logsumexp(1), denominator_power)[rows] - pos_logits
    losses = -functional.logsigmoid(-gap) if positive_in_denominator else _finite(gap)
    return pos_logits.new_zeros(len(neg_logits)).index_add(0, rows, share * losses)


def sampled_softmax_block(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    positive_in_denominator: bool = True,
    denominator_power: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """:func:`sampled_softmax_loss` with its gradient, one exponential per logit; overwrites ``neg_logits``.

    With s_p = sigmoid(power · log Σ_j e^{neg_bj} − pos_p), or 1 without the positive in the denominator:
    ∂/∂pos_p = −w_p s_p and ∂/∂neg_bj = power · softmax(neg_b)_j · Σ_p w_p s_p.
    """
    rows = positive_rows(offsets, len(pos_logits))
    share = normalised_weights(rows, len(neg_logits), weights, pos_logits)
    if neg_logits.shape[1] == 0:
        return pos_logits.new_zeros(len(neg_logits)), torch.zeros_like(pos_logits)
    top = neg_logits.amax(1, keepdim=True)
    z = neg_logits.sub_(top).exp_().sum(1)
    gap = _powered(z.log() + top.squeeze(1), denominator_power)[rows] - pos_logits
    losses = -functional.logsigmoid(-gap) if positive_in_denominator else _finite(gap)
    loss = torch.zeros_like(z).index_add_(0, rows, share * losses)
    pull = share * torch.sigmoid(gap) if positive_in_denominator else share
    pulls = torch.zeros_like(z).index_add_(0, rows, pull).mul_(denominator_power)
    neg_logits.mul_(pulls.div_(z).unsqueeze(1))
    return loss, -pull


def _finite(gap: Tensor) -> Tensor:
    """In half precision the difference of two finite logits may not be."""
    return gap.clamp(torch.finfo(gap.dtype).min, torch.finfo(gap.dtype).max)


def _powered(log_z: Tensor, power: float) -> Tensor:
    """Power · log Z; a row with everything masked stays finite."""
    return log_z if power == 1.0 else (log_z * power).clamp(min=mask_value(log_z.dtype))


def full_softmax_loss(pos_logits: Tensor, all_logits: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy over the whole catalogue, mean over a query's positives: the reference for every sampled loss.

    loss_b = Σ_p w_p · (log Σ_i e^{all_bi} − pos_p) / Σ_p w_p, where ``all_logits`` (B, N) holds every item, the
    positives among them. Cost O(P + B·N).
    """
    check_logits(pos_logits, all_logits, offsets, weights)
    rows = positive_rows(offsets, len(pos_logits))
    share = normalised_weights(rows, len(all_logits), weights, pos_logits)
    log_z = all_logits.logsumexp(1)
    return torch.zeros_like(log_z).index_add(0, rows, share * (log_z[rows] - pos_logits))


def full_softmax_block(
    pos_logits: Tensor, all_logits: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`full_softmax_loss` with its gradient; overwrites ``all_logits`` with softmax · Σ_p w_p."""
    rows = positive_rows(offsets, len(pos_logits))
    share = normalised_weights(rows, len(all_logits), weights, pos_logits)
    top = all_logits.amax(1, keepdim=True)
    z = all_logits.sub_(top).exp_().sum(1)
    log_z = z.log() + top.squeeze(1)
    loss = torch.zeros_like(z).index_add_(0, rows, share * (log_z[rows] - pos_logits))
    all_logits.mul_(torch.zeros_like(z).index_add_(0, rows, share).div_(z).unsqueeze(1))
    return loss, share.neg_()
