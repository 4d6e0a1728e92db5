"""The contract of a head, and what all heads have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from xclass.embeddings.interface import Table
from xclass.errors import InputError
from xclass.heads.item_features import FeatureRows
from xclass.losses.interface import even_shares, normalised_weights, sum_by_row
from xclass.sampling import Sampler
from xclass.types import Batch, Ragged, Rows, TopK
from xclass.types.vectors import Vectors

SearchedBy = Literal["vectors", "head", "beam"]


class LogParts(NamedTuple):
    """Of the items of each query's list: log P, on the CPU.

    log_probability: (M,). log_z: (B,) log Σ_i e^{x_i} where log P = x − log Z with a score x of every item; None for a
    head whose probabilities are made otherwise. log_constant: what training makes log Z be near to, for scores without
    a sum; None where nothing does.
    """

    log_probability: Tensor
    log_z: Tensor | None = None
    log_constant: float | None = None


class Asked(NamedTuple):
    """What a search is asked for: see :meth:`Head.topk`."""

    k: int
    exclude: Ragged | None = None
    allowed: Tensor | None = None
    exact: bool = False


class Head(nn.Module, ABC):
    """An output layer over the catalogue.

    A step is cut in two: ``plan`` needs no vectors (it samples, and finds what to mask), so it can be done ahead of
    time; ``loss`` computes on the rows that were pulled.
    """

    searched_by: SearchedBy
    """vectors: items are ranked by an inner product, any index serves. head: its own search, which is exact. beam: its
    own search, which misses some unless it is asked to be exact."""

    num_items: int
    """N."""

    dim: int
    """D of the query vectors."""

    score_scale: float = 1.0
    """log P(i | q) is a score of :meth:`topk` times this, plus a number that depends on the query alone."""

    sampler: Sampler | None = None
    """Where negatives come from; None for a head that draws nothing."""

    @abstractmethod
    def plan(self, batch: Batch, generator: torch.Generator) -> Any:
        """What ``loss`` will need beside vectors, on the CPU; its ``to(device)`` gives it on another device."""

    def check_loaded(self) -> None:
        """InputError when buffers that were read from a file can't be this head's."""

    def plan_part(self, whole: Batch, start: int, stop: int, generator: torch.Generator) -> Any:
        """The plan of the queries ``start … stop-1`` of a batch, drawn as for the whole of it: other processes compute
        the rest. A head that draws says how."""
        assert self.sampler is None, "a head that draws for a batch must draw for the whole batch"
        return self.plan(whole.slice(start, stop), generator)

    @abstractmethod
    def requests(self, batch: Batch, plan: Any) -> dict[str, dict[str, Tensor]]:
        """Table → request → ids of the rows that the loss reads."""

    @abstractmethod
    def loss(self, query_BD: Tensor, batch: Batch, plan: Any, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query times its weight in the batch."""

    def item_vectors(self, tables: dict[str, Table]) -> Vectors | None:
        """(N, D) item vectors, read block by block: their inner product with a query vector ranks items.

        None: not indexable.
        """

    def item_rows_of(self, tables: dict[str, Table]) -> FeatureRows | None:
        """What items are before the last layers, where several tables make it; None where the table "item" has it."""

    @torch.no_grad()
    def topk(
        self,
        query_BD: Tensor,
        k: int,
        tables: dict[str, Table],
        exclude: Ragged | None = None,
        allowed: Tensor | None = None,
        exact: bool = False,
    ) -> TopK:
        """The best k items of each query, equal scores by rising item number; scores rank items of one query.

        Args:
            query_BD: (B, D) query vectors.
            k: items at most.
            tables: the model's.
            exclude: (B) item numbers that each query must not get.
            allowed: int64, distinct rising numbers of the items that anybody may get; None for all.
            exact: miss nothing, where the head's usual search may.
        """
        return self._search(query_BD, tables, Asked(k, exclude, allowed, exact))

    @abstractmethod
    def _search(self, query_BD: Tensor, tables: dict[str, Table], asked: Asked) -> TopK:
        """:meth:`topk`."""

    @abstractmethod
    def log_probability(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> Tensor:
        """(M,) log of the probability of each item of each query's list: over the catalogue they sum to one."""

    def log_parts(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> LogParts:
        """The same, with log Z of each query where probabilities are made from scores of all items."""
        return LogParts(self.log_probability(query_BD, items, tables))


class NoPlan(NamedTuple):
    """There is nothing to draw or to look up beforehand."""

    def to(self, device: torch.device) -> NoPlan:
        """Itself."""
        return self


def targets_of(batch: Batch) -> Ragged:
    """What a training batch is to learn; InputError for an inference batch."""
    if batch.positives is None:
        raise InputError("this batch has no positives", wanted="a training batch", got="an inference batch")
    return batch.positives


def target_shares(batch: Batch, owners: Tensor, like: Tensor) -> Tensor:
    """(P,) what each target counts: its weight over the sum of its query's, times the query's weight in the batch.

    Args:
        owners: int64 (P,), the query of each target.
        like: (P,) of the type and device wanted.
    """
    targets = targets_of(batch)
    if targets.weights is None:
        share = even_shares(targets.offsets, like)
    else:
        share = normalised_weights(owners, len(batch), targets.weights, like)
    return share if batch.weights is None else share * batch.weights[owners].to(share.dtype)


def mean_over_targets(losses: Tensor, batch: Batch, owners: Tensor) -> Tensor:
    """(B,) weighted mean of the (P,) losses of each query's targets, times the query's weight in the batch."""
    return sum_by_row(target_shares(batch, owners, losses.detach()) * losses, owners, len(batch))
