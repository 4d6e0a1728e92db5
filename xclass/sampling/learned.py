"""Sampling by the frequencies of the labels seen so far."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.distributions.decayed import DecayedLaw
from xclass.sampling.distributions.expected_counts import calibrated_tries
from xclass.sampling.distributions.learned import LearnedLaw
from xclass.sampling.independent import Counts, Drawn
from xclass.sampling.interface import check_ids, check_state
from xclass.types import Ragged

STALE = 1e-3  # the calibration is made anew when so large a share of the weight is new


class LearnedUnigram(Drawn):
    """Item c with probability (1 + occurrences) / (N + n), after n labels.

    Each batch is drawn and counted with what was seen before it; then its positives are learned.

    Args:
        num_items: N.
        num_sampled: K.
        replacement, counts, per_query: as in :class:`xclass.sampling.Drawn`.
        window: only the last so many labels count; 0 for all.
        decay: an occurrence a batches ago weighs decay^a; 0 for no decay. Not together with a window.

    O(1) a draw and an update. Without replacement the calibrated counts are kept up to date from how many items have
    each count, which only the labels since the last time change.

    Source: TensorFlow's learned_unigram_candidate_sampler, whose tree costs O(log N).
    """

    law: LearnedLaw | DecayedLaw

    def __init__(
        self,
        num_items: int,
        num_sampled: int,
        replacement: bool = True,
        counts: Counts = "calibrated",
        window: int = 0,
        decay: float = 0.0,
        per_query: bool = False,
    ) -> None:
        if window and decay:
            raise InputError("window and decay do not go together", wanted="one of them 0", got=f"{window}, {decay}")
        law: LearnedLaw | DecayedLaw = (
            DecayedLaw(num_items, decay, not replacement) if decay else LearnedLaw(num_items, window, not replacement)
        )
        super().__init__(law, num_sampled, replacement, counts, per_query)
        self._calibrated_at = 0

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (K,), or (B, K) for each query."""
        self._calibrate()
        return super().draw(positives, generator, query_ids)

    def expected_count(self, ids: Tensor) -> Tensor:
        """float64, the shape of ``ids``, by what has been seen."""
        self._calibrate()
        return super().expected_count(ids)

    def learn(self, positives: Ragged) -> None:
        """The batch's positives are seen."""
        self.law.update(positives.values)

    def update(self, labels: Tensor) -> None:
        """Learn from labels (int64 item numbers) outside of a batch. O(labels)."""
        check_ids(labels, self.num_items)
        self.law.update(labels)

    def _calibrate(self) -> None:
        fresh = self.law.num_seen - self._calibrated_at
        if not self.replacement and fresh > STALE * self.law.total:
            self._tries, self._calibrated_at = calibrated_tries(self.law.bins(), self.num_sampled), self.law.num_seen

    def state(self) -> dict[str, Tensor]:
        """The labels seen and the calibration."""
        numbers = torch.tensor([self._tries, self._last_tries, self._calibrated_at], dtype=torch.float64)
        return {**self.law.state(), "calibration": numbers}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`, bit for bit."""
        check_state("calibration", state["calibration"], 0, torch.finfo(torch.float64).max, 3)
        self.law.load_state(state)
        self._tries, self._last_tries, calibrated_at = state["calibration"].tolist()
        self._calibrated_at = int(calibrated_at)
