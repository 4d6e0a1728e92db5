"""In-batch sampling: the positives of the batch's other queries are the candidates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.seam import negatives_from
from xclass.types import Negatives, Ragged


class InBatch:
    """All positives of the batch, in order and with repeats; K = P.

    An item's expected count in a batch of P pairs is P · count_c / Σ count: exact for batches of pairs drawn evenly
    from the train split. Without the log-Q the loss would punish popular items, which come up as negatives more often
    (Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations").

    Args:
        counts: (N,) train pairs of each item. An item that never occurs counts as one occurrence: as a positive of
            something else than train it would have log-Q −∞.
    """

    def __init__(self, counts: Tensor) -> None:
        if counts.dim() != 1 or len(counts) == 0 or bool((counts < 0).any()):
            raise InputError("counts are invalid", wanted="(N,) numbers ≥ 0", got=f"shape {tuple(counts.shape)}")
        self.num_items = len(counts)
        self._counts = counts
        self._log_total = math.log(max(float(counts.double().sum()), 1.0))

    def draw(self, positives: Ragged, generator: torch.Generator) -> Tensor:
        """int64 (P,): the batch's positives."""
        return positives.values

    def log_expected_count(self, ids: Tensor, positives: Ragged) -> Tensor:
        """log(P · count_c / Σ count)."""
        return self._counts[ids].double().clamp_(min=1).log_() + (
            math.log(max(len(positives.values), 1)) - self._log_total
        )

    def sample(self, positives: Ragged, generator: torch.Generator) -> Negatives:
        """The batch's positives as candidates for every query of the batch."""
        return negatives_from(self, positives, generator)
