"""Which ranks hold the rows of a table: row i is row i ÷ W of the shard of ``holders[i mod W]``, of W holders.

Row-wise all ranks hold each table, those with the first rows where there are fewer rows than ranks; table-wise one rank
holds all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Sharding = Literal["row-wise", "table-wise", "planner"]


class Turns(NamedTuple):
    """The ranks that hold rows of a table, which take turns."""

    holders: tuple[int, ...]

    @classmethod
    def of_all(cls, num_rows: int, ranks: int) -> Turns:
        """Row-wise."""
        return cls(tuple(range(min(num_rows, ranks))))

    def first(self, rank: int) -> int | None:
        """The number of a rank's first row; None where it has none. The others follow at distance W."""
        return self.holders.index(rank) if rank in self.holders else None

    def rows(self, num_rows: int, rank: int, start: int = 0) -> int:
        """How many of the rows from ``start`` on, a multiple of W, lie on a rank.

        >>> [Turns((0, 1, 2)).rows(7, rank) for rank in range(4)], Turns((2,)).rows(7, 2)
        ([3, 2, 2, 0], 7)
        """
        first = self.first(rank)
        return 0 if first is None else max(-(-(num_rows - start - first) // len(self.holders)), 0)

    def owners(self, ids: Tensor) -> Tensor:
        """int32: the rank that holds each row."""
        turn = (ids % len(self.holders)).to(torch.int32)
        if self.holders == tuple(range(len(self.holders))):
            return turn
        return torch.tensor(self.holders, dtype=torch.int32, device=ids.device)[turn]

    def places(self, ids: Tensor) -> Tensor:
        """Where each row stands in its shard."""
        return torch.div(ids, len(self.holders), rounding_mode="floor")


def placed(sharding: Sharding, sizes: Mapping[str, tuple[int, int]], ranks: int) -> dict[str, Turns]:
    """Table → its holders, row-wise or table-wise: the largest table first, each goes to the rank with the least.

    Args:
        sharding: "row-wise" or "table-wise".
        sizes: table → (rows, bytes of a row).
        ranks: how many.

    >>> placed("table-wise", {"a": (9, 4), "b": (6, 4), "c": (4, 4)}, 2)
    {'a': Turns(holders=(0,)), 'b': Turns(holders=(1,)), 'c': Turns(holders=(1,))}
    """
    if sharding == "row-wise":
        return {name: Turns.of_all(rows, ranks) for name, (rows, _) in sizes.items()}
    load, found = [0] * ranks, dict[str, Turns]()
    for name, (rows, row_bytes) in sorted(sizes.items(), key=lambda each: -each[1][0] * each[1][1]):
        rank = load.index(min(load))
        load[rank] += rows * row_bytes
        found[name] = Turns((rank,))
    return found
