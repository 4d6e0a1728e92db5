"""Adaptive softmax: frequent items and a few clusters in one softmax, rare items in a softmax of their cluster.

Source: Grave et al. 2017, "Efficient softmax approximation for GPUs", §4; names as torch.nn.AdaptiveLogSoftmaxWithLoss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xclass.embeddings.interface import Table
from xclass.errors import InputError
from xclass.heads.banded.bands import allowed_within, within
from xclass.heads.banded.differentiated import ALL, band_topk
from xclass.heads.interface import Asked, Head, NoPlan, SearchedBy, mean_over_targets, targets_of
from xclass.heads.item_vectors import TableRows
from xclass.heads.log_sum_exp import log_sum, table_log_sum
from xclass.index.merge import merged
from xclass.types import Batch, Ragged, Rows, TopK, offsets_of

SHORTLIST = "shortlist"


class AdaptiveHead(Head):
    """Two levels: log P(i) = log P(i | shortlist and clusters), or log P(cluster) + log P(i | cluster).

    The first band is the shortlist: its items and one row for each cluster are in table "shortlist", D dimensions. The
    items of cluster c are in table "tail<c>", d_c dimensions, and read the query's projection P_c q, a dense layer.

    Args:
        edges: the first item of each band, and N.
        dim: D.
        dims: d_c of each cluster.
        temperature: scores of both levels are divided by it.
        generator: of the projections' first weights.

    Cost of a step: B · (N_0 + clusters) · D, and for each cluster its rows times the queries with a target in it.
    """

    searched_by: SearchedBy = "head"

    def __init__(
        self, edges: Sequence[int], dim: int, dims: Sequence[int], temperature: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        if len(edges) != len(dims) + 2 or not temperature > 0:
            raise InputError("there is one dimension for each cluster", wanted=len(edges) - 2, got=len(dims))
        self.edges, self.dims, self.temperature = list(edges), list(dims), temperature
        self.num_items, self.dim = edges[-1], dim
        layers = [nn.Linear(dim, each, bias=False) for each in dims]
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        self.projections = nn.ModuleList(layers)

    def plan(self, batch: Batch, generator: torch.Generator) -> NoPlan:
        """Nothing."""
        return NoPlan()

    def requests(self, batch: Batch, plan: NoPlan) -> dict[str, dict[str, Tensor]]:
        """All rows of the shortlist, and of the clusters with a target."""
        wanted = {SHORTLIST: {ALL: torch.arange(self.edges[1] + len(self.dims))}}
        bands = self._bands(targets_of(batch).values)
        for cluster in (torch.unique(bands[bands > 0]) - 1).tolist():
            low, high = self.edges[cluster + 1 : cluster + 3]
            wanted[f"tail{cluster}"] = {ALL: torch.arange(high - low)}
        return wanted

    def loss(self, query_BD: Tensor, batch: Batch, plan: NoPlan, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query times its weight in the batch."""
        positives, scaled = targets_of(batch), query_BD / self.temperature
        owners, items, shortlist = positives.rows(), positives.values, rows[SHORTLIST].values
        bands = self._bands(items)
        chosen = torch.linalg.vecdot(scaled[owners], shortlist[self._entries(items, bands)])
        losses = log_sum(scaled, shortlist)[owners] - chosen
        for cluster, projection in enumerate(self.projections):
            mine = (bands == cluster + 1).nonzero().squeeze(1)
            if len(mine):
                queries, which = torch.unique(owners[mine], return_inverse=True)
                inside, tail = projection(scaled[queries]), rows[f"tail{cluster}"].values
                scores = torch.linalg.vecdot(inside[which], tail[items[mine] - self.edges[cluster + 1]])
                losses = losses.index_add(0, mine, log_sum(inside, tail)[which] - scores)
        return mean_over_targets(losses, batch, owners)

    def _search(self, query_BD: Tensor, tables: dict[str, Table], asked: Asked) -> TopK:
        """Exactly; scores are log-probabilities.

        A cluster's probability bounds its items': it is searched for the queries only whose list it can still enter.
        """
        scaled = (query_BD.to(tables[SHORTLIST].device) / self.temperature).float()
        size, (k, exclude, allowed, _) = self.edges[1], asked
        clusters, total = self._cluster_scores(scaled, tables)
        items = TableRows(tables[SHORTLIST], 0, size)
        first = band_topk(items, scaled, k, within(exclude, 0, size), allowed_within(allowed, 0, size))
        found = TopK(first.offsets, first.ids, first.scores - total.cpu()[first.rows()])
        for cluster in range(len(self.dims)):
            low, high = self.edges[cluster + 1 : cluster + 3]
            some = (clusters[:, cluster].cpu() >= _last_scores(found, k)).nonzero().squeeze(1)
            if not len(some):
                continue
            hidden, free = within(exclude, low, high), allowed_within(allowed, low, high)
            inside, table = self.projections[cluster](scaled[some.to(scaled.device)]), tables[f"tail{cluster}"]
            mine = band_topk(
                TableRows(table, 0, high - low), inside, k, None if hidden is None else hidden.take(some), free
            )
            constant = (clusters[some.to(clusters.device), cluster] - table_log_sum(inside, table)).cpu()
            lengths = torch.zeros(len(query_BD), dtype=torch.int64).index_copy_(0, some, mine.lengths())
            more = TopK(offsets_of(lengths), mine.ids + low, mine.scores + constant[mine.rows()])
            found = merged([found, more], k)
        return found

    @torch.no_grad()
    def log_probability(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> Tensor:
        """(M,). Cost: the shortlist for every query, a cluster for the queries that ask for one of its items."""
        device = tables[SHORTLIST].device
        scaled, owners, values = (query_BD.to(device) / self.temperature).float(), items.rows(), items.values.long()
        bands, found = self._bands(values), torch.empty(len(owners))
        _, total = self._cluster_scores(scaled, tables)
        entries = self._entries(values, bands)
        for some in torch.arange(len(owners)).split(1 << 16):
            queries = owners[some].to(device)
            scores = torch.linalg.vecdot(scaled[queries], tables[SHORTLIST].pull(entries[some].to(device)))
            found[some] = (scores - total[queries]).cpu()
        for cluster, projection in enumerate(self.projections):
            mine = (bands == cluster + 1).nonzero().squeeze(1)
            queries, which = torch.unique(owners[mine], return_inverse=True)
            inside, table = projection(scaled[queries.to(device)]), tables[f"tail{cluster}"]
            sums = table_log_sum(inside, table)
            for some in torch.arange(len(mine)).split(1 << 16):
                rows = (values[mine[some]] - self.edges[cluster + 1]).to(device)
                scores = torch.linalg.vecdot(inside[which[some].to(device)], table.pull(rows))
                found[mine[some]] += (scores - sums[which[some].to(device)]).cpu()
        return found

    def _cluster_scores(self, scaled: Tensor, tables: dict[str, Table]) -> tuple[Tensor, Tensor]:
        """(B, C) log P(cluster), and (B,) log of the sum of the first level."""
        table = tables[SHORTLIST]
        total = table_log_sum(scaled, table)
        return scaled @ table.read(self.edges[1], table.num_rows).T - total.unsqueeze(1), total

    def _bands(self, items: Tensor) -> Tensor:
        """int64, 0 for the shortlist, 1 + c for cluster c."""
        inner = torch.tensor(self.edges[1:-1], device=items.device)
        return torch.searchsorted(inner, items, right=True)

    def _entries(self, items: Tensor, bands: Tensor) -> Tensor:
        """Rows of the shortlist's table: the item's own, or its cluster's."""
        return torch.where(bands == 0, items, self.edges[1] - 1 + bands)


def _last_scores(found: TopK, k: int) -> Tensor:
    """(B,) the k-th score of each list, −∞ where it is shorter."""
    scores = torch.full((len(found),), -torch.inf)
    full = found.lengths() >= k
    scores[full] = found.scores[found.offsets[1:][full] - 1]
    return scores
