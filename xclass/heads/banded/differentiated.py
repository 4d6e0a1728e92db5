"""Differentiated softmax: frequent items have long vectors, rare items short ones, over parts of the query's vector.

Source: Chen, Grangier & Auli 2016, "Strategies for training large vocabulary neural language models", §2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from xclass.embeddings.interface import Table
from xclass.errors import InputError
from xclass.heads.banded.bands import allowed_within, within
from xclass.heads.interface import Asked, Head, LogParts, NoPlan, SearchedBy, mean_over_targets, targets_of
from xclass.heads.item_vectors import BlockVectors, TableRows
from xclass.heads.log_sum_exp import log_sum, table_log_sum
from xclass.index.exact import ExactIndex, empty_topk, search_bands
from xclass.index.filtering import Allowed
from xclass.index.merge import merged
from xclass.index.rows import exact_among
from xclass.types import Batch, Ragged, Rows, TopK
from xclass.types.vectors import Vectors

ALL = "all"


class DifferentiatedHead(Head):
    """A softmax over all items whose vectors are the blocks of a block-diagonal matrix.

    Items are cut into bands by frequency; band k has vectors of d_k dimensions (table "band<k>") and reads the k-th
    part of the query's vector: x_i = ⟨q_(k), w_i⟩ / temperature. The loss of a query is the weighted mean over its
    targets of log Σ_j e^{x_j} − x_i. Nothing is sampled.

    Args:
        edges: the first item of each band, and N.
        dims: dimensions of each band; D is their sum.
        temperature: scores are divided by it.

    Cost of a step, and of a search: B · Σ_k N_k · d_k where one length would cost B · N · D; every row is touched.
    """

    searched_by: SearchedBy = "head"

    def __init__(self, edges: Sequence[int], dims: Sequence[int], temperature: float = 1.0) -> None:
        super().__init__()
        if len(edges) != len(dims) + 1 or not temperature > 0:
            raise InputError("there is one dimension for each band", wanted=len(edges) - 1, got=len(dims))
        self.edges, self.dims, self.temperature = list(edges), list(dims), temperature
        self.num_items, self.dim, self.score_scale = edges[-1], sum(dims), 1.0 / temperature

    def plan(self, batch: Batch, generator: torch.Generator) -> NoPlan:
        """Nothing."""
        return NoPlan()

    def requests(self, batch: Batch, plan: NoPlan) -> dict[str, dict[str, Tensor]]:
        """Every row."""
        sizes = [high - low for low, high in pairwise(self.edges)]
        return {f"band{number}": {ALL: torch.arange(size)} for number, size in enumerate(sizes)}

    def loss(self, query_BD: Tensor, batch: Batch, plan: NoPlan, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query times its weight in the batch."""
        positives = targets_of(batch)
        parts, bands = self._parts(query_BD), [rows[f"band{number}"].values for number in range(len(self.dims))]
        total = torch.stack([log_sum(*pair) for pair in zip(parts, bands, strict=True)]).logsumexp(0)
        owners = positives.rows()
        losses = total[owners] - self._scores(parts, bands, owners, positives.values)
        return mean_over_targets(losses, batch, owners)

    def item_vectors(self, tables: dict[str, Table]) -> Vectors:
        """(N, D): each band's rows at their place among zeros, so that any index serves."""
        return BlockVectors([tables[f"band{number}"] for number in range(len(self.dims))], self.edges)

    def _search(self, query_BD: Tensor, tables: dict[str, Table], asked: Asked) -> TopK:
        """By inner product, band by band, exactly."""
        k, exclude, allowed, _ = asked
        parts = self._parts(query_BD, scaled=False)
        held = [tables[f"band{number}"] for number in range(len(parts))]
        bands = [(part, TableRows(table, 0, table.num_rows)) for part, table in zip(parts, held, strict=True)]
        if allowed is None:
            return search_bands(bands, k, exclude)
        found = [empty_topk(len(query_BD))]
        for (part, rows), (low, high) in zip(bands, pairwise(self.edges), strict=True):
            mine = band_topk(rows, part, k, within(exclude, low, high), allowed_within(allowed, low, high))
            found.append(TopK(mine.offsets, mine.ids + low, mine.scores))
        return merged(found, k)

    @torch.no_grad()
    def log_probability(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> Tensor:
        """(M,) score / temperature less the log of the sum over the catalogue. Cost B · Σ_k N_k · d_k."""
        return self.log_parts(query_BD, items, tables).log_probability

    @torch.no_grad()
    def log_parts(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> LogParts:
        """The same with log Z of each query: of score / temperature over the catalogue."""
        held = [tables[f"band{number}"] for number in range(len(self.dims))]
        parts = self._parts(query_BD.to(held[0].device).float())
        sums = [table_log_sum(part, table) for part, table in zip(parts, held, strict=True)]
        owners, values = items.rows().to(held[0].device), items.values.long().to(held[0].device)
        log_z = torch.stack(sums).logsumexp(0)
        found = log_z[owners].neg_()
        for number, (low, high) in enumerate(pairwise(self.edges)):
            mine = ((values >= low) & (values < high)).nonzero().squeeze(1)
            for some in mine.split(1 << 16):
                found[some] += torch.linalg.vecdot(parts[number][owners[some]], held[number].pull(values[some] - low))
        return LogParts(found.cpu(), log_z.cpu())

    def _parts(self, query_BD: Tensor, scaled: bool = True) -> tuple[Tensor, ...]:
        return (query_BD / self.temperature if scaled else query_BD).split(self.dims, dim=1)

    def _scores(self, parts: Sequence[Tensor], bands: Sequence[Tensor], owners: Tensor, items: Tensor) -> Tensor:
        """(P,) x_i of each target."""
        scores = parts[0].new_zeros(len(items))
        for part, rows, (low, high) in zip(parts, bands, pairwise(self.edges), strict=True):
            mine = ((items >= low) & (items < high)).nonzero().squeeze(1)
            each = torch.linalg.vecdot(part[owners[mine]], rows[items[mine] - low])
            scores = scores.index_add(0, mine, each)
        return scores


def band_topk(rows: TableRows, query_BD: Tensor, k: int, exclude: Ragged | None, allowed: Tensor | None) -> TopK:
    """The best k rows for each query by inner product; ``allowed`` and ``exclude`` are row numbers."""
    if allowed is not None and not len(allowed):
        return empty_topk(len(query_BD))
    if allowed is not None:
        return exact_among(rows, Allowed(allowed, len(rows))).search(query_BD, k, exclude)
    index = ExactIndex()
    index.build(rows)
    return index.search(query_BD, k, exclude)
