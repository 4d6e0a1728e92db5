"""SIGINT and SIGTERM while training: the step ends, a checkpoint is written, then the run stops."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopSignal:
    """While this context is open the first SIGINT or SIGTERM is noted; a second one acts at once.

    ``received`` is the signal's number, 0 for none. Outside the main thread nothing is caught.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                return self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])  # type: ignore[arg-type]
