"""Progress on stderr: how far, how fast, how long still. A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from xclass.runtime.streams import is_terminal, to_stderr

PLAIN_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.2


_silent = threading.Event()


def silence() -> None:
    """No progress and no lines from this process any more: another one of the launch speaks for all."""
    _silent.set()


class Progress:
    """Counts work done towards a total and prints the rate and the time left.

    Args:
        label: what is being done, e.g. "train".
        total: how many units there are, or None when nobody knows.
        unit: what is counted, e.g. "rows".

    On a terminal one line is redrawn; elsewhere a plain line appears every ten seconds. Work that ends sooner
    leaves no line, unless a note was asked for.
    """

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._done_before = 0
        self.note = ""
        self._started = self._printed = time.monotonic()
        self._tty = is_terminal(sys.stderr)

    def __enter__(self) -> Progress:
        self._started = self._printed = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tty:
            to_stderr("\r\x1b[K")

    def resume_at(self, done: int) -> None:
        """So much was done before this process began; it does not count towards the rate."""
        self.done = self._done_before = done

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count ``count`` more units done; ``note`` is shown behind the rate."""
        self.done += count
        self.note = self.note if note is None else note
        now = time.monotonic()
        if now - self._printed >= (BAR_INTERVAL_S if self._tty else PLAIN_INTERVAL_S):
            self._printed = now
            self._print()

    def line(self) -> str:
        """The line as it stands: label, share, rate, time left, note."""
        elapsed_s = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._done_before) / elapsed_s
        parts = [f"{self.label}: {self.done:,}"]
        if self.total:
            parts[0] += f"/{self.total:,} {self.unit} ({self.done / self.total:.0%})"
        else:
            parts[0] += f" {self.unit}"
        parts.append(f"{rate:,.0f} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"{duration(max(self.total - self.done, 0) / rate)} left")
        return ", ".join([*parts, self.note] if self.note else parts)

    def _print(self) -> None:
        if _silent.is_set():
            return
        to_stderr(f"\r\x1b[K{self.line()}" if self._tty else f"{self.line()}\n")


def duration(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> duration(4.2), duration(75), duration(7300)
    ('4s', '1m15s', '2h01m')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def say(message: str) -> None:
    """One line of log on stderr."""
    if not _silent.is_set():
        to_stderr(message + "\n")
