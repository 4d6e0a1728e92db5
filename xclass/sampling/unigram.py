"""Sampling by fixed weights: item frequencies raised to a power."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.seam import check_size, negatives_from
from xclass.types import Negatives, Ragged


class FixedUnigram:
    """Item c with probability w_c^power / Σ w^power, with replacement (power .75 is word2vec's).

    Args:
        weights: (N,) finite and ≥ 0, e.g. train counts; at least one positive after the power.
        num_sampled: K.
        power: 1 keeps the weights, 0 makes all positive weights equal.
        smoothing: added to every weight before the power. With 0, an item of weight 0 is never drawn.

    Totals are float64. Memory 8 bytes an item; a draw costs O(log N).
    """

    def __init__(self, weights: Tensor, num_sampled: int, power: float = 1.0, smoothing: float = 0.0) -> None:
        self.num_items = len(_checked(weights))
        self.num_sampled = check_size("num_sampled", num_sampled)
        base = weights.double() + smoothing
        powered = torch.where(base > 0, base**power, 0.0)
        self._cumulative = torch.cumsum(powered, 0)
        self._total = float(self._cumulative[-1])
        if not 0 < self._total < math.inf:
            raise InputError("weights can't be sampled from", wanted="a positive finite total", got=self._total)

    def draw(self, positives: Ragged, generator: torch.Generator) -> Tensor:
        """int64 (K,): the first item whose running total exceeds u · total."""
        u = torch.rand(self.num_sampled, generator=generator, dtype=torch.float64) * self._total
        return torch.searchsorted(self._cumulative, u, right=True).clamp_(max=self.num_items - 1)

    def log_expected_count(self, ids: Tensor, positives: Ragged) -> Tensor:
        """log(K · w_c^power / Σ w^power)."""
        below = torch.where(ids > 0, self._cumulative[(ids - 1).clamp(min=0)], 0.0)
        return (self._cumulative[ids] - below).log_() + math.log(self.num_sampled / self._total)

    def sample(self, positives: Ragged, generator: torch.Generator) -> Negatives:
        """K candidates by weight."""
        return negatives_from(self, positives, generator)


def _checked(weights: Tensor) -> Tensor:
    if weights.dim() != 1 or len(weights) == 0:
        raise InputError("weights have the wrong shape", wanted="(N,), N ≥ 1", got=tuple(weights.shape))
    bad = ~torch.isfinite(weights) | (weights < 0) if weights.is_floating_point() else weights < 0
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise InputError(f"the weight of item {first} is invalid", wanted="finite and ≥ 0", got=float(weights[first]))
    return weights
