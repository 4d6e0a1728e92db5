"""Every item, once: the sampled loss becomes the full one. For reference and for small catalogues."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.sampling.interface import BaseSampler, check_size
from xclass.types import Ragged


class AllItems(BaseSampler):
    """The whole catalogue, every expected count 1, so log_q = 0. Cost O(N) a batch."""

    def __init__(self, num_items: int) -> None:
        self.num_items = check_size("num_items", num_items)

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (N,): 0 … N−1."""
        return torch.arange(self.num_items)

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """0 for every id."""
        return torch.zeros(ids.shape, dtype=torch.float64)
