"""The contract of a sampler and the checks that all of them share."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.types import Negatives, Ragged


class Sampler(Protocol):
    """Draws candidates for a batch.

    ``draw`` and ``log_expected_count`` are the two halves of ``sample``; a mixture is built from them.
    """

    num_items: int

    def draw(self, positives: Ragged, generator: torch.Generator) -> Tensor:
        """int64 (K,): the candidates, shared by all queries of the batch."""
        ...

    def log_expected_count(self, ids: Tensor, positives: Ragged) -> Tensor:
        """float64, the shape of ``ids``: log of how often each id is expected in one draw for this batch."""
        ...

    def sample(self, positives: Ragged, generator: torch.Generator) -> Negatives:
        """Candidates with their log-Q, and the log-Q of the positives."""
        ...


def negatives_from(sampler: Sampler, positives: Ragged, generator: torch.Generator) -> Negatives:
    """``Negatives`` from the two halves of a sampler; totals are float64, what is returned float32.

    A positive that the sampler can never draw has an expected count of 0; it is given the log-Q of the rarest candidate
    of the sample, so that the loss stays finite.
    """
    ids = sampler.draw(positives, generator)
    log_q = sampler.log_expected_count(ids, positives)
    pos_log_q = sampler.log_expected_count(positives.values, positives)
    if len(ids):
        pos_log_q = torch.where(torch.isinf(pos_log_q), log_q.min(), pos_log_q)
    return Negatives(ids, log_q.float(), pos_log_q.float())


def check_size(name: str, value: int) -> int:
    """``value`` if it is an integer of at least 1, else an InputError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is out of range", wanted="an integer of at least 1", got=repr(value))
    return value
