"""Rows on their way between ranks. Several exchanges can be under way at once: what is asked for first comes first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from xclass.distributed.shared_memory import Mailboxes

Guard = Callable[[], AbstractContextManager[None]]


class Exchange:
    """One that has begun.

    Args:
        received: what will hold the rows of all ranks.
        sent: is kept until the others have it.
        waits: each waits for a part.
        guard: a context that names the rank that is missing when one of them fails.
    """

    def __init__(self, received: Tensor, sent: Tensor, waits: list[Callable[[], object]], guard: Guard) -> None:
        self._received, self._sent, self._waits, self._guard = received, sent, waits, guard

    def wait(self) -> Tensor:
        """The rows for this rank, by the rank that sent them."""
        with self._guard():
            while self._waits:
                self._waits.pop(0)()
        return self._received


def begin_exchange(
    values: Tensor, sends: list[int], receives: list[int], here: int, through: Mailboxes | Any, guard: Guard
) -> Exchange:
    """``sends[r]`` of the rows for rank r in order, against ``receives[r]`` from each.

    Args:
        here: this rank.
        through: mailboxes of one host, or a process group of the library.
    """
    received = values.new_empty((sum(receives), *values.shape[1:]))
    values = values.contiguous()
    outgoing, incoming = values.split(sends), received.split(receives)
    with guard():
        if isinstance(through, Mailboxes):
            waits = _by_mail(outgoing, incoming, here, through)
        elif values.device.type == "cpu":
            waits = _by_gloo(outgoing, incoming, here, through)
        else:
            waits = _by_nccl(values, received, sends, receives, through)
    return Exchange(received, values, waits, guard)


def _by_mail(
    outgoing: tuple[Tensor, ...], incoming: tuple[Tensor, ...], here: int, boxes: Mailboxes
) -> list[Callable[[], object]]:
    size = len(outgoing)
    waits: list[Callable[[], object]] = []
    for turn in range(1, size):
        number = boxes.send((here + turn) % size, outgoing[(here + turn) % size])
        source = (here - turn) % size
        waits.append(functools.partial(boxes.receive, source, number, incoming[source]))
    incoming[here].copy_(outgoing[here])
    return waits


def _by_gloo(
    outgoing: tuple[Tensor, ...], incoming: tuple[Tensor, ...], here: int, group: Any
) -> list[Callable[[], object]]:
    """From rank to rank: its collective operation does the same in a thread of its own, and takes longer."""
    import torch.distributed as dist

    size = len(outgoing)
    works: list[Any] = []
    for turn in range(1, size):
        source, target = (here - turn) % size, (here + turn) % size
        if len(incoming[source]):
            works.append(dist.irecv(incoming[source], source, group=group))
        if len(outgoing[target]):
            works.append(dist.isend(outgoing[target], target, group=group))
    incoming[here].copy_(outgoing[here])
    return [work.wait for work in works]


def _by_nccl(
    values: Tensor, received: Tensor, sends: list[int], receives: list[int], group: Any
) -> list[Callable[[], object]]:
    import torch.distributed as dist

    work: Any = dist.all_to_all_single(received, values, receives, sends, group=group, async_op=True)
    return [work.wait]
