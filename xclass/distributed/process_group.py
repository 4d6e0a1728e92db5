"""The processes of one launch: which one this is, and how they exchange values. Works with one process, too.

    torchrun --nproc-per-node 4 -m xclass train …

torchrun starts the processes and tells each its rank. Everything here has a time limit, and when it passes, or when
another process ends, the error names the rank that is missing. Values travel as bytes of tensors or as JSON: nothing is
pickled. All ranks must call the same collective operations in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from xclass.distributed.all_to_all import Exchange, begin_exchange
from xclass.distributed.heartbeat import Watch
from xclass.distributed.rendezvous import Meeting
from xclass.distributed.shared_memory import Mailboxes, can_share
from xclass.errors import ConfigError, XclassError

TIMEOUT_S = 300.0
SMALL_BYTES = 1 << 16  # sent to each rank at once; the library cuts larger sums into parts
LAUNCHED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankError(XclassError):
    """Another process of the launch ended, or did not come within the time limit."""


class OtherRankError(RankError):
    """Work that all ranks did together failed on another one. All of them know, and can go on together."""


def launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return all(name in os.environ for name in LAUNCHED_BY)


def launched_alone() -> bool:
    """Whether there is no other process in this launch."""
    return not launched() or os.environ["WORLD_SIZE"] == "1"


def is_first() -> bool:
    """Whether this is rank 0 of a launch, or a process on its own."""
    return not launched() or os.environ["RANK"] == "0"


def restarts() -> int:
    """How often torchrun has started the processes again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class Group:
    """The processes of a launch; as a context it is left in order at the end.

    Args:
        timeout_s: no collective operation waits longer for the other ranks.
        device: of the tensors that sharded tables exchange; on "cuda" they go through NCCL, all else through gloo.
        shared_memory: ranks that are all on one host exchange rows through memory that they share instead.

    Without a launch it has one rank, and every operation gives back what it was given.
    """

    rank: int = 0
    size: int = 1

    def __init__(
        self, timeout_s: float = TIMEOUT_S, device: torch.device | str = "cpu", shared_memory: bool = True
    ) -> None:
        if not timeout_s > 0:
            raise ConfigError("a time limit is no positive number", where="distributed.timeout_s", got=timeout_s)
        self.timeout_s, self.device = timeout_s, torch.device(device)
        self._watch: Watch | None = None
        self._groups: dict[bool, Any] = {}
        self._boxes: dict[bool, Mailboxes] = {}
        if launched():
            self._join()
            if shared_memory and self.local_size == self.size > 1 and self.device.type == "cpu" and can_share():
                self._share_memory()

    def _join(self) -> None:
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        limit = timedelta(seconds=self.timeout_s)
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        try:
            store, rank, size = next(rendezvous("env://", timeout=limit))
            store.set_timeout(limit)
            attempt = Meeting(store, rank, size, self.timeout_s).attend()
            own = PrefixStore(f"xclass/{attempt.name}", store)
            dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=limit)
            self._groups = {False: None, True: dist.new_group(timeout=limit, backend=backend)}
        except (RuntimeError, ValueError, TimeoutError) as error:
            raise RankError(
                "the processes of this launch did not find each other",
                wanted=f"{os.environ['WORLD_SIZE']} ranks within {self.timeout_s:g} s",
                got=str(error).splitlines()[0],
                do="see that every host can reach MASTER_ADDR:MASTER_PORT and starts as many processes as it should; "
                "with several network interfaces set GLOO_SOCKET_IFNAME to the one that they share",
            ) from None
        self.rank, self.size = rank, size
        self._watch = Watch(self.rank, attempt.ranks, self.timeout_s)

    def _share_memory(self) -> None:
        with self.guard("the start"):
            for beside in self._groups:
                self._boxes[beside] = Mailboxes(self.rank, self.size, self.timeout_s, self.broadcast_value)

    @property
    def shares_memory(self) -> bool:
        """Whether rows are exchanged through memory that the ranks share."""
        return bool(self._boxes)

    def share_no_memory(self) -> None:
        """Go on through the network; on all ranks, between two exchanges."""
        for boxes in self._boxes.values():
            boxes.close()
        self._boxes = {}

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Leave; ``error`` is what the others are told as the reason."""
        if self._watch is None:
            return
        import torch.distributed as dist

        if error is not None:
            gc.freeze()  # the others wait for this process to end: it need not look through all it holds first
        self._watch.close(error, isinstance(error, RankError))
        self._watch = None
        self.share_no_memory()
        dist.destroy_process_group()

    @property
    def local_size(self) -> int:
        """How many of the ranks run on this host."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) if self.size > 1 else 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0: the one that writes what is written once."""
        return self.rank == 0

    def at(self, place: str) -> None:
        """Note where this rank is, such as "step 12": what the others say of it when they wait in vain."""
        if self._watch is not None:
            self._watch.place = place

    def share(self, total: int) -> tuple[int, int]:
        """(start, stop): this rank's part of 0 … total−1, cut into contiguous and nearly equal parts.

        >>> Group().share(10)
        (0, 10)
        """
        return share_of(total, self.rank, self.size)

    def barrier(self, what: str) -> None:
        """Wait until all ranks are here. Raises RankError with the names of those that did not come in time."""
        if self.size > 1:
            import torch.distributed as dist

            with self.guard(what):
                dist.monitored_barrier(timeout=timedelta(seconds=self.timeout_s), wait_all_ranks=True)

    def sum(self, values: Tensor, what: str = "a sum over ranks") -> Tensor:
        """The sum of every rank's tensor (same shape and type, on the CPU), on every rank; in place."""
        if self.size == 1:
            return values
        if self._boxes and values.nbytes <= SMALL_BYTES:
            each = [values.numel()] * self.size
            parts = self.exchange(values.flatten().repeat(self.size), each, each, what)
            return values.copy_(parts.view(self.size, *values.shape).sum(0))
        import torch.distributed as dist

        with self.guard(what):
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor, what: str = "a gathering") -> list[Tensor]:
        """Every rank's tensor on every rank, by rank: of one type, on the CPU; only the first size may differ."""
        if self.size == 1:
            return [values]
        import torch.distributed as dist

        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(values)
        self.sum(lengths, what)
        most = int(lengths.max())
        padded = values.new_zeros((most, *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self.guard(what):
            if most:
                dist.all_gather(parts, padded)
        return [part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)]

    def exchange(
        self, values: Tensor, sends: list[int], receives: list[int], what: str = "an exchange", beside: bool = False
    ) -> Tensor:
        """Rows for every rank, ``sends[r]`` of them for rank r in order, against ``receives[r]`` rows from each.

        beside: from another thread than everything else; these have an order of their own.
        """
        return self.begin_exchange(values, sends, receives, what, beside).wait()

    def begin_exchange(
        self, values: Tensor, sends: list[int], receives: list[int], what: str = "an exchange", beside: bool = False
    ) -> Exchange:
        """The same, to be waited for later; all ranks begin them in the same order."""
        if self.size == 1:
            return Exchange(values, values, [], contextlib.nullcontext)
        guard = functools.partial(self.guard, what)
        through = self._boxes.get(beside) or self._groups[beside]
        return begin_exchange(values, sends, receives, self.rank, through, guard)

    def gather_values(self, value: Any, what: str = "a gathering") -> list[Any]:
        """Every rank's value (what JSON can hold) on every rank, by rank."""
        if self.size == 1:
            return [value]
        return [json.loads(bytes(part.numpy())) for part in self.gather(_as_tensor(value), what)]

    def broadcast_value(self, value: Any, source: int = 0, what: str = "a broadcast") -> Any:
        """The value (what JSON can hold) of rank ``source`` on every rank; the others' are ignored."""
        return self.gather_values(value if self.rank == source else None, what)[source]

    def on_first(self, work: Callable[[], Any], what: str) -> Any:
        """``work()`` on rank 0 alone, while the others wait; its value (what JSON can hold) on every rank.

        Raises:
            XclassError: what rank 0's work raised, in the same words on every rank.
        """
        return self.together(work if self.is_first else _nothing, what)[0]

    def together(self, work: Callable[[], Any], what: str) -> list[Any]:
        """``work()`` on every rank, and the values of all (what JSON can hold). No rank goes on when one failed.

        Raises:
            XclassError: what this rank's work raised.
            OtherRankError: with what another's raised.
        """
        if self.size == 1:
            return [work()]
        value, mine = None, None
        try:
            value = work()
        except XclassError as error:
            mine = error
        found = self.gather_values({"value": value, "failed": None if mine is None else str(mine)}, what)
        if mine is not None:
            raise mine
        for rank, each in enumerate(found):
            if each["failed"] is not None:
                raise OtherRankError(f"rank {rank} failed at {what}", got=each["failed"])
        return [each["value"] for each in found]

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Errors of an exchange inside become a RankError that says who is missing, where it was, and why."""
        if self._watch is None:
            yield
            return
        try:
            with self._watch.waiting(what):
                yield
        except (RuntimeError, OSError) as error:
            if self.size == 1:
                raise
            _outlive_the_launcher()
            raise RankError(
                f"rank {self.rank} can't go on: the exchange with the other ranks failed",
                where=what,
                got=self._watch.findings(str(error)),
                do="start the same command again with --resume, or let torchrun restart it (--max-restarts)",
            ) from None


def share_of(total: int, rank: int, size: int) -> tuple[int, int]:
    """(start, stop) of one rank's part.

    >>> [share_of(10, rank, 4) for rank in range(4)]
    [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    return total * rank // size, total * (rank + 1) // size


def _outlive_the_launcher() -> None:
    """When a process fails the launcher ends the others at once; the message is to be out before that."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_tensor(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _nothing() -> None:
    return None
