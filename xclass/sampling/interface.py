"""The contract of a sampler and the checks that all of them share."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.types import Negatives, Ragged


class Sampler(Protocol):
    """Draws candidates for a batch.

    ``draw`` and ``log_expected_count`` are the two halves of ``sample``; a mixture is built from them.
    """

    num_items: int
    by_context: bool
    """Where draws depend on the last item of each query's history: ``query_ids`` are those items, −1 for none."""
    adapts: bool
    """The head tells it after each step what the model makes of the candidates: ``tell``."""

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (K,): candidates shared by all queries of the batch; or (B, K), each query's own, −1 for none."""
        ...

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """float64, the shape of ``ids``: log of how often each id is expected in the draw for this batch.

        ids: (K,) shared, (B, K) by query, or (P,) the batch's positives.
        """
        ...

    def sample(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Negatives:
        """Candidates with their log-Q, and the log-Q of the positives; then what it learns from the batch."""
        ...

    def negatives(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Negatives:
        """The same without learning."""
        ...

    def learn(self, positives: Ragged) -> None:
        """Take a batch's positives into account, for samplers that go by what they have seen."""
        ...

    def tell(self, ids: Tensor, log_ratios: Tensor) -> None:
        """What the model makes of a batch's candidates: (b, K) score − log_q for the first queries, and all ids."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it has learned; empty for most."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        ...


class BaseSampler:
    """``sample`` from the two halves, for samplers that learn nothing unless they say so."""

    num_items: int
    by_context = adapts = False

    def sample(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Negatives:
        """Candidates by what is known before the batch; then the batch is learned."""
        check_ids(positives.values, self.num_items)
        drawn = self.negatives(positives, generator, query_ids)
        self.learn(positives)
        return drawn

    def negatives(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Negatives:
        """From the two halves; nothing is learned."""
        sampler = cast(Sampler, self)
        ids = sampler.draw(positives, generator, query_ids)
        log_q = sampler.log_expected_count(ids.clamp(min=0) if ids.dim() == 2 else ids, positives, query_ids)
        return with_positives(sampler, ids, log_q, positives, query_ids)

    def learn(self, positives: Ragged) -> None:
        """Nothing."""

    def tell(self, ids: Tensor, log_ratios: Tensor) -> None:
        """Nothing."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to go on from."""
        if state:
            raise InputError("this sampler has no state", wanted="none", got=", ".join(state))


def with_positives(
    sampler: Sampler, ids: Tensor, log_q: Tensor, positives: Ragged, query_ids: Tensor | None
) -> Negatives:
    """``Negatives`` of candidates with their log-Q; totals are float64, what is returned float32.

    A positive that the sampler can never draw has an expected count of 0; it is given the log-Q of the rarest candidate
    of the sample, so that the loss stays finite. A cell without a candidate (−1) has log-Q 0.
    """
    pos_log_q = sampler.log_expected_count(positives.values, positives, query_ids)
    if len(pos_log_q) and float(pos_log_q.min()) == -torch.inf:
        drawn = log_q[ids >= 0]
        pos_log_q = torch.where(torch.isinf(pos_log_q), drawn.min() if len(drawn) else 0.0, pos_log_q)
    if ids.dim() == 2:
        log_q = torch.where(ids >= 0, log_q, 0.0)
    return Negatives(ids, log_q.float(), pos_log_q.float())


def without_counts(
    sampler: Sampler, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None
) -> Negatives:
    """:meth:`Sampler.sample` for one who reads no log-Q: the same draws, zeros for the logs of counts."""
    check_ids(positives.values, sampler.num_items)
    ids, zero = sampler.draw(positives, generator, query_ids), torch.zeros(1)
    sampler.learn(positives)
    return Negatives(ids, zero.expand(ids.shape), zero.expand(len(positives.values)))


def check_size(name: str, value: int) -> int:
    """``value`` if it is an integer of at least 1, else an InputError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is out of range", wanted="an integer of at least 1", got=repr(value))
    return value


def check_ids(ids: Tensor, num_items: int) -> None:
    """InputError unless every id is an item number."""
    if ids.dtype != torch.int64:
        raise InputError("positives are of the wrong type", wanted="int64 item numbers", got=ids.dtype)
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= num_items):
        wrong = ids[(ids < 0) | (ids >= num_items)][0]
        raise InputError("a positive is no item", wanted=f"0 to {num_items - 1}", got=int(wrong))


def check_state(name: str, values: Tensor, low: float, high: float, length: int | None = None) -> None:
    """InputError unless a tensor that a sampler goes on from holds numbers ``low … high`` (and so many of them)."""
    if length not in (None, len(values)):
        raise InputError(f'"{name}" of this state is of another length', wanted=length, got=len(values))
    if values.numel() and not (low <= values.min().item() and values.max().item() <= high):  # NaN is in no range
        got = f"{values.min().item()} … {values.max().item()}"
        raise InputError(f'"{name}" of this state is out of range', wanted=f"{low} … {high}", got=got)
