"""Target sampling: one candidate subset for each partition of the training data."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.sampling.distinct import first_occurrences
from xclass.sampling.seam import BaseSampler, check_size
from xclass.types import Ragged


class TargetSampling(BaseSampler):
    """The different targets of the current part of the training data are the candidates.

    The batches are cut into parts as they come: a part ends when it has K different targets. A batch's candidates
    are the different targets of the part so far, its own among them, and of the part before it, K at most, latest
    first.
    However many items there are, a part touches the rows of K candidates and of its targets.

    The proposal is uniform over the subset and 0 outside, so log-Q is a constant (0) and the softmax is one over the
    subset: popular items are in it more often, and this is not taken back.

    Args:
        num_items: N.
        num_sampled: K.

    Source: Jean et al. 2015, "On using very large target vocabulary for neural machine translation", §3.2, where the
    parts are cut in advance.
    """

    def __init__(self, num_items: int, num_sampled: int) -> None:
        self.num_items = check_size("num_items", num_items)
        self.num_sampled = check_size("num_sampled", num_sampled)
        self._current, self._previous = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (≤ K,): targets of the part, the batch's own first."""
        return first_occurrences(torch.cat([positives.values, self._current, self._previous]), self.num_sampled)[0]

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """0 for every id."""
        return torch.zeros(ids.shape, dtype=torch.float64)

    def learn(self, positives: Ragged) -> None:
        """The batch's targets join the part; a full part becomes the part before."""
        self._current = first_occurrences(torch.cat([positives.values, self._current]), self.num_sampled)[0]
        if len(self._current) == self.num_sampled:
            self._current, self._previous = self._current[:0], self._current

    def state(self) -> dict[str, Tensor]:
        """The subsets of this part and of the one before."""
        return {"current": self._current, "previous": self._previous}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self._current, self._previous = state["current"], state["previous"]
