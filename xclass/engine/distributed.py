"""The processes of a launch as one trainer: tables sharded, towers replicated, one global batch a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from xclass.engine.group import Group
from xclass.engine.merged import MergedSearch, vectors_here
from xclass.engine.routes import plan_routes
from xclass.engine.seam import Search
from xclass.engine.sharded import ShardedTable, rows_of
from xclass.engine.torchrec_table import TorchRecTable
from xclass.errors import ConfigError
from xclass.heads.vectors import ItemVectors
from xclass.model import Prepared, TwoTower
from xclass.tables import TABLES, Place, RowOptimizer, Table, TableOptions
from xclass.types import Rows

FLAGS = ("stop", "checkpoint")
Kind = Literal["exchange", "torchrec"]


class DistributedEngine:
    """See :class:`xclass.engine.seam.Engine`.

    Every rank draws the whole batch, its candidates and what the sampler learns, and computes its share of the queries:
    the loss is that of one process, whatever the number of ranks.

    Args:
        group: the ranks.
        tables: what holds the rows: tables of this toolkit behind an exchange of rows, or TorchRec.
    """

    def __init__(self, group: Group, tables: Kind = "exchange") -> None:
        self.group, self.tables = group, tables
        self._mine, self._agreed = dict.fromkeys(FLAGS, False), dict.fromkeys(FLAGS, False)

    def table(
        self,
        storage: str,
        num_rows: int,
        dim: int,
        optimizer: RowOptimizer | None,
        options: TableOptions,
        place: Place,
    ) -> Table:
        """The rows of this rank, in a table of any storage."""
        if self.tables == "torchrec":
            if storage != "device":
                raise ConfigError("TorchRec's tables lie on the device", where="tables.storage", got=storage)
            return TorchRecTable(num_rows, dim, optimizer, options, self.group)
        own = Place(place.device, place.folder and place.folder / f"rank-{self.group.rank}")
        part = replace(options, part=(self.group.size, self.group.rank))
        shard = TABLES[storage](rows_of(num_rows, self.group), dim, optimizer, part, own)
        return ShardedTable(num_rows, shard, self.group)

    def part(self, queries: int) -> tuple[int, int]:
        """A contiguous share of nearly equal size."""
        return self.group.share(queries)

    def prepare_ahead(self, model: TwoTower, prepared: Prepared) -> None:
        """The numbers of the step's rows go to their owners while the step before computes."""
        tables = self._tables(model, prepared)
        if self.tables == "exchange":
            routes = plan_routes([ids for _, ids in tables], self.group, beside=True)
            for (table, _), route in zip(tables, routes, strict=True):
                table.plan_ahead(route)

    def begin(self, model: TwoTower, prepared: Prepared, step: int, lr: float) -> None:
        """The others are told where this rank is, and get the rows they need of all tables at once."""
        self.group.at(f"step {step:,}")
        for table, ids in self._tables(model, prepared):
            table.expect(lr)
            table.begin_pull(ids)

    def _tables(self, model: TwoTower, prepared: Prepared) -> list[tuple[ShardedTable, Tensor]]:
        """Those of a step, with their distinct rows; in one order on all ranks."""
        tables = []
        for name, plan in prepared.row_plans.items():
            table = model.tables[name]
            assert isinstance(table, ShardedTable)
            tables.append((table, plan.unique))
        return tables

    def backward(self, loss: Tensor, queries: int) -> None:
        """Of the sum here over the number of queries everywhere."""
        if len(loss):
            (loss.sum() / queries).backward()

    def add_up(self, model: TwoTower, prepared: Prepared, rows: Mapping[str, Rows], loss_sum: float) -> float:
        """Gradients of rows go to their owners; meanwhile one sum over ranks for everything else: losses, gradients of
        dense layers, and what there is to agree on.

        A table without a gradient here gets zeros where another rank has one: pushes are collective.
        """
        dense = list(model.parameters())
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in dense]
        has = [float(each.values.grad is not None) for each in rows.values()]
        for each in rows.values():
            if each.values.grad is None:
                each.values.grad = torch.zeros_like(each.values)
        for (table, ids), each in zip(self._tables(model, prepared), rows.values(), strict=True):
            assert each.values.grad is not None
            table.begin_push(ids, each.values.grad)
        head = torch.tensor([loss_sum, *(float(self._mine[name]) for name in FLAGS), *has])
        total = self.group.sum(torch.cat([head, *(grad.flatten().cpu().float() for grad in grads)]), "a step's sums")
        self._agreed = {name: bool(value > 0) for name, value in zip(FLAGS, total[1:].tolist(), strict=False)}
        for each, count in zip(rows.values(), total[1 + len(FLAGS) : len(head)].tolist(), strict=True):
            if not count:
                each.values.grad = None
        for layer, part in zip(dense, total[len(head) :].split([each.numel() for each in dense]), strict=True):
            layer.grad = part.view_as(layer).to(layer.device, layer.dtype)
        return float(total[0])

    def agree(self, what: str, mine: bool) -> bool:
        """As of the last step's sum."""
        self._mine[what] = mine
        return self._agreed[what]

    def forget(self, what: str) -> None:
        """On every rank at the same step."""
        self._mine[what] = self._agreed[what] = False

    def search(self, model: TwoTower) -> Search:
        """Each rank searches its items; lists are merged."""
        vectors = model.item_vectors()
        if not isinstance(vectors, ItemVectors):
            raise ConfigError("several processes train models of item vectors only", where="head.kind", wanted='"dot"')
        return MergedSearch(vectors_here(vectors, self.group), self.group)
