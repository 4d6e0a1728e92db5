"""Target sampling: one candidate subset for each partition of the training data."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.distributions.expected_counts import calibrated_tries, inclusion
from xclass.sampling.distributions.fixed import Bins
from xclass.sampling.distributions.without_replacement import first_occurrences
from xclass.sampling.interface import BaseSampler, check_size, check_state
from xclass.types import Ragged


class TargetSampling(BaseSampler):
    """The different targets of the current part of the training data are the candidates.

    The batches are cut into parts as they come: a part ends when it has K different targets. A batch's candidates
    are the different targets of the part so far, its own among them, and of the part before it, K at most, latest
    first.
    However many items there are, a part touches the rows of K candidates and of its targets.

    As published the proposal is uniform over the subset and 0 outside, so log-Q is a constant (0) and the softmax is
    one over the subset: popular items are in it more often, and this is not taken back. A rare item is then a negative
    so seldom that its score hardly falls, and probabilities are the worse the larger the catalogue. With ``counts`` it
    is taken back: where train pairs come in a random order, n different targets are a sample without repeats from their
    frequencies f, and item i is among them with a chance of about 1 − (1 − f_i)^t, t such that these add up to n.

    Args:
        num_items: N.
        num_sampled: K.
        counts: (N,) train pairs of each item, for that log-Q; an item that never occurs counts as one occurrence. None
            for a constant.

    Source: Jean et al. 2015, "On using very large target vocabulary for neural machine translation", §3.2, where the
    parts are cut in advance.
    """

    def __init__(self, num_items: int, num_sampled: int, counts: Tensor | None = None) -> None:
        self.num_items = check_size("num_items", num_items)
        self.num_sampled = check_size("num_sampled", num_sampled)
        if counts is not None and counts.shape != (num_items,):
            raise InputError("these counts are of other items", wanted=f"({num_items},)", got=tuple(counts.shape))
        self._counts = counts
        self._total = max(float(counts.double().sum()), 1.0) if counts is not None else 1.0
        self._bins = None if counts is None else self._binned(counts)
        self._tries = dict[int, float]()  # by the number of different targets; few numbers come up but K
        self._current, self._previous = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (≤ K,): targets of the part, the batch's own first."""
        return self._candidates(positives)

    def _candidates(self, positives: Ragged) -> Tensor:
        return first_occurrences(torch.cat([positives.values, self._current, self._previous]), self.num_sampled)[0]

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """0 for every id; with counts log(1 − (1 − f)^t)."""
        if self._counts is None:
            return torch.zeros(ids.shape, dtype=torch.float64)
        found = self._counts.index_select(0, ids.reshape(-1)).view(ids.shape).double().clamp_(min=1)
        tries = self._tries_for(len(self._candidates(positives)))
        return inclusion(found.div_(self._total).clamp_(max=1 - 2.0**-53), tries).log_()

    def _tries_for(self, number: int) -> float:
        """How many targets it takes until so many of them differ."""
        if number not in self._tries:
            assert self._bins is not None
            self._tries[number] = calibrated_tries(self._bins, number)
        return self._tries[number]

    def _binned(self, counts: Tensor) -> Bins:
        """Items of one frequency together: one pass over the catalogue, before training."""
        values, times = counts.unique(return_counts=True)
        return Bins(values.double() / self._total, times.double())

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
        for name in ("current", "previous"):
            check_state(name, state[name], 0, self.num_items - 1)
        self._current, self._previous = state["current"], state["previous"]
