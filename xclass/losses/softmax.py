"""Sampled softmax, and the full softmax it stands in for.

Source: Bengio & Senécal 2008 ("Adaptive importance sampling…", eq. 7, self-normalised); Jean et al. 2015, eq. 7 to 9.
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


def sampled_softmax_loss(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    positives: Positives = "separate",
    positive_in_denominator: bool = True,
    denominator_power: float = 1.0,
    corrected: bool = False,
    normalise: bool = True,
) -> Tensor:
    """Cross-entropy of a query's positives against its sampled negatives.

    With S_b = (Σ_j e^{neg_bj})^power and weights w that sum to 1 over the positives p of query b:

    separate:  loss_b = Σ_p w_p · (log(e^{pos_p} + S_b) − pos_p): other positives are in no denominator;
    joint:     loss_b = log(Σ_p e^{pos_p} + S_b) − Σ_p w_p · pos_p, as TensorFlow's (at its best log T for T positives);
    positive out of the denominator: loss_b = log S_b − Σ_p w_p · pos_p;
    corrected: loss_b = Σ_p w_p · sg(1 − P_p) · (log S_b − pos_p), P_p = e^{pos_p} / (e^{pos_p} + S_b), sg no gradient.

    Args:
        pos_logits: (P,) positives of all queries, flat.
        neg_logits: (B, K) negatives; masked ones hold ``mask_value(dtype)``.
        offsets: int64 (B+1,).
        weights: (P,) ≥ 0, or None for 1.
        positives: "separate" or "joint".
        positive_in_denominator: false leaves it out, so that a pair already well placed still pulls (Yeh et al. 2022,
            "Decoupled contrastive learning", eq. 6). The loss then has no lower bound but that of the scores.
        denominator_power: the sum over negatives to this power; above 1 weighs hard negatives more (Wu et al. 2024,
            "BSL", eq. 8).
        corrected: the positive has probability 1 of being there, so its logit is taken without log-Q (Khrylchenko et
            al. 2025, "Correcting the LogQ correction", eq. 9). Give log-Q to the negatives only.
        normalise: false takes the weights as they are, so that a query of heavier positives counts more; not for joint.

    Returns:
        (B,), float32 for half-precision logits; 0 for a query without positives (or with weights of 0 only).

    With logits corrected by log-Q and every item but the known positives in ``neg_logits`` it is the full softmax.
    Cost O(P + B·K).
    """
    check_logits(pos_logits, neg_logits, offsets, weights)
    _check_switches(positives, positive_in_denominator, denominator_power, corrected, normalise)
    rows = positive_rows(offsets, len(pos_logits))
    pos, alive = widened(pos_logits), _alive(neg_logits)
    share = shares_of(rows, len(neg_logits), weights, pos, normalise)
    log_s = (_log_sum(neg_logits) * denominator_power).clamp(min=mask_value(pos.dtype))
    if positives == "joint" and positive_in_denominator:
        return _joint(pos, log_s, rows, share)
    gap = _finite(log_s[rows] - pos)
    if corrected:
        losses = torch.sigmoid(gap).detach() * gap
    elif positive_in_denominator:
        losses = functional.softplus(gap, threshold=80.0)
    else:
        losses = torch.where(alive[rows], gap, gap * 0)
    return sum_by_row(share * losses, rows, len(neg_logits))


def importance_loss(
    pos_logits: Tensor,
    neg_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    normalise: bool = True,
) -> Tensor:
    """Biased importance sampling: the softmax's likelihood with an estimate of log Z from the sample.

    loss_b = Σ_p w_p · (log Σ_j r_bj − pos_p), r_bj = e^{neg_bj} = e^{score} / (expected count of j in the sample), w
    summing to 1 over the positives of b. The gradient is that of the full softmax, −∇s_p + Σ_i P(i) ∇s_i, with
    Σ_i P(i) ∇s_i estimated by Σ_j r_bj ∇s_j / Σ_j r_bj.

    Args:
        pos_logits: (P,), scores of the positives *without* log-Q.
        neg_logits: (B, K), score − log_q of the sample; a candidate that is a positive stays in it, since the sum that
            is estimated is over all items.
        offsets, weights, normalise: as in :func:`sampled_softmax_loss`.

    The estimate is biased by O(1/K), and falls short where the sample misses items of high probability; the positive
    is in no denominator, so the loss then has no lower bound. The effective sample size says when that is near:
    :func:`effective_size`. Cost O(P + B·K).

    Source: Bengio & Senécal 2003, "Quick training of probabilistic neural nets by importance sampling", §3.2.
    """
    return sampled_softmax_loss(
        pos_logits, neg_logits, offsets, weights, positive_in_denominator=False, normalise=normalise
    )


def effective_size(neg_logits: Tensor) -> Tensor:
    """(B,) effective size of each row's sample: (Σ_j r_j)² / Σ_j r_j² with r_j = e^{neg_bj}, between 1 and K.

    So many draws from the softmax itself would estimate as well as this sample does. 0 for a row without candidates.
    Source: Kong 1992; the rule of Bengio & Senécal 2003, §3.4.
    """
    wide = widened(neg_logits)
    size = torch.exp(2 * wide.logsumexp(1) - (2 * wide).logsumexp(1))
    return torch.where(_alive(neg_logits), size, 0.0) if neg_logits.shape[1] else wide.new_zeros(len(wide))


def finish_sampled_softmax(
    pos_logits: Tensor,
    offsets: Tensor,
    share: Tensor,
    sums: RowSums,
    *,
    positives: Positives = "separate",
    positive_in_denominator: bool = True,
    denominator_power: float = 1.0,
    corrected: bool = False,
) -> Finished:
    """:func:`sampled_softmax_loss` and its gradient from the sums over the negatives.

    With g_p = log S_b − pos_p and s_p = σ(g_p) (1 without the positive in the denominator): ∂/∂pos_p = −w_p s_p and
    ∂/∂neg_bj = power · softmax(neg_b)_j · Σ_p w_p s_p; joint: ∂/∂pos_p = e^{pos_p}/Z_b − w_p.
    """
    rows, num_rows = positive_rows(offsets, len(pos_logits)), len(offsets) - 1
    alive, lowest = sums.unmasked > 0, mask_value(pos_logits.dtype)
    log_s = torch.where(alive, (sums.value * denominator_power).clamp(min=lowest), lowest)
    total = torch.where(alive, sums.total, 1.0)
    if positives == "joint" and positive_in_denominator:
        return _finish_joint(pos_logits, rows, share, log_s, denominator_power / total)
    gap = _finite(log_s[rows] - pos_logits)
    if positive_in_denominator:
        pull = share * torch.sigmoid(gap)
        losses = pull * gap if corrected else share * functional.softplus(gap, threshold=80.0)
    else:
        pull = share * alive[rows]
        losses = pull * gap
    scale = sum_by_row(pull, rows, num_rows) * (denominator_power / total)
    return Finished(sum_by_row(losses, rows, num_rows), -pull, scale)


def _joint(pos: Tensor, log_s: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    counted = torch.where(share > 0, pos, mask_value(pos.dtype))
    top = _top_by_row(counted.detach(), log_s.detach(), rows)
    z = sum_by_row(torch.exp(counted - top[rows]), rows, len(log_s)) + torch.exp(log_s - top)
    loss = top + z.log() - sum_by_row(share * pos, rows, len(log_s))
    return torch.where(sum_by_row(share, rows, len(log_s)) > 0, loss, loss * 0)


def _finish_joint(pos: Tensor, rows: Tensor, share: Tensor, log_s: Tensor, per_cell: Tensor) -> Finished:
    active = share > 0
    counted = torch.where(active, pos, mask_value(pos.dtype))
    top = _top_by_row(counted, log_s, rows)
    each, rest = torch.exp(counted - top[rows]) * active, torch.exp(log_s - top)
    z = sum_by_row(each, rows, len(log_s)) + rest
    some = sum_by_row(share, rows, len(log_s)) > 0
    loss = top + z.log() - sum_by_row(share * pos, rows, len(log_s))
    return Finished(torch.where(some, loss, 0.0), each / z[rows] - share, torch.where(some, rest / z * per_cell, 0.0))


def _top_by_row(pos: Tensor, log_s: Tensor, rows: Tensor) -> Tensor:
    return log_s.scatter_reduce(0, rows, pos, "amax")


def full_softmax_loss(
    pos_logits: Tensor,
    all_logits: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    normalise: bool = True,
    normaliser_weight: float = 0.0,
    log_constant: float = 0.0,
    unnormalised: bool = False,
) -> Tensor:
    """Cross-entropy over the whole catalogue, mean over a query's positives: the reference for every sampled loss.

    loss_b = Σ_p w_p · (log Z_b − pos_p) / Σ_p w_p, log Z_b = log Σ_i e^{all_bi}, where ``all_logits`` (B, N) holds
    every item, the positives among them; self-normalised: + α (log Z_b − c)². Cost O(P + B·N).

    Args:
        pos_logits, all_logits, offsets, weights: (P,), (B, N), (B+1,), (P,) ≥ 0 or None for 1.
        normalise: false: without the division by Σ_p w_p.
        normaliser_weight: α. Scores less c are then log-probabilities, about, without a sum over items.
        log_constant: c.
        unnormalised: log Z_b is left out of the likelihood, so that only the penalty holds it: then most queries need
            no Z_b at all, and those that have one are weighted up (α/γ).

    Source: Devlin et al. 2014, "Fast and robust neural network joint models", eq. 3; unnormalised: Andreas & Klein
    2015, "When and why are log-linear models self-normalizing?", eq. 8.
    """
    check_logits(pos_logits, all_logits, offsets, weights)
    rows, pos = positive_rows(offsets, len(pos_logits)), widened(pos_logits)
    share = shares_of(rows, len(all_logits), weights, pos, normalise)
    log_z = _log_sum(all_logits)
    each = -pos if unnormalised else _finite(log_z[rows] - pos)
    loss = sum_by_row(share * each, rows, len(all_logits))
    if not normaliser_weight:
        return loss
    has_positives = sum_by_row(share, rows, len(all_logits)) > 0
    return loss + torch.where(has_positives, normaliser_weight * (log_z - log_constant).square(), 0.0)


def finish_full_softmax(
    pos_logits: Tensor,
    offsets: Tensor,
    share: Tensor,
    sums: RowSums,
    *,
    normaliser_weight: float = 0.0,
    log_constant: float = 0.0,
    unnormalised: bool = False,
) -> Finished:
    """:func:`full_softmax_loss` and its gradient: −w_p, and softmax · (Σ_p w_p + 2 α (log Z − c)).

    Unnormalised, Σ_p w_p is not in it.
    """
    rows, num_rows = positive_rows(offsets, len(pos_logits)), len(offsets) - 1
    each = -pos_logits if unnormalised else _finite(sums.value[rows] - pos_logits)
    loss, pull = sum_by_row(share * each, rows, num_rows), sum_by_row(share, rows, num_rows)
    scale = torch.zeros_like(pull) if unnormalised else pull
    if normaliser_weight:
        gap = torch.where(pull > 0, sums.value - log_constant, 0.0)
        loss, scale = loss + normaliser_weight * gap.square(), scale + 2 * normaliser_weight * gap
    return Finished(loss, -share, scale / torch.where(sums.total > 0, sums.total, 1.0))


def _log_sum(logits: Tensor) -> Tensor:
    """(B,) log Σ_j e^{x_bj}; the mask's value where there is nothing to sum."""
    if logits.shape[1] == 0:
        return widened(logits.new_full((len(logits),), mask_value(logits.dtype)))
    return torch.where(_alive(logits), widened(logits).logsumexp(1), mask_value(widened(logits[:, 0]).dtype))


def _alive(logits: Tensor) -> Tensor:
    """(B,) bool: some negative is not masked."""
    return (logits != mask_value(logits.dtype)).any(1)


def _finite(gap: Tensor) -> Tensor:
    """The difference of two finite logits may not be."""
    return gap.clamp(torch.finfo(gap.dtype).min, torch.finfo(gap.dtype).max)


def _check_switches(
    positives: str, positive_in_denominator: bool, denominator_power: float, corrected: bool, normalise: bool
) -> None:
    if positives not in ("separate", "joint"):
        raise InputError("positives is unknown", wanted='"separate" or "joint"', got=repr(positives))
    if not denominator_power > 0:
        raise InputError("denominator_power is out of range", wanted="a number > 0", got=denominator_power)
    if positives == "joint" and not normalise:
        raise InputError("joint positives share one target", wanted="normalise=True", got="normalise=False")
    if corrected and (positives == "joint" or not positive_in_denominator):
        raise InputError(
            "corrected does not go with the other switches",
            wanted='positives="separate" and positive_in_denominator=True',
            got=f"positives={positives!r}, positive_in_denominator={positive_in_denominator}",
        )
