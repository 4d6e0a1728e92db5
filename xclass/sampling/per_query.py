"""Candidates of each query's own: lists that the problem supplies, or that an index found hard."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.interface import BaseSampler, check_size
from xclass.types import Ragged


class GivenCandidates(BaseSampler):
    """For each query its own list of candidates, any number of them: ranking within a list.

    Args:
        candidates: Ragged by query number (num_queries lists), int64 item numbers, each at most once in a list.
        num_items: N.
        num_sampled: so many of each list, drawn anew for every batch without repeats; 0 for all of them.

    The candidates of a batch are (B, K), K the longest list of the batch and at least 1, −1 where a list is shorter: a
    query without candidates has no negatives, which every loss takes. An item of the
    list has the expected count m/L when m of its L items are drawn, else 1. Cost O(candidates of the batch).
    """

    def __init__(self, candidates: Ragged, num_items: int, num_sampled: int = 0) -> None:
        self.num_items = check_size("num_items", num_items)
        self.num_sampled = num_sampled
        self.replace(candidates)

    def replace(self, candidates: Ragged) -> None:
        """Other lists, for the same queries."""
        values = candidates.values
        if len(values) and (int(values.min()) < 0 or int(values.max()) >= self.num_items):
            wrong = int(values[(values < 0) | (values >= self.num_items)][0])
            raise InputError("a candidate is no item", wanted=f"0 to {self.num_items - 1}", got=wrong)
        self.candidates = candidates

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (B, K), −1 where a list is shorter."""
        lists = self._lists(query_ids, len(positives))
        if self.num_sampled:
            lists = _some_of_each(lists, self.num_sampled, generator)
        lengths = lists.lengths()
        longest = int(lengths.max()) if len(lengths) else 0
        padded = torch.full((len(lists), max(longest, 1)), -1, dtype=torch.int64)
        padded[torch.arange(padded.shape[1]) < lengths.unsqueeze(1)] = lists.values.long()
        return padded

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """0 for an item of the query's list, log(m/L) when m of L are drawn, −∞ for others."""
        lists = self._lists(query_ids, len(positives))
        rows = positives.rows() if ids.dim() == 1 else torch.arange(len(ids)).unsqueeze(1).expand(ids.shape)
        keys = (lists.rows() * self.num_items + lists.values).sort().values
        asked = rows * self.num_items + ids
        place = torch.searchsorted(keys, asked).clamp_(max=max(len(keys) - 1, 0))
        there = keys[place] == asked if len(keys) else torch.zeros_like(asked, dtype=torch.bool)
        return torch.where(there, self._log_share(lists)[rows], -torch.inf)

    def cells(self, ids: Tensor, num_queries: int, query_ids: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, columns, counts): where ``ids`` (K,) are in the queries' lists, with their expected counts there.

        Cost O(M log K + cells) for M candidates of the batch: never B × K.
        """
        lists = self._lists(query_ids, num_queries)
        ordered, order = torch.sort(ids, stable=True)
        low = torch.searchsorted(ordered, lists.values)
        copies = torch.searchsorted(ordered, lists.values, right=True) - low
        rows = torch.repeat_interleave(lists.rows(), copies)
        starts = torch.repeat_interleave(low - (copies.cumsum(0) - copies), copies)
        return rows, order[starts + torch.arange(len(starts))], self._log_share(lists).exp_()[rows]

    def _log_share(self, lists: Ragged) -> Tensor:
        """float64 (B,): log of the expected count of an item of each list."""
        if not self.num_sampled:
            return torch.zeros(len(lists), dtype=torch.float64)
        return (self.num_sampled / lists.lengths().clamp(min=1).double()).clamp_(max=1.0).log_()

    def _lists(self, query_ids: Tensor | None, num_queries: int) -> Ragged:
        if query_ids is None or len(query_ids) != num_queries:
            raise InputError(
                "candidates by query need the numbers of the batch's queries",
                wanted=f"query_ids of {num_queries} queries",
                got="none" if query_ids is None else len(query_ids),
            )
        if len(query_ids) and (int(query_ids.min()) < 0 or int(query_ids.max()) >= len(self.candidates)):
            raise InputError(
                "a query has no list of candidates",
                wanted=f"query numbers from 0 to {len(self.candidates) - 1}",
                got=f"{int(query_ids.min())} to {int(query_ids.max())}",
            )
        return self.candidates.take(query_ids).long()


class HardNegatives(GivenCandidates):
    """The items that an index ranks highest for each query and that are no positives of it.

    Args:
        num_queries, num_items: sizes.
        num_sampled: so many of a query's hard items for each batch; 0 for all.

    Until :meth:`mined` has been called the lists are empty. In a mixture with shared candidates the expected counts add
    up, so that a hard item counts once for being hard and K/N times for being drawn.
    """

    def __init__(self, num_queries: int, num_items: int, num_sampled: int = 0) -> None:
        nothing = Ragged(torch.zeros(num_queries + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        super().__init__(nothing, num_items, num_sampled)

    def mined(self, found: Ragged, known: Ragged) -> None:
        """New lists: what was found for each query, less every known positive of it.

        Args:
            found: Ragged by query number, best first.
            known: Ragged by query number; never a negative.
        """
        self.replace(without(found, known, self.num_items))

    def state(self) -> dict[str, Tensor]:
        """The lists."""
        return {"offsets": self.candidates.offsets, "values": self.candidates.values}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The lists as they were."""
        self.replace(Ragged(state["offsets"], state["values"]))


def without(lists: Ragged, excluded: Ragged, num_items: int) -> Ragged:
    """List by list, the values that the other does not hold.

    >>> without(Ragged.from_lists([[3, 1], [2]]), Ragged.from_lists([[1], [5]]), 6).to_lists()
    [[3], [2]]
    """
    keys = (excluded.rows() * num_items + excluded.values).sort().values
    asked = lists.rows() * num_items + lists.values
    if not len(keys):
        return lists
    place = torch.searchsorted(keys, asked).clamp_(max=len(keys) - 1)
    return lists.filter(keys[place] != asked)


def _some_of_each(lists: Ragged, number: int, generator: torch.Generator) -> Ragged:
    """``number`` of each list's values, uniformly, without repeats: those with the lowest random keys."""
    rows = lists.rows()
    keys = rows + torch.rand(len(rows), generator=generator, dtype=torch.float64)
    shuffled = Ragged(lists.offsets, lists.values[torch.argsort(keys)])
    places = torch.arange(len(rows)) - lists.offsets[rows]
    return shuffled.filter(places < number)
