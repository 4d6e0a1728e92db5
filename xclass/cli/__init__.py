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

from xclass.cli.failures import INTERRUPTED, report

__all__ = ["main"]

SHELL_INTERRUPT = 130  # what Typer makes of a KeyboardInterrupt of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` default to the process's own."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _sigterm_as_interrupt():
            code = _run(given)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  report() says which are ours
        code = report(error, given)
    return code or _flush_stdout()


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


def _flush_stdout() -> int:
    """Flush what was printed; a reader that has gone (``xclass … | head``) is no error of ours."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
