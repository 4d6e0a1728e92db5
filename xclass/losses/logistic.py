"""Losses that ask of every candidate "is it a positive?": NCE, sampled logistic, negative sampling, full sigmoid; BPR.

The first three are one formula of logits. They differ in what the logits are made of:

    nce                log-Q subtracted, a candidate that is a target stays a negative (it is noise like any other)
    sampled-logistic   log-Q subtracted, candidates that are targets masked
    negative-sampling  no log-Q, candidates that are targets masked
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xclass.errors import InputError
from xclass.losses.interface import (
    Finished,
    Positives,
    RowSums,
    check_logits,
    mask_value,
    positive_rows,
    shares_of,
    sum_by_row,
    widened,
)


def nce_loss(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    positives: Positives = "separate",
    positive_power: float = 1.0,
    normalise: bool = True,
) -> Tensor:
    """Noise-contrastive estimation: binary cross-entropy of true pairs against noise.

    With softplus(x) = log(1 + e^x) and weights w that sum to 1 over the positives p of query b:

    separate:  loss_b = Σ_p w_p · β · softplus(−pos_p) + Σ_j softplus(neg_bj);
    joint:     loss_b = Σ_p [softplus(pos_p) − w_p · pos_p] + Σ_j softplus(neg_bj), as TensorFlow's with its targets of
               1/T, whose best value of σ(pos_p) is w_p and not 1.

    Args:
        pos_logits: (P,), score − log_q of the positives, where log_q is the log of the expected *count* in the sample:
            NCE's number of noise samples is in it.
        neg_logits: (B, K), score − log_q of the noise; masked ones hold ``mask_value(dtype)``.
        offsets: int64 (B+1,).
        weights: (P,) ≥ 0, or None for 1.
        positives: "separate" or "joint".
        positive_power: gBCE's β, the positive's probability to this power (:func:`gbce_power`).
        normalise: false takes the weights as they are, and negatives count once whatever they sum to. With weights
            1/propensity that is the propensity-weighted loss of Jain et al. 2016, eq. 3, and joint the unbiased one:
            softplus(x) − x/propensity = (1/propensity)·softplus(−x) + (1 − 1/propensity)·softplus(x), whose expectation
            over missing labels is the loss of all labels (Natarajan et al. 2013, lemma 1). It has no lower bound.

    Returns:
        (B,), float32 for half-precision logits; 0 for a query without positives (or with weights of 0 only).

    At its optimum e^{score} is the conditional probability of the item, already normalised. Cost O(P + B·K).

    Source: Gutmann & Hyvärinen 2010; Mnih et al. 2012 ("A fast and simple algorithm…"), eq. 8 to 10.
    """
    return _logistic(pos_logits, neg_logits, offsets, weights, positives, positive_power, normalise)


def sampled_logistic_loss(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    positives: Positives = "separate",
    positive_power: float = 1.0,
    normalise: bool = True,
) -> Tensor:
    """The one-vs-all sigmoid loss, its sum over non-positives estimated from the sample.

    The formula of :func:`nce_loss`; candidates that are targets of the query are masked, so that
    E[loss] ≈ softplus(−score) of the positives plus Σ_i P(i drawn) · softplus(score_i − log_q_i) over the others.
    Source: Jean et al. 2015, and TensorFlow's ``nce_loss(remove_accidental_hits=True)``.
    """
    return _logistic(pos_logits, neg_logits, offsets, weights, positives, positive_power, normalise)


def negative_sampling_loss(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    positives: Positives = "separate",
    positive_power: float = 1.0,
    normalise: bool = True,
) -> Tensor:
    """Skip-gram's negative sampling: the formula of :func:`nce_loss` on scores without log-Q.

    At its optimum a score is log P(item | query) − log(expected count): good vectors, no likelihoods.
    Source: Mikolov et al. 2013, eq. 4; Levy & Goldberg 2014, eq. 10. ``positive_power``: Petrov & Macdonald 2023
    ("gSASRec", eq. 14).
    """
    return _logistic(pos_logits, neg_logits, offsets, weights, positives, positive_power, normalise)


def gbce_power(num_sampled: int, num_items: int, calibration: float) -> float:
    """GBCE's β = α · (t · (1 − 1/α) + 1/α) with α = K / (N − 1): t = 0 gives 1, t = 1 gives α.

    Few negatives make a model overconfident; β < 1 takes that back. Source: Petrov & Macdonald 2023, eq. 16.

    >>> round(gbce_power(256, 100_001, 0.75), 5)
    0.25192
    """
    rate = min(num_sampled / max(num_items - 1, 1), 1.0)
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def full_sigmoid_loss(
    pos_logits: Tensor,
    other_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    positives: Positives = "separate",
) -> Tensor:
    """One-vs-all: an independent sigmoid for every item of the catalogue.

    loss_b = Σ_p w_p · softplus(−pos_p) + Σ_i softplus(other_bi). The weights are taken as they are (1 unless given), so
    that every positive counts as much as every other item.

    Args:
        pos_logits: (P,).
        other_logits: (B, N), every item; the query's positives hold ``mask_value(dtype)``.
        offsets: int64 (B+1,).
        weights: (P,) ≥ 0, or None for 1.
        positives: "joint" makes them Σ_p [softplus(pos_p) − w_p · pos_p], unbiased for w_p = 1/propensity.
    """
    return _logistic(pos_logits, other_logits, offsets, weights, positives, 1.0, False)


def bpr_loss(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    normalise: bool = True,
) -> Tensor:
    """Bayesian personalised ranking: the mean over negatives of −log σ(positive − negative).

    loss_b = Σ_p w_p · (1/K_b) Σ_j softplus(neg_bj − pos_p), w summing to 1 over the positives of b, K_b the negatives
    of b that are not masked. ``normalise`` false: w as it is. Source: Rendle et al. 2009, eq. 4. Cost O(P·K).
    """
    check_logits(pos_logits, neg_logits, offsets, weights)
    rows, pos = positive_rows(offsets, len(pos_logits)), widened(pos_logits)
    share = shares_of(rows, len(neg_logits), weights, pos, normalise)
    keep = (neg_logits != mask_value(neg_logits.dtype))[rows]
    gaps = torch.where(keep, widened(neg_logits)[rows] - pos.unsqueeze(1), 0.0)
    each = torch.where(keep, softplus(gaps), 0.0).sum(1) / keep.sum(1).clamp(min=1)
    return sum_by_row(share * each, rows, len(neg_logits))


def finish_logistic(
    pos_logits: Tensor,
    offsets: Tensor,
    share: Tensor,
    sums: RowSums,
    *,
    positives: Positives = "separate",
    positive_power: float = 1.0,
    normalise: bool = True,
) -> Finished:
    """:func:`nce_loss` and its gradient.

    ∂/∂pos_p = −w_p β σ(−pos_p), joint σ(pos_p) − w_p; ∂/∂neg_bj = Σ_p w_p · σ(neg_bj).
    """
    rows, num_rows = positive_rows(offsets, len(pos_logits)), len(offsets) - 1
    if positives == "joint":
        losses, pos_grad = _soft_target(pos_logits, share), torch.sigmoid(pos_logits) * (share > 0) - share
    else:
        losses = share * positive_power * softplus(-pos_logits)
        pos_grad = -share * positive_power * torch.sigmoid(-pos_logits)
    scale = sum_by_row(share, rows, num_rows)
    scale = scale if normalise else (scale > 0).to(scale.dtype)
    return Finished(sum_by_row(losses, rows, num_rows) + scale * sums.value, pos_grad, scale)


def finish_full_sigmoid(
    pos_logits: Tensor, offsets: Tensor, share: Tensor, sums: RowSums, *, positives: Positives = "separate"
) -> Finished:
    """:func:`full_sigmoid_loss` and its gradient: the other items count once, whatever the positives weigh."""
    return finish_logistic(pos_logits, offsets, share, sums, positives=positives, normalise=False)


def finish_bpr(pos_logits: Tensor, offsets: Tensor, share: Tensor, sums: RowSums) -> Finished:
    """:func:`bpr_loss` and its gradient; every positive is a row, ``sums`` are those of neg_bj − pos_p."""
    mean = share / sums.unmasked.clamp(min=1)
    return Finished(mean * sums.value, -mean * sums.total, mean)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact to rounding at any x."""
    return functional.softplus(x, threshold=80.0)


