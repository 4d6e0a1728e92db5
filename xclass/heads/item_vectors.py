"""The item vectors of a head: rows behind a projection, read block by block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from xclass.embeddings.interface import Table
from xclass.heads.item_features import FeatureRows
from xclass.towers.projection import Projection
from xclass.types.vectors import Vectors

PROJECTED_ROWS = 1 << 14


class ItemVectors(Vectors):
    """The rows of a table as the item tower gives them, computed when they are read.

    The table stays as it is stored: nothing of its size is made, whatever its type and whatever the projection. It is
    the table of the moment: after a push, what is read is other. Rows of items with features are computed, too.
    """

    def __init__(self, table: Table | FeatureRows, projection: Projection) -> None:
        self.table, self.projection = table, projection
        self._plain = None if isinstance(table, FeatureRows) or not projection.is_identity else table

    def __len__(self) -> int:
        """N."""
        return self.table.num_rows

    @property
    def dim(self) -> int:
        """D."""
        return self.table.dim

    @property
    def device(self) -> torch.device:
        """Where computation is."""
        return self.table.device

    @property
    def nbytes(self) -> int:
        """Of the rows that are read."""
        return self.table.nbytes if isinstance(self.table, FeatureRows) else self.table.weight.nbytes

    @torch.no_grad()
    def read(self, start: int, stop: int) -> Tensor:
        """The table's own memory where it is float32 and the projection changes nothing."""
        if self.projection.is_identity:
            return self.table.read(start, stop)
        if stop - start <= PROJECTED_ROWS:
            return self._projected(self.table.read(start, stop))
        found = torch.empty(stop - start, self.dim, device=self.device)
        for low in range(start, stop, PROJECTED_ROWS):
            high = min(low + PROJECTED_ROWS, stop)
            found[low - start : high - start] = self._projected(self.table.read(low, high))
        return found

    @torch.no_grad()
    def take(self, ids: Tensor) -> Tensor:
        """These rows, projected."""
        return self._projected(self.table.pull(ids.to(self.device)))

    def tensor(self) -> Tensor:
        """The table's own memory where it is float32 and the projection changes nothing, else a copy."""
        return super().tensor() if self._plain is None else self._plain.read(0, len(self))

    def in_memory(self) -> Tensor | None:
        """The table's own rows where the projection changes nothing."""
        return None if self._plain is None else self._plain.weight

    def _projected(self, rows: Tensor) -> Tensor:
        projected: Tensor = self.projection(rows)
        return projected


class TableRows(Vectors):
    """Rows first … last−1 of a table, as they are stored."""

    def __init__(self, table: Table, first: int, last: int) -> None:
        self._table, self._first, self._length = table, first, last - first

    def __len__(self) -> int:
        """How many rows."""
        return self._length

    @property
    def dim(self) -> int:
        """Of the table."""
        return self._table.dim

    @property
    def device(self) -> torch.device:
        """Where computation is."""
        return self._table.device

    def read(self, start: int, stop: int) -> Tensor:
        """The table's own memory where it is float32."""
        return self._table.read(self._first + start, self._first + stop)

    def take(self, ids: Tensor) -> Tensor:
        """A copy."""
        return self._table.pull(ids.to(self.device) + self._first)


class BlockVectors(Vectors):
    """(N, D): the rows of several tables, each at its own columns among zeros, made when they are read."""

    def __init__(self, tables: Sequence[Table], edges: Sequence[int]) -> None:
        self._tables, self._edges = tables, edges

    def __len__(self) -> int:
        """N."""
        return self._edges[-1]

    @property
    def dim(self) -> int:
        """D, of all bands together."""
        return sum(table.dim for table in self._tables)

    @property
    def device(self) -> torch.device:
        """Of the tables."""
        return self._tables[0].device

    @property
    def nbytes(self) -> int:
        """Of the tables' rows."""
        return sum(table.weight.nbytes for table in self._tables)

    @torch.no_grad()
    def read(self, start: int, stop: int) -> Tensor:
        """A copy."""
        found, column = torch.zeros(stop - start, self.dim, device=self.device), 0
        for table, (low, high) in zip(self._tables, pairwise(self._edges), strict=True):
            first, last = max(start, low), min(stop, high)
            if first < last:
                rows = table.read(first - low, last - low)
                found[first - start : last - start, column : column + table.dim] = rows
            column += table.dim
        return found

    @torch.no_grad()
    def take(self, ids: Tensor) -> Tensor:
        """A copy."""
        ids, column = ids.to(self.device), 0
        found = torch.zeros(len(ids), self.dim, device=self.device)
        for table, (low, high) in zip(self._tables, pairwise(self._edges), strict=True):
            mine = ((ids >= low) & (ids < high)).nonzero().squeeze(1)
            found[mine, column : column + table.dim] = table.pull(ids[mine] - low)
            column += table.dim
        return found
