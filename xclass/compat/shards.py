"""Rows of a table that is one tensor or cut into shards, by TensorFlow's two rules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from xclass.errors import InputError

STRATEGIES = ("mod", "div")

Table = Tensor | Sequence[Tensor]


def table_rows(name: str, table: Table, num_classes: int, strategy: str, where: str) -> list[Tensor]:
    """The shards of a table, checked: kinds, shapes, and sizes that the rule can address.

    mod: class c is row c // P of shard c mod P. div: consecutive classes, the first shards one row longer where the
    total does not divide (the sizes of numpy.array_split). Other sizes would silently give wrong rows.
    """
    if strategy not in STRATEGIES:
        raise InputError(
            "there is no such partition_strategy", where=where, wanted=" or ".join(STRATEGIES), got=strategy
        )
    shards = [table] if isinstance(table, Tensor) else list(table)
    shapes = {(shard.shape[1:], shard.dtype) for shard in shards if isinstance(shard, Tensor) and shard.dim() >= 1}
    if not shards or len(shapes) != 1 or not all(isinstance(s, Tensor) and s.is_floating_point() for s in shards):
        raise InputError(
            f"{name} must be a floating tensor, or a list of shards alike in dtype and in all dimensions but the first",
            where=where,
            got=[f"{s.dtype} {list(s.shape)}" if isinstance(s, Tensor) else type(s).__name__ for s in shards],
        )
    sizes = [len(shard) for shard in shards]
    wanted = expected_sizes(max(sum(sizes), 1), len(shards), strategy)
    fits = sizes == wanted if strategy == "div" else _mod_fits(sizes, num_classes)
    if sum(sizes) < num_classes or (len(shards) > 1 and not fits):
        wanted = expected_sizes(num_classes, len(shards), strategy)
        raise InputError(
            f"{name} can't hold the classes", where=where, wanted=f"rows: {wanted} ({strategy})", got=f"rows: {sizes}"
        )
    return shards


def expected_sizes(num_classes: int, num_shards: int, strategy: str) -> list[int]:
    """Rows of each shard. Both rules give the first ``num_classes % num_shards`` shards one more.

    >>> expected_sizes(10, 4, "div")
    [3, 3, 2, 2]
    """
    return [(num_classes + num_shards - 1 - shard) // num_shards for shard in range(num_shards)]


def _mod_fits(sizes: list[int], num_classes: int) -> bool:
    """Every class has its row; a shard may be longer."""
    wanted = expected_sizes(num_classes, len(sizes), "mod")
    return all(size >= least for size, least in zip(sizes, wanted, strict=True))


def gather(shards: list[Tensor], ids: Tensor, strategy: str, sparse_grad: bool) -> Tensor:
    """The rows of ``ids`` (U,), in order. O(U).

    With ``sparse_grad`` the gradient of each shard is a sparse tensor of the rows read (TensorFlow's IndexedSlices);
    else it is dense.
    """
    if len(shards) == 1:
        return _rows(shards[0], ids, sparse_grad)
    shard, row = locate(ids, [len(s) for s in shards], strategy)
    order = torch.argsort(shard, stable=True)
    parts = torch.split(row[order], torch.bincount(shard, minlength=len(shards)).tolist())
    found = torch.cat([_rows(s, part, sparse_grad) for s, part in zip(shards, parts, strict=True)])
    return found.index_select(0, torch.argsort(order))


def locate(ids: Tensor, sizes: list[int], strategy: str) -> tuple[Tensor, Tensor]:
    """(shard, row in it) of each id.

    >>> locate(torch.tensor([0, 5, 9]), [4, 3, 3], "div")
    (tensor([0, 1, 2]), tensor([0, 1, 2]))
    """
    if strategy == "mod":
        return ids % len(sizes), ids // len(sizes)
    ends = torch.tensor(sizes, device=ids.device).cumsum(0)
    shard = torch.searchsorted(ends, ids, right=True)
    return shard, ids - (ends - torch.tensor(sizes, device=ids.device))[shard]


def _rows(table: Tensor, ids: Tensor, sparse_grad: bool) -> Tensor:
    if not sparse_grad:
        return table.index_select(0, ids)
    if table.dim() == 1:
        return torch.gather(table, 0, ids, sparse_grad=True)
    return functional.embedding(ids, table, sparse=True)
