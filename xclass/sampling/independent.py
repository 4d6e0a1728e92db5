"""Samplers that draw from a distribution over items: with repeats, or until enough items differ."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.distributions.expected_counts import calibrated_tries, inclusion, tensorflow_count
from xclass.sampling.distributions.fixed import Law, LogUniformLaw, UniformLaw
from xclass.sampling.distributions.without_replacement import draw_distinct
from xclass.sampling.interface import BaseSampler, check_size
from xclass.types import Ragged

Counts = Literal["calibrated", "tensorflow"]


class Drawn(BaseSampler):
    """K candidates from a law, shared by the batch or for each query.

    Args:
        law: the distribution.
        num_sampled: K.
        replacement: true: K independent draws, expected count K·p. False: K different items, by drawing one by one
            and rejecting repeats, in order of first draw (frequent items come early).
        counts: of samples without repeats. "calibrated": 1 − (1 − p)^t with the one t that makes the counts of all
            items add up to K. "tensorflow": 1 − (1 − p)^tries with the number of draws that this sample happened to
            take, and p·K where none was rejected; random, and further off.
        per_query: K draws for each query of the batch, its own; with replacement only.

    Cost O(K) a batch, or a query where each has its own, and what a draw from the law costs.

    Source of the counts: TensorFlow's candidate sampling (range_sampler.cc), and for the calibrated ones the expected
    number of distinct items of t draws.
    """

    def __init__(
        self,
        law: Law,
        num_sampled: int,
        replacement: bool = True,
        counts: Counts = "calibrated",
        per_query: bool = False,
    ) -> None:
        self.law, self.num_items = law, law.num_items
        self.num_sampled = check_size("num_sampled", num_sampled)
        if counts not in ("calibrated", "tensorflow"):
            raise InputError("counts is unknown", wanted='"calibrated" or "tensorflow"', got=repr(counts))
        if per_query and not replacement:
            raise InputError("draws for each query repeat", wanted="replacement with per_query", got="no replacement")
        self.replacement, self.counts, self.per_query = replacement, counts, per_query
        if not replacement and num_sampled > law.num_drawable:
            raise InputError(
                "more different items are wanted than can be drawn",
                wanted=f"num_sampled ≤ {law.num_drawable}, the items with a positive weight",
                got=num_sampled,
                do="sample fewer, or with replacement",
            )
        self._tries = float(num_sampled) if replacement else calibrated_tries(law.bins(), num_sampled)
        self._last_tries = self._tries

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (K,), or (B, K) for each query."""
        if self.per_query:
            return self.law.draw(len(positives) * self.num_sampled, generator).view(-1, self.num_sampled)
        if self.replacement:
            return self.law.draw(self.num_sampled, generator)
        ids, self._last_tries = draw_distinct(self.law, self.num_sampled, generator, self._tries)
        return ids

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """Log of K·p, or of the probability to be in the sample."""
        return self.expected_count(ids).log_()

    def expected_count(self, ids: Tensor) -> Tensor:
        """float64, the shape of ``ids``; with ``counts="tensorflow"`` for the last draw."""
        p = self.law.probability(ids)
        if self.replacement:
            return p.mul_(self.num_sampled)
        if self.counts == "tensorflow":
            return tensorflow_count(p, self.num_sampled, self._last_tries)
        return torch.where(p > 0, 1.0, 0.0).double() if math.isinf(self._tries) else inclusion(p, self._tries)


class Uniform(Drawn):
    """Any item with probability 1/N: log_q = log(K / N), with repeats or without. Nothing is stored."""

    def __init__(
        self,
        num_items: int,
        num_sampled: int,
        replacement: bool = True,
        counts: Counts = "calibrated",
        per_query: bool = False,
    ) -> None:
        super().__init__(UniformLaw(num_items), num_sampled, replacement, counts, per_query)


class LogUniform(Drawn):
    """Item c with probability log((c+2)/(c+1)) / log(N+1): close to Zipf's law. Nothing is stored.

    Right only for items numbered by falling frequency, as every dataset of this toolkit numbers them.
    """

    def __init__(
        self,
        num_items: int,
        num_sampled: int,
        replacement: bool = True,
        counts: Counts = "calibrated",
        per_query: bool = False,
    ) -> None:
        super().__init__(LogUniformLaw(num_items), num_sampled, replacement, counts, per_query)
