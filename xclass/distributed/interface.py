"""What training asks of an engine: one process, or the processes of a launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from xclass.distributed.process_group import Group
from xclass.embeddings import Place, RowOptimizer, Table, TableOptions
from xclass.models.two_tower import Prepared, TwoTower
from xclass.types import Ragged, Rows, TopK


class Search(Protocol):
    """Finds the best items of the moment."""

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The best k items of each query, equal scores by rising item number."""
        ...


class Engine(Protocol):
    """Where tables lie, which part of a batch is computed here, and what is summed over the processes of a step."""

    group: Group

    def arrange(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """All tables (name → rows, bytes of a row) that :meth:`table` will be asked for: where they lie is decided."""
        ...

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
        """A table of the whole catalogue, or of this process's part of it."""
        ...

    def part(self, queries: int) -> tuple[int, int] | None:
        """(start, stop): the queries of a batch that are computed here; None for all of them."""
        ...

    def prepare_ahead(self, model: TwoTower, prepared: Prepared) -> None:
        """What can be exchanged before vectors are read; called in the thread that prepares batches, in their order."""
        ...

    def begin(self, model: TwoTower, prepared: Prepared, step: int, lr: float) -> None:
        """A step begins; its rows are pulled next, and will be pushed at rate ``lr``."""
        ...

    def backward(self, loss: Tensor, queries: int) -> None:
        """Gradients of the mean over ``queries``, those of the whole batch, from the loss of each query here."""
        ...

    def add_up(self, model: TwoTower, prepared: Prepared, rows: Mapping[str, Rows], loss_sum: float) -> float:
        """The sum of the losses over all processes; gradients of dense layers are summed in place. Pushes follow."""
        ...

    def agree(self, what: str, mine: bool) -> bool:
        """Whether any process has said so; all get the same answer, at the latest one step after it was said."""
        ...

    def forget(self, what: str) -> None:
        """What was agreed on has been done."""
        ...

    def search(self, model: TwoTower) -> Search:
        """Exact search over the model's items as they are now, with the same lists in every process."""
        ...
