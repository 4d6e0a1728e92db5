"""Work for the next batch while this one computes: loading, sampling and planning read no vector, so they can."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from xclass.models.two_tower import Prepared
from xclass.runtime.threads import background
from xclass.types import Batch


class Ready(NamedTuple):
    """A batch that can be computed, and the seconds its two phases took."""

    prepared: Prepared
    load_s: float
    sample_s: float


class Ahead:
    """The batches of an epoch, each prepared in a thread when it is asked for.

    Args:
        batches: from the first one wanted.
        prepare: from (batch, step); samplers that learn change their state in it, so nothing is prepared beyond what
            was asked for: whoever wants to write that state down asks for the next batch afterwards.
        first_step: the step of the first batch.
    """

    def __init__(self, batches: Iterator[Batch], prepare: Callable[[Batch, int], Prepared], first_step: int) -> None:
        self._batches, self._prepare, self._step = batches, prepare, first_step
        self._thread: ThreadPoolExecutor = background("xclass-ahead")
        self._next: Future[Ready | None] | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def ask(self) -> None:
        """Begin with the next batch, unless that was done."""
        if self._next is None:
            self._next = self._thread.submit(self._make)

    def take(self) -> Ready | None:
        """The next batch, when it is ready; None after the last one."""
        self.ask()
        assert self._next is not None
        ready, self._next = self._next.result(), None
        return ready

    def _make(self) -> Ready | None:
        started = time.perf_counter()
        batch = next(self._batches, None)
        if batch is None:
            return None
        loaded = time.perf_counter()
        prepared = self._prepare(batch, self._step)
        self._step += 1
        return Ready(prepared, loaded - started, time.perf_counter() - loaded)
