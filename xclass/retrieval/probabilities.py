"""Probabilities beside the scores of lists: over all items, or over what a search retrieved.

exact       P(i | q) = e^{s_i} / Σ_{j ≤ N} e^{s_j}, over the whole catalogue: what the output layer was trained to give
retrieved   P'(i | q) = e^{s_i} / Σ_{j ∈ R} e^{s_j}, over the items R that the search retrieved for this query

with s_i = score / temperature for inner products, and log-probabilities as they are. P'(i) = P(i) / P(R): never below
P, and above it by what the items hold that were not retrieved. P(R) is measured on the first queries of a job.

Source: Vijayanarasimhan et al. 2015, "Deep networks with large output spaces", §3: a softmax over what hashes retrieve.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xclass.errors import ConfigError, InputError, lookup
from xclass.models.two_tower import TwoTower
from xclass.types import Batch, Ragged, TopK

WAYS = ("retrieved", "exact")
CHECKED = 64


class Probabilities:
    """What turns scores into probabilities, and what has been measured of their error.

    Args:
        model: two towers; its head gives log-probabilities.
        way: retrieved or exact.
        over: retrieved: how many items the search retrieves at least, the sum goes over them all. None: the list's.

    Raises:
        ConfigError: another word for the way; ``over`` with "exact". InputError: a model without towers.
    """

    def __init__(self, model: object, way: str, over: int | None = None) -> None:
        lookup("way to probabilities", way, dict.fromkeys(WAYS), where="probabilities")
        if not isinstance(model, TwoTower):
            raise InputError(
                "this run has no output layer that gives probabilities", wanted="a run of two towers alone"
            )
        if over is not None and (way == "exact" or over < 1):
            raise ConfigError(
                "the number of items to normalise over goes with probabilities over what was retrieved",
                where="over",
                wanted='at least 1, with "retrieved"',
                got=f'{over}, with "{way}"',
            )
        self._model, self.way, self._over = model, way, over or 0
        self._masses: list[Tensor] = []
        self._left = CHECKED

    def depth(self, k: int) -> int:
        """How many items to search for."""
        return max(k, self._over)

    @property
    def wants_queries(self) -> bool:
        """Whether :meth:`of` reads its batch."""
        return self.way == "exact" or self._left > 0

    @torch.no_grad()
    def normalisers(self, found: TopK, batch: Batch | None) -> Tensor:
        """(B,) log of the sum over what was retrieved. Of the first queries P(R) is noted, which costs O(N·D) each."""
        scale = self._model.head.score_scale
        rows, scores = found.rows(), found.scores.double() * scale
        top = torch.full((len(found),), -torch.inf, dtype=torch.float64)
        full = found.lengths() > 0
        top[full] = scores[found.offsets[:-1][full]]
        total = torch.zeros_like(top).index_add_(0, rows, (scores - top[rows]).exp()).log() + top
        if self.way == "retrieved" and self._left > 0 and batch is not None:
            self._check(found, batch, scores, total)
        return total

    @torch.no_grad()
    def of(self, found: TopK, batch: Batch | None, normalisers: Tensor) -> Tensor:
        """float32, the probability of each row; NaN for a row without a score where it is over the retrieved."""
        if self.way == "retrieved":
            scores = found.scores.double() * self._model.head.score_scale
            return (scores - normalisers[found.rows()]).exp().float()
        assert batch is not None
        vectors = self._model.query_vectors(batch)
        return self._model.log_probability(vectors, Ragged(found.offsets, found.ids)).exp()

    def measured(self) -> dict[str, Any]:
        """The way; of "retrieved" how much of the probability the retrieved items held, by the true normaliser."""
        if self.way == "exact" or not self._masses:
            return {"way": self.way}
        held = torch.cat(self._masses)
        return {
            "way": self.way,
            "checked_queries": len(held),
            "held_mean": float(held.mean()),
            "held_least": float(held.min()),
        }

    def _check(self, found: TopK, batch: Batch, scores: Tensor, total: Tensor) -> None:
        """P(R) = e^{log Σ_R − log Σ_N}; the second sum follows from the probability of the first item."""
        some = (found.lengths() > 0).nonzero().squeeze(1)[: self._left]
        self._left -= len(some)
        first = found.offsets[:-1][some]
        vectors = self._model.query_vectors(batch)[some.to(self._model.device)]
        logs = self._model.log_probability(vectors, Ragged(torch.arange(len(some) + 1), found.ids[first]))
        self._masses.append((total[some] - (scores[first] - logs.double())).exp())
