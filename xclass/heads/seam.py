"""The contract of a head."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from xclass.heads.feature_rows import FeatureRows
from xclass.tables.working_set import Table
from xclass.types import Batch, Rows
from xclass.vectors import Vectors


class Head(Protocol):
    """An output layer over the catalogue.

    A step is cut in two: ``plan`` needs no vectors (it samples, and finds what to mask), so it can be done ahead of
    time; ``loss`` computes on the rows that were pulled.
    """

    def plan(self, batch: Batch, generator: torch.Generator) -> Any:
        """What ``loss`` will need beside vectors, on the CPU; its ``to(device)`` gives it on another device."""
        ...

    def requests(self, batch: Batch, plan: Any) -> dict[str, dict[str, Tensor]]:
        """Table → request → ids of the rows that the loss reads."""
        ...

    def loss(self, query_BD: Tensor, batch: Batch, plan: Any, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query."""
        ...

    def item_vectors(self, tables: dict[str, Table]) -> Vectors | None:
        """(N, D) item vectors, read block by block: their inner product with a query vector ranks items.

        None: not indexable.
        """
        ...

    def item_rows_of(self, tables: dict[str, Table]) -> FeatureRows | None:
        """What items are before the last layers, where several tables make it; None where the table "item" has it."""
        ...
