"""In-batch sampling: the positives of the batch's other queries are the candidates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.distributions.expected_counts import inclusion
from xclass.sampling.distributions.without_replacement import first_occurrences
from xclass.sampling.interface import BaseSampler, check_size
from xclass.sampling.streaming import StreamingFrequency
from xclass.types import Ragged


class InBatch(BaseSampler):
    """All positives of the batch, in order; with repeats K = P.

    An item of frequency f = count_c / Σ count is expected P · f times in a batch of P pairs, and is there, where each
    item counts once, with probability 1 − (1 − f)^P: exact for batches of pairs drawn evenly from the train split.
    Without the log-Q the loss would punish popular items, which come up as negatives more often (Yi et al. 2019,
    "Sampling-bias-corrected neural modeling for large corpus item recommendations").

    Args:
        counts: (N,) train pairs of each item. An item that never occurs counts as one occurrence: as a positive of
            something else than train it would have log-Q −∞. Or, where counts are not known or change, a
            :class:`xclass.sampling.StreamingFrequency`, which learns them from the batches.
        replacement: false: an item that is several times among the positives is one candidate.
    """

    def __init__(self, counts: Tensor | StreamingFrequency, replacement: bool = True) -> None:
        self.replacement = replacement
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
        """int64 (P,): the batch's positives; without repeats in the order of their first."""
        return positives.values if self.replacement else first_occurrences(positives.values, len(positives.values))[0]

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """log(P · f) or log(1 − (1 − f)^P), P · f maybe as estimated from the stream."""
        log_count = self._log_count(ids, positives)
        if self.replacement:
            return log_count
        pairs = max(len(positives.values), 1)
        return inclusion((log_count - math.log(pairs)).exp_().clamp_(max=1 - 2.0**-53), float(pairs)).log_()

    def _log_count(self, ids: Tensor, positives: Ragged) -> Tensor:
        if self._streaming is not None:
            return self._streaming.log_expected_count(ids)
        return self._counts.index_select(0, ids.reshape(-1)).view(ids.shape).double().clamp_(min=1).log_() + (
            math.log(max(len(positives.values), 1)) - self._log_total
        )

    @property
    def has_own_buckets(self) -> bool:
        """Whether frequencies are estimated, of each item by itself."""
        stream = self._streaming
        return stream is not None and stream.num_hashes == 1 and stream.num_buckets >= stream.num_items

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
