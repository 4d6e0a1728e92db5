"""The two-tower model: a query tower and a head over shared tables. The only place where they meet."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xclass.embeddings.interface import RowPlan, Table, plan_rows
from xclass.errors import InputError
from xclass.heads.interface import Head, LogParts
from xclass.heads.search import OwnSearch
from xclass.towers.query import QueryTower
from xclass.types import Batch, Ragged, Rows
from xclass.types.vectors import Vectors


class Prepared(NamedTuple):
    """A batch with everything that can be known before vectors are read: candidates, masks, distinct rows.

    queries, positives: of the whole batch; ``batch`` may be a part of it.
    """

    batch: Batch
    plan: Any
    row_plans: dict[str, RowPlan]
    queries: int
    positives: int

    def to(self, device: torch.device) -> Prepared:
        """The same on the device where the tables are."""
        if device.type == "cpu":
            return self
        plans = {table: plan.to(device) for table, plan in self.row_plans.items()}
        return Prepared(self.batch.to(device), self.plan.to(device), plans, self.queries, self.positives)


class TwoTower(nn.Module):
    """Query tower + head + the tables that both read.

    Dense parameters are ``parameters()``; tables are not parameters: they are pulled and pushed.
    """

    def __init__(self, tower: QueryTower, head: Head, tables: dict[str, Table]) -> None:
        super().__init__()
        self.tower, self.head, self.tables = tower, head, tables

    @property
    def device(self) -> torch.device:
        """Where the computation is."""
        return next(iter(self.tables.values())).device

    def prepare(self, batch: Batch, generator: torch.Generator, part: tuple[int, int] | None = None) -> Prepared:
        """Drop features, sample, and plan the working set of a training step. No vector is read.

        part: (start, stop) of the queries to compute here; what is drawn is drawn for the whole batch all the same.
        """
        batch = self.tower.drop(batch, generator)
        queries, positives = len(batch), 0 if batch.positives is None else len(batch.positives.values)
        if part is None:
            plan = self.head.plan(batch, generator)
        else:
            plan, batch = self.head.plan_part(batch, *part, generator), batch.slice(*part)
        wanted = self.tower.requests(batch)
        for table, requests in self.head.requests(batch, plan).items():
            wanted.setdefault(table, {}).update(requests)
        row_plans = {table: plan_rows(requests) for table, requests in wanted.items()}
        return Prepared(batch, plan, row_plans, queries, positives).to(self.device)

    def pull(self, plans: dict[str, RowPlan], requires_grad: bool = False) -> dict[str, Rows]:
        """The rows of the working set; leaves with gradient while training."""
        return {
            name: Rows(self.tables[name].pull(plan.unique).requires_grad_(requires_grad), plan.positions)
            for name, plan in plans.items()
        }

    def loss(self, prepared: Prepared, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query."""
        query_BD = self.tower(prepared.batch, rows)
        return self.head.loss(query_BD, prepared.batch, prepared.plan, rows)

    def push(self, plans: dict[str, RowPlan], rows: dict[str, Rows], lr: float) -> None:
        """One summed update of every touched row; for weight decay a table without a gradient has a step, too."""
        for name, plan in plans.items():
            grad = rows[name].values.grad
            ids = plan.unique if grad is not None else plan.unique[:0]
            self.tables[name].push(ids, rows[name].values.detach()[:0] if grad is None else grad, lr)

    def settle(self) -> None:
        """Write weight decay that is due into every row of every table."""
        for table in self.tables.values():
            table.settle()

    @torch.no_grad()
    def query_vectors(self, batch: Batch) -> Tensor:
        """(B, D) vectors of the queries of an inference batch; InputError for a feature or item that does not exist."""
        plans = {table: plan_rows(requests) for table, requests in self.tower.requests(batch).items()}
        for name, plan in plans.items():
            _check_rows(name, plan.unique, self.tables[name].num_rows)
        plans = {name: plan.to(self.device) for name, plan in plans.items()}
        vectors: Tensor = self.tower(batch.to(self.device), self.pull(plans))
        return vectors

    def item_vectors(self) -> Vectors | None:
        """(N, D) item vectors as they are at the time of reading, or None when the head is not indexable."""
        return self.head.item_vectors(self.tables)

    def own_search(self, exact: bool = False) -> OwnSearch | None:
        """The head's own search over the tables of the moment; None for a head whose items are ranked by vectors."""
        if self.head.searched_by == "vectors":
            return None
        return OwnSearch(self.head, self.tables, exact)

    def log_probability(self, query_BD: Tensor, items: Ragged) -> Tensor:
        """(M,) log of the exact probability of each item of each query's list, given the queries' vectors."""
        return self.head.log_probability(query_BD, items, self.tables)

    def log_parts(self, query_BD: Tensor, items: Ragged) -> LogParts:
        """The same, with log Z of each query where the head's probabilities are made from scores of all items."""
        return self.head.log_parts(query_BD, items, self.tables)


def _check_rows(table: str, unique: Tensor, num_rows: int) -> None:
    """``unique`` is rising."""
    if len(unique) and not (int(unique[0]) >= 0 and int(unique[-1]) < num_rows):
        kind, _, field = table.partition(".")
        raise InputError(
            f'a number of the features "{field}" does not exist' if field else f"a number of {kind} does not exist",
            wanted=f"0 to {num_rows - 1:,}",
            got=int(unique[0]) if int(unique[0]) < 0 else int(unique[-1]),
        )