def _logistic(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    positives: Positives,
    positive_power: float,
    normalise: bool,
) -> Tensor:
    check_logits(pos_logits, neg_logits, offsets, weights)
    _check_switches(positives, positive_power)
    rows, pos = positive_rows(offsets, len(pos_logits)), widened(pos_logits)
    share = shares_of(rows, len(neg_logits), weights, pos, normalise)
    joint = positives == "joint"
    losses = _soft_target(pos, share) if joint else share * positive_power * softplus(-pos)
    some = sum_by_row(share, rows, len(neg_logits)) > 0
    value = softplus(widened(neg_logits)).sum(1)
    return sum_by_row(losses, rows, len(neg_logits)) + torch.where(some, value, value * 0)


def _soft_target(x: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of σ(x) against a target, softplus(x) − target · x for targets of any size; 0 for target 0."""
    value = target * softplus(-x) + (1 - target) * softplus(x)
    return torch.where(target > 0, value, value * 0)


def _check_switches(positives: str, positive_power: float) -> None:
    if positives not in ("separate", "joint"):
        raise InputError("positives is unknown", wanted='"separate" or "joint"', got=repr(positives))
    if not positive_power > 0:
        raise InputError("positive_power is out of range", wanted="a number > 0", got=positive_power)
    if positives == "joint" and positive_power != 1:
        raise InputError(
            "positive_power goes with separate positives", wanted='positives="separate"', got=repr(positives)
        )
