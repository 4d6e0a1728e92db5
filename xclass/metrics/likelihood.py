"""Perplexity and calibration: what they are, and what popularity alone would give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.types import Ragged

PERPLEXITY, LOG_LOSS = "perplexity", "log_loss"
LIKELIHOODS = (PERPLEXITY, LOG_LOSS)
_PAIRS = (
    "the mean over all pairs of a query and a positive of the split, each by its weight (1 where there are none; what"
    " comes several times counts several times); P is normalised over all N items exactly, and nothing is left out"
)
LIKELIHOOD_DEFINITIONS = {
    PERPLEXITY: f"e^log_loss: e to the power of −log P(positive | query), {_PAIRS}",
    LOG_LOSS: f"−log P(positive | query) in nats, {_PAIRS}",
}
CALIBRATION_DEFINITIONS = {
    "log_z_mean": "mean over queries with a positive of log Z, Z = Σ over all N items of e^(score / temperature)",
    "log_z_std": "standard deviation over the same queries of log Z: how far scores are from log P and a constant",
    "log_z_constant": "what log Z is taken for where no sum is made: NCE's own, else log N; right near the mean",
}
UNIGRAM = "of perplexity: P(item) = (train pairs + 1) / (all train pairs + N)"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probabilities of all positives of Q queries.

    loss: float64 (Q,), Σ_p w_p · −log P(p | q) over a query's positives.
    weight: float64 (Q,), Σ_p w_p; 0 for a query without a positive.
    log_z: float64 (Q,), log of what the scores were divided by, NaN without a positive; None for a head whose
        probabilities are not made from scores of all items.
    log_constant: what log Z is taken for where no sum is made; None for a head that never does without.
    """

    loss: Tensor
    weight: Tensor
    log_z: Tensor | None = None
    log_constant: float | None = None

    def metrics(self) -> dict[str, float]:
        """Perplexity and log_loss; NaN without a pair."""
        total = float(self.weight.sum())
        mean = float(self.loss.sum()) / total if total else math.nan
        return {PERPLEXITY: math.inf if mean > 700 else math.exp(mean), LOG_LOSS: mean}

    def calibration(self) -> dict[str, float]:
        """Mean and standard deviation (of the whole, not of a sample) of log Z; its constant. Empty without log Z."""
        if self.log_z is None:
            return {}
        values = self.log_z[self.weight > 0]
        if not len(values):
            return {}
        found = {"log_z_mean": float(values.mean()), "log_z_std": float(values.std(correction=0))}
        return found if self.log_constant is None else found | {"log_z_constant": self.log_constant}


def pair_weights(truth: Ragged) -> Tensor:
    """float64 (M,): the pairs' weights, or 1."""
    if truth.weights is None:
        return torch.ones(len(truth.values), dtype=torch.float64)
    return truth.weights.double()


def unigram_likelihood(item_counts: Tensor, truth: Ragged) -> Likelihood:
    """Of P(i) = (c_i + 1) / (Σ c + N), whatever the query. Cost O(N + M)."""
    total = int(item_counts.sum(dtype=torch.int64)) + len(item_counts)
    weights, rows = pair_weights(truth), truth.rows()
    loss = math.log(total) - (item_counts[truth.values.long()].double() + 1).log()
    empty = torch.zeros(len(truth), dtype=torch.float64)
    return Likelihood(empty.index_add(0, rows, weights * loss), empty.index_add(0, rows, weights))


def joined(parts: list[Likelihood]) -> Likelihood:
    """The queries of several parts, in order."""
    found = [part.log_z for part in parts if part.log_z is not None]
    log_z = torch.cat(found) if parts and len(found) == len(parts) else None
    empty = torch.zeros(0, dtype=torch.float64)
    loss, weight = (torch.cat([getattr(part, name) for part in parts] or [empty]) for name in ("loss", "weight"))
    return Likelihood(loss, weight, log_z, parts[0].log_constant if parts else None)
