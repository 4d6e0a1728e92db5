"""The n-gram tower's source: the last items before a position, each by its place."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from xclass.errors import ConfigError
from xclass.towers.config import ContextConfig, QueryTowerConfig
from xclass.towers.query import HistorySource
from xclass.types import Batch, Ragged, Rows, offsets_of


class ContextSource(nn.Module):
    """b + Σ_j C_j r_j over the last L items of the history: r_1 is the vector of the last item, r_2 of the one before.

    Where the history is shorter, r_j is a learned vector that stands for what is before its start.

    * weighted: C_j = diag(c_j), a weight for each place and dimension; L·D parameters. Source: Mnih & Kavukcuoglu 2013,
      "Learning word embeddings efficiently with noise-contrastive estimation", eq. 4.
    * concat: C_j are full matrices, which is a linear layer over the concatenated vectors; L·D² parameters. Source:
      Bengio et al. 2003, "A neural probabilistic language model", §2; Mnih & Hinton 2007, eq. 4.

    Args:
        table: where the item vectors are: "history" (its own) or "item" (shared with the head).
        dim: D.
        length: L.
        mode: what C_j are.
        generator: of the matrices' first values. Weights of places start at 1/√L.

    Cost O(B·L·D), of concat O(B·L·D²).
    """

    request = HistorySource.request

    def __init__(
        self, table: str, dim: int, length: int, mode: Literal["weighted", "concat"], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.table, self.length, self.mode = table, length, mode
        self.start, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        if mode == "weighted":
            self.places = nn.Parameter(torch.full((length, dim), length**-0.5))
        else:
            matrix = torch.empty(length * dim, dim)
            self.places = nn.Parameter(nn.init.normal_(matrix, std=(length * dim) ** -0.5, generator=generator))

    def ids(self, batch: Batch) -> Tensor:
        """int64 (M,): the last L items of every history."""
        return last_items(batch.history, self.length).values

    def forward(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, D)."""
        lists = last_items(batch.history, self.length)
        owners = lists.rows()
        places = lists.offsets[1:][owners] - 1 - torch.arange(len(owners), device=owners.device)
        dtype = rows.values.dtype
        vectors = self.start.to(dtype).expand(len(batch), self.length, -1)
        vectors = vectors.index_put((owners, places), rows.of(self.request))
        if self.mode == "weighted":
            return (vectors * self.places).sum(1) + self.bias
        return vectors.flatten(1) @ self.places + self.bias


def last_items(lists: Ragged, length: int) -> Ragged:
    """The last ``length`` values of every list, in order; weights are dropped.

    >>> last_items(Ragged.from_lists([[1, 2, 3], [], [4]]), 2).to_lists()
    [[2, 3], [], [4]]
    """
    lengths = lists.lengths()
    if not len(lists.values) or int(lengths.max()) <= length:
        return Ragged(lists.offsets, lists.values)
    ends = torch.repeat_interleave(lists.offsets[1:], lengths, output_size=len(lists.values))
    keep = ends - torch.arange(len(lists.values), device=ends.device) <= length
    return Ragged(offsets_of(lengths.clamp(max=length)), lists.values[keep])


def check_positions(config: QueryTowerConfig, init: str) -> None:
    """ConfigError when this tower, or this start, is for queries that are met again."""
    if "id" in config.parts:
        do = 'choose the kind "context" or "history"'
        raise ConfigError("a position of a text is met only once", where="model.query.kind", got=config.kind, do=do)
    if init != "random":
        where = "model.init"
        raise ConfigError("positions of a text have no such start", where=where, wanted="random", got=init)


def context_source(
    config: ContextConfig, given: int | None, table: str, dim: int, generator: torch.Generator
) -> ContextSource:
    """The source that a configuration describes.

    Args:
        given: how many items before a position the data has; None where its histories have no order.

    Raises:
        ConfigError: there is no order, or fewer items than ``config.length``.
    """
    if given is None:
        raise ConfigError(
            "this dataset's histories are not in order",
            where="model.query.kind",
            wanted="positions of a text, as xclass ingest --format text makes them",
            got="context",
            do='choose the kind "history"',
        )
    if config.length > given:
        raise ConfigError(
            "a history of this dataset is not that long",
            where="model.query.context.length",
            wanted=f"{given} at most",
            got=config.length,
            do="ingest with a larger --context",
        )
    return ContextSource(table, dim, config.length or given, config.mode, generator)
