"""Uniform and log-uniform sampling: closed-form distributions, nothing stored, any catalogue size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xclass.sampling.seam import check_size, negatives_from
from xclass.types import Negatives, Ragged


class Uniform:
    """Each of ``num_sampled`` draws takes any item with probability 1/N, with replacement.

    log_q = log(K / N). Cost O(K).
    """

    def __init__(self, num_items: int, num_sampled: int) -> None:
        self.num_items = check_size("num_items", num_items)
        self.num_sampled = check_size("num_sampled", num_sampled)

    def draw(self, positives: Ragged, generator: torch.Generator) -> Tensor:
        """int64 (K,)."""
        return torch.randint(self.num_items, (self.num_sampled,), generator=generator)

    def log_expected_count(self, ids: Tensor, positives: Ragged) -> Tensor:
        """log(K / N) for every id."""
        return torch.full(ids.shape, math.log(self.num_sampled / self.num_items), dtype=torch.float64)

    def sample(self, positives: Ragged, generator: torch.Generator) -> Negatives:
        """K uniform candidates."""
        return negatives_from(self, positives, generator)


class LogUniform:
    """Item c with probability P(c) = log((c+2)/(c+1)) / log(N+1), with replacement: close to Zipf's law.

    Right only for items numbered by falling frequency, as every dataset of this toolkit numbers them.
    log_q = log(K · P(c)), with log1p(1/(c+1)) so that rare items of a huge catalogue keep their precision. Cost O(K).
    """

    def __init__(self, num_items: int, num_sampled: int) -> None:
        self.num_items = check_size("num_items", num_items)
        self.num_sampled = check_size("num_sampled", num_sampled)
        self._log_range = math.log1p(num_items)

    def draw(self, positives: Ragged, generator: torch.Generator) -> Tensor:
        """int64 (K,): floor(exp(u · log(N+1))) − 1 for uniform u."""
        u = torch.rand(self.num_sampled, generator=generator, dtype=torch.float64)
        return (u.mul_(self._log_range).exp_().long() - 1).clamp_(0, self.num_items - 1)

    def log_expected_count(self, ids: Tensor, positives: Ragged) -> Tensor:
        """log(K · log1p(1/(c+1)) / log(N+1))."""
        return torch.log1p((ids.double() + 1).reciprocal()).log_() + math.log(self.num_sampled / self._log_range)

    def sample(self, positives: Ragged, generator: torch.Generator) -> Negatives:
        """K log-uniform candidates."""
        return negatives_from(self, positives, generator)
