"""Scores of several scorers added up: s(item) = Σ_c weight_c · s_c(item), over what any of them suggests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from xclass.metrics import MetricName, average, compute
from xclass.scorers.linear import LinearScorer
from xclass.scorers.neighbours import NeighboursScorer
from xclass.scorers.reference import Rows
from xclass.types import Ragged, TopK, offsets_of

GRID = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ROUNDS = 2


ScoreLists = Callable[[Ragged], Tensor]


class Suggestions:
    """What several scorers say of a batch: the union of their candidates with a column of scores for each.

    lists: Ragged (B), items rising within a query, without weights. scores: name → float32, one for each value.
    """

    def __init__(self, lists: Ragged, scores: dict[str, Tensor]) -> None:
        self.lists, self.scores = lists, scores

    def top(self, weights: Mapping[str, float], k: int) -> TopK:
        """The k best of each query by the weighted sum; equal sums: the lower item number."""
        total = torch.zeros(len(self.lists.values))
        for name, scores in self.scores.items():
            total += weights[name] * scores
        return best_of_lists(Ragged(self.lists.offsets, self.lists.values, total), k)


class Fusion:
    """Scorers of sparse features side by side.

    Args:
        linear, neighbours: None where a run does without.
        shortlist: how many items a scorer of all items suggests.
        num_items: N.
    """

    def __init__(
        self, linear: LinearScorer | None, neighbours: NeighboursScorer | None, shortlist: int, num_items: int
    ) -> None:
        self.linear, self.neighbours, self.shortlist, self.num_items = linear, neighbours, shortlist, num_items

    def suggest(
        self,
        features: Ragged,
        most: int = 0,
        allowed: Tensor | None = None,
        among: Ragged | None = None,
        towers: tuple[Ragged, ScoreLists] | None = None,
    ) -> Suggestions:
        """Candidates of a batch with every scorer's score of each of them.

        Args:
            features: (B) sparse features.
            most: items that a scorer of all items suggests at least.
            allowed: bool (N,), nothing else is suggested.
            among: each query's own candidates, which then are the suggestions.
            towers: candidates of the towers and what scores lists by them.
        """
        most = max(self.shortlist, most)
        voted = None if self.neighbours is None else self.neighbours.candidates(features)
        queries = None if self.linear is None else self.linear.queries(features)
        all_items = self.linear is not None and self.linear.config.search == "all" and among is None
        parts = [] if voted is None else [voted if all_items else best_weighed(voted, most)]
        parts += [] if towers is None else [towers[0]]
        scored: list[Ragged] = []
        if all_items and self.linear is not None and queries is not None:
            scored = self._of_all_items(queries, most, allowed, self._union(parts, None) if parts else None)
            parts.append(scored[0])
        lists = self._union(parts, allowed) if among is None else self._union([among], allowed)
        scores: dict[str, Tensor] = {}
        if self.linear is not None and queries is not None:
            scores["linear"] = self._combined(scored, lists) if scored else self.linear.scores(queries, lists)
        if voted is not None:
            scores["neighbours"] = self._found(voted, lists)
        if towers is not None:
            scores["towers"] = towers[1](lists)
        return Suggestions(lists, scores)

    def _union(self, parts: Sequence[Ragged], allowed: Tensor | None) -> Ragged:
        keys = torch.cat([part.rows() * self.num_items + part.values for part in parts]).unique()
        rows = torch.div(keys, self.num_items, rounding_mode="floor")
        values = keys - rows * self.num_items
        if allowed is not None:
            rows, values = rows[allowed[values]], values[allowed[values]]
        return Ragged(offsets_of(torch.bincount(rows, minlength=len(parts[0]))), values)

    def _of_all_items(self, queries: Rows, most: int, allowed: Tensor | None, suggested: Ragged | None) -> list[Ragged]:
        """The best items by linear score, and what others suggest, both with linear scores."""
        assert self.linear is not None
        best, answers = self.linear.candidates(queries, most, allowed, suggested)
        return [best] if suggested is None else [best, Ragged(suggested.offsets, suggested.values, answers)]

    def _combined(self, parts: Sequence[Ragged], lists: Ragged) -> Tensor:
        """Scores of the lists' items, each from the part that has it."""
        scores = self._found(parts[0], lists)
        for part in parts[1:]:
            found = self._found(part, lists, torch.nan)
            scores = torch.where(found.isnan(), scores, found)
        return scores

    def _found(self, part: Ragged, lists: Ragged, without: float = 0.0) -> Tensor:
        """The part's score of each of the lists' items, ``without`` where it has none."""
        assert part.weights is not None
        scores = torch.full((len(lists.values),), without)
        if len(scores) and len(part.values):
            keys = lists.rows() * self.num_items + lists.values
            own = part.rows() * self.num_items + part.values
            places = torch.searchsorted(keys, own).clamp(max=len(keys) - 1)
            there = keys[places] == own
            scores[places[there]] = part.weights[there]
        return scores


def best_weighed(lists: Ragged, most: int) -> Ragged:
    """Of each list the ``most`` values of the largest weights; equal weights: the one that comes first."""
    found = best_of_lists(lists, most)
    return Ragged(found.offsets, found.ids, found.scores)


def best_of_lists(lists: Ragged, k: int) -> TopK:
    """The k values of the largest weights of each list, best first; equal weights: the lower value.

    Values rise within a list.
    """
    assert lists.weights is not None
    order = torch.argsort(lists.weights, descending=True, stable=True)
    order = order[torch.argsort(lists.rows()[order], stable=True)]
    found = TopK(lists.offsets, lists.values[order].long(), lists.weights[order])
    return found.head(k)


def choose_weights(
    suggestions: Sequence[Suggestions], truth: Ragged, cut_offs: Sequence[int] = (1, 3, 5)
) -> tuple[dict[str, float], float]:
    """Weights by coordinate search, and the value that they reach: the mean of precision at the cut-offs.

    The scorer that is best alone has weight 1; the others' are 0 or powers of two. Of weights that reach the same the
    first tried is kept.

    Args:
        suggestions: batch after batch.
        truth: the items of all queries of all batches, in order.
    """
    names = list(suggestions[0].scores)
    alone = [{name: float(name == first) for name in names} for first in names]
    reached_alone = [precision(suggestions, truth, each, cut_offs) for each in alone]
    best = max(reached_alone)
    weights = alone[reached_alone.index(best)]
    others = [name for name in names if not weights[name]]
    for name in others * ROUNDS:
        for value in GRID:
            tried = {**weights, name: value}
            reached = precision(suggestions, truth, tried, cut_offs)
            if reached > best:
                weights, best = tried, reached
    return weights, best


def precision(
    suggestions: Sequence[Suggestions], truth: Ragged, weights: Mapping[str, float], cut_offs: Sequence[int]
) -> float:
    """Mean over the cut-offs and the queries of hits / k, as evaluation counts them: ties against the positive."""
    found = TopK.concat([part.top(weights, max(cut_offs)) for part in suggestions])
    metrics = [MetricName("precision", k) for k in cut_offs]
    means = average(compute(found, truth, metrics))
    return sum(means[str(metric)] for metric in metrics) / len(metrics)
