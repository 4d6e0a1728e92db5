"""Rows on their way between ranks. Several exchanges can be under way at once: what is asked for first comes first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

Guard = Callable[[], AbstractContextManager[None]]


class Exchange:
    """One that has begun.

    Args:
        received: what will hold the rows of all ranks.
        sent: is kept until the others have it.
        works: the library's operations.
        guard: a context that names the rank that is missing when one of them fails.
    """

    def __init__(self, received: Tensor, sent: Tensor, works: list[Any], guard: Guard) -> None:
        self._received, self._sent, self._works, self._guard = received, sent, works, guard

    def wait(self) -> Tensor:
        """The rows for this rank, by the rank that sent them."""
        with self._guard():
            while self._works:
                self._works.pop().wait()
        return self._received


def begin_exchange(
    values: Tensor, sends: list[int], receives: list[int], ranks: tuple[int, int], group: Any, guard: Guard
) -> Exchange:
    """``sends[r]`` of the rows for rank r in order, against ``receives[r]`` from each; ranks: (this one, how many).

    Gloo sends from rank to rank, in rounds in which each rank is asked by one other, without a copy of what stays here
    through a thread of its own, as its collective operation makes one; NCCL has one operation for all of it.
    """
    import torch.distributed as dist

    received = values.new_empty((sum(receives), *values.shape[1:]))
    values = values.contiguous()
    with guard():
        if values.device.type != "cpu":
            work = dist.all_to_all_single(received, values, receives, sends, group=group, async_op=True)
            return Exchange(received, values, [work], guard)
        here, size = ranks
        outgoing, incoming = values.split(sends), received.split(receives)
        works = []
        for turn in range(1, size):
            source, target = (here - turn) % size, (here + turn) % size
            if receives[source]:
                works.append(dist.irecv(incoming[source], source, group=group))
            if sends[target]:
                works.append(dist.isend(outgoing[target], target, group=group))
        incoming[here].copy_(outgoing[here])
        return Exchange(received, values, works, guard)
