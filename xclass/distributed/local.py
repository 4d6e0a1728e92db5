"""One process: tables of the whole catalogue, nobody to agree with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from xclass.distributed.interface import Search
from xclass.distributed.process_group import Group
from xclass.embeddings import TABLES, Place, RowOptimizer, Table, TableOptions
from xclass.index.exact import ExactIndex
from xclass.models.two_tower import Prepared, TwoTower
from xclass.types import Rows


class LocalEngine:
    """See :class:`xclass.distributed.interface.Engine`."""

    def __init__(self) -> None:
        self.group = Group()

    def arrange(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Here."""

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
        """By where rows lie."""
        return TABLES[storage](num_rows, dim, optimizer, options, place)

    def part(self, queries: int) -> None:
        """All of them."""

    def prepare_ahead(self, model: TwoTower, prepared: Prepared) -> None:
        """Nothing is exchanged."""

    def begin(self, model: TwoTower, prepared: Prepared, step: int, lr: float) -> None:
        """Nobody waits for it."""

    def backward(self, loss: Tensor, queries: int) -> None:
        """Of the mean."""
        loss.mean().backward()

    def add_up(self, model: TwoTower, prepared: Prepared, rows: Mapping[str, Rows], loss_sum: float) -> float:
        """There is nothing to add."""
        return loss_sum

    def agree(self, what: str, mine: bool) -> bool:
        """With itself."""
        return mine

    def forget(self, what: str) -> None:
        """Nothing is remembered."""

    def search(self, model: TwoTower) -> Search:
        """A sweep over the item vectors, or the head's own search where items have none."""
        vectors, own = model.item_vectors(), model.own_search(exact=True)
        if vectors is None:
            assert own is not None
            return own
        index = ExactIndex()
        index.build(vectors)
        return index
