"""The command line: ``xclass COMMAND …``.

A command reads its arguments, calls one function and prints one table. Exit codes: 0 done, 1 the input is wrong (one
message, no traceback), 2 usage, 3 interrupted and resumable.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from xclass.cli.failures import INTERRUPTED, check_text, report
from xclass.cli.limits import check_limits
from xclass.cli.output import Undelivered, flush
from xclass.runtime.streams import open_missing

__all__ = ["main"]

SHELL_INTERRUPT = 130  # what Typer makes of a KeyboardInterrupt of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` default to the process's own."""
    os.environ["RUST_BACKTRACE"] = "0"  # Polars panics on some damaged files; the error that follows says all of it
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_missing()
    try:
        with _sigterm_as_interrupt():
            check_text(given)
            check_limits()
            code = _run(given)
            flush()
    except BaseException as error:  # noqa: BLE001  Polars' panics are no Exceptions; report() says which are ours
        code = report(error, given)
        with contextlib.suppress(Undelivered):
            flush()
    return code


def _run(arguments: list[str]) -> int:
    from xclass.cli.app import app

    try:
        app(arguments, prog_name="xclass")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return INTERRUPTED if code == SHELL_INTERRUPT else code
    return 0


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: files half-written are removed on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
