"""Expected counts of samples without repeats."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.sampling.distributions.fixed import Bins

STEPS = 500
TOLERANCE = 1e-15


def expected_distinct(bins: Bins, tries: float) -> float:
    """Σ_c (1 − (1 − p_c)^tries): how many different items so many draws hold on average."""
    return float((bins.number * inclusion(bins.probability, tries)).sum())


def inclusion(probability: Tensor, tries: float) -> Tensor:
    """1 − (1 − p)^tries, precise for small p."""
    return probability.neg().log1p_().mul_(tries).expm1_().neg_()


def tensorflow_count(probability: Tensor, num_sampled: int, tries: float) -> Tensor:
    """TensorFlow's formula: p·K where no draw was rejected, else 1 − (1 − p)^tries.

    The first holds for samples without repeats, too, so that a count may then exceed 1.
    """
    return probability * num_sampled if tries == num_sampled else inclusion(probability, tries)


def calibrated_tries(bins: Bins, num_sampled: int) -> float:
    """The number of tries t with Σ_c (1 − (1 − p_c)^t) = K.

    A sample of K distinct items takes a random number of draws. With the one t that makes the counts add up to K they
    are closer to the true inclusion probabilities than with the number that a draw happened to take, and they depend
    on no draw. Found by Newton's method from below; the sum is concave in t. Cost O(bins) a step.

    Infinite when all items that can be drawn are wanted: each count is then 1.
    """
    if float(bins.number[bins.probability > 0].sum()) <= num_sampled:
        return float("inf")
    log_missing = torch.log1p(-bins.probability.clamp(max=1 - 2.0**-53))
    tries = float(num_sampled)
    slope = bins.number * -log_missing
    for _ in range(STEPS):
        exponent = log_missing * tries
        gap = num_sampled + float(bins.number @ torch.expm1(exponent))
        step = gap / float(slope @ exponent.exp_())
        if not step > TOLERANCE * tries:  # the steps only ever rise: what falls is rounding
            break
        tries += step
    return tries
