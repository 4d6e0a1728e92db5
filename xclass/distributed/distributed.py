"""The processes of a launch as one trainer: tables sharded, towers replicated, one global batch a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from xclass.distributed.interface import Search
from xclass.distributed.placement import Sharding, Turns, placed
from xclass.distributed.process_group import Group
from xclass.distributed.routing import plan_routes
from xclass.distributed.sharded_search import MergedSearch, vectors_here
from xclass.distributed.sharded_table import ShardedTable
from xclass.distributed.torchrec_table import TorchRecTable, planned
from xclass.embeddings import TABLES, MemoryTable, Place, RowOptimizer, Table, TableOptions
from xclass.errors import ConfigError
from xclass.heads.item_vectors import ItemVectors
from xclass.models.two_tower import Prepared, TwoTower
from xclass.types import Rows

FLAGS = ("stop", "checkpoint")
Kind = Literal["exchange", "torchrec"]


class DistributedEngine:
    """See :class:`xclass.distributed.interface.Engine`.

    Every rank draws the whole batch, its candidates and what the sampler learns, and computes its share of the queries:
    the loss is that of one process, whatever the number of ranks.

    Args:
        group: the ranks.
        tables: what holds the rows: tables of this toolkit behind an exchange of rows, or TorchRec.
        sharding: which ranks hold a table.

    Raises:
        ConfigError: a planner is TorchRec's.
    """

    def __init__(self, group: Group, tables: Kind = "exchange", sharding: Sharding = "row-wise") -> None:
        if sharding == "planner" and tables != "torchrec":
            raise ConfigError(
                "the planner is TorchRec's",
                where="distributed.sharding",
                got="planner",
                do='set distributed.tables = "torchrec", or sharding = "row-wise" or "table-wise"',
            )
        self.group, self.tables, self.sharding = group, tables, sharding
        self._turns = dict[str, Turns]()
        self._mine, self._agreed = dict.fromkeys(FLAGS, False), dict.fromkeys(FLAGS, False)

    def arrange(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Every table gets its ranks."""
        if self.sharding == "planner":
            self._turns = planned(sizes, self.group)
        else:
            self._turns = placed(self.sharding, sizes, self.group.size)

    def table(
        self,
        storage: str,
        num_rows: int,
        dim: int,
        optimizer: RowOptimizer | None,
        options: TableOptions,
        place: Place,
        name: str = "",
    ) -> Table:
        """The rows of this rank, in a table of any storage; as :meth:`arrange` says, else row-wise."""
        turns = self._turns.get(name) or Turns.of_all(num_rows, self.group.size)
        if self.tables == "torchrec":
            if storage != "device":
                raise ConfigError("TorchRec's tables lie on the device", where="tables.storage", got=storage)
            return TorchRecTable(num_rows, dim, optimizer, options, self.group, turns)
        own = Place(place.device, place.folder and place.folder / f"rank-{self.group.rank}")
        first, rows = turns.first(self.group.rank), turns.rows(num_rows, self.group.rank)
        if first is None:
            nothing = replace(options, part=(self.group.size, self.group.rank))
            shard = MemoryTable(0, dim, optimizer, nothing, Place(place.device))
        else:
            shard = TABLES[storage](rows, dim, optimizer, replace(options, part=(len(turns.holders), first)), own)
        return ShardedTable(num_rows, shard, self.group, turns)

    def part(self, queries: int) -> tuple[int, int]:
        """A contiguous share of nearly equal size."""
        return self.group.share(queries)

    def prepare_ahead(self, model: TwoTower, prepared: Prepared) -> None:
        """The numbers of the step's rows go to their owners while the step before computes."""
        tables = self._tables(model, prepared)
        if self.tables == "exchange":
            turns = [table.turns for table, _ in tables]
            routes = plan_routes([ids for _, ids in tables], turns, self.group, beside=True)
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
        turns = vectors.table.turns if isinstance(vectors.table, ShardedTable) else None
        return MergedSearch(vectors_here(vectors, self.group), self.group, turns)
