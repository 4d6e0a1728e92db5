"""Rows of items that have features or texts, computed when they are read: as a table that nobody writes to."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xclass.embeddings.interface import Table, plan_rows
from xclass.towers.features import ItemFeatures
from xclass.towers.item_texts import ItemTexts
from xclass.types import Rows

BLOCK_ROWS = 1 << 14


class FeatureRows:
    """The vector of an item before the projection: the bags of its features, or what a network makes of its text, plus
    its own row where it has one.

    Only what is asked for is computed, in blocks of 16,384 items: cost O(values of their features · D), memory of the
    distinct features of a block and its result; of texts see :class:`xclass.towers.characters.CharacterCnn`. What is
    read is of the tables at that moment.

    Args:
        features: of the items, or their texts.
        tables: with the rows that are read.
        own: the items' own rows, or None.
        num_items: N.
    """

    def __init__(
        self, features: ItemFeatures | ItemTexts, tables: dict[str, Table], own: Table | None, num_items: int
    ) -> None:
        self.features, self.own, self.num_rows = features, own, num_items
        self.tables = {name: tables[name] for name in features.tables}
        first = features if isinstance(features, ItemTexts) else next(iter(self.tables.values()))
        self.dim, self.device = first.dim, first.device

    @property
    def nbytes(self) -> int:
        """Of the tables that are read."""
        return sum(table.weight.nbytes for table in (*self.tables.values(), self.own) if table is not None)

    def read(self, start: int, stop: int) -> Tensor:
        """(stop − start, D) float32."""
        return self.pull(torch.arange(start, stop))

    def pull(self, ids: Tensor) -> Tensor:
        """(len(ids), D) float32, in the order of ``ids``."""
        if len(ids) <= BLOCK_ROWS:
            return self._block(ids)
        found = torch.empty(len(ids), self.dim, device=self.device)
        for low in range(0, len(ids), BLOCK_ROWS):
            found[low : low + BLOCK_ROWS] = self._block(ids[low : low + BLOCK_ROWS])
        return found

    def blocks(self) -> Iterator[Tensor]:
        """All rows in order."""
        for start in range(0, self.num_rows, BLOCK_ROWS):
            yield self.read(start, min(start + BLOCK_ROWS, self.num_rows))

    @torch.no_grad()
    def _block(self, ids: Tensor) -> Tensor:
        taken = self.features.take(ids.cpu())
        plans = {
            table: plan_rows(requests).to(self.device) for table, requests in self.features.requests(taken).items()
        }
        rows = {name: Rows(self.tables[name].pull(plan.unique), plan.positions) for name, plan in plans.items()}
        vectors = self.features({name: lists.to(self.device) for name, lists in taken.items()}, rows)
        return vectors if self.own is None else vectors + self.own.pull(ids.to(self.device))
