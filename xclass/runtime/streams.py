"""The standard streams of a process whose other ends may be gone: a lost reader of stderr is no reason to stop."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def to_stderr(text: str) -> None:
    """Write and flush. When nobody can read it any more, it goes nowhere, and so does all that follows."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        abandon(sys.stderr)
    except (ValueError, AttributeError):  # closed from Python; none at all
        pass


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sits at the other end."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def abandon(stream: TextIO) -> None:
    """What is written from now on, or waits to be written, goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_missing() -> None:
    """Fill the places of standard streams that this process was started without (``>&-`` in a shell).

    Otherwise the next file that is opened takes such a place, and what libraries print goes into it. stdin is at its
    end, stderr goes nowhere, and a write to stdout fails, as its answer can't be delivered.
    """
    ways = {"stdin": os.O_RDONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for number, (name, way) in enumerate(ways.items()):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, way)  # takes the lowest free place: those below are filled
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def printable(text: str, stream: TextIO) -> str:
    r"""``text`` with what the stream's encoding lacks spelt as ``\udcff``: names of files need not be UTF-8."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
