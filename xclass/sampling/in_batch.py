"""In-batch sampling: the positives of the batch's other queries are the candidates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.seam import BaseSampler, check_size
from xclass.sampling.streaming import StreamingFrequency
from xclass.types import Ragged


class InBatch(BaseSampler):
    """All positives of the batch, in order and with repeats; K = P.

    An item's expected count in a batch of P pairs is P · count_c / Σ count: exact for batches of pairs drawn evenly
    from the train split. Without the log-Q the loss would punish popular items, which come up as negatives more often
    (Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations").

    Args:
        counts: (N,) train pairs of each item. An item that never occurs counts as one occurrence: as a positive of
            something else than train it would have log-Q −∞. Or, where counts are not known or change, a
            :class:`xclass.sampling.StreamingFrequency`, which learns them from the batches.
    """

    def __init__(self, counts: Tensor | StreamingFrequency) -> None:
        self._streaming = counts if isinstance(counts, StreamingFrequency) else None
        self._counts = torch.empty(0) if isinstance(counts, StreamingFrequency) else counts
        if isinstance(counts, StreamingFrequency):
            self.num_items = counts.num_items
            return
        if counts.dim() != 1 or len(counts) == 0 or bool((counts < 0).any()):
            raise InputError("counts are invalid", wanted="(N,) numbers ≥ 0", got=f"shape {tuple(counts.shape)}")
        self.num_items = check_size("num_items", len(counts))
        self._log_total = math.log(max(float(counts.double().sum()), 1.0))

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (P,): the batch's positives."""
        return positives.values

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """log(P · count_c / Σ count), or as estimated from the stream."""
        if self._streaming is not None:
            return self._streaming.log_expected_count(ids)
        return self._counts.index_select(0, ids.reshape(-1)).view(ids.shape).double().clamp_(min=1).log_() + (
            math.log(max(len(positives.values), 1)) - self._log_total
        )

    def learn(self, positives: Ragged) -> None:
        """The stream goes on."""
        if self._streaming is not None:
            self._streaming.update(positives.values)

    def state(self) -> dict[str, Tensor]:
        """What the stream has taught."""
        return {} if self._streaming is None else self._streaming.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        if self._streaming is not None:
            self._streaming.load_state(state)
