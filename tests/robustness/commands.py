"""One command of xclass in this process, and what its end says about it."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

RIGHT = "right"
REFUSED = "clear error"
CAUTIOUS = "clear error, though readable"
WRONG = "wrong, exit 0"
UNCLEAR = "unclear"
TRACEBACK = "traceback"
CRASH = "crash"
SLOW = "slow"
GOOD = (RIGHT, REFUSED, CAUTIOUS)
BAD = (WRONG, UNCLEAR, TRACEBACK, CRASH, SLOW)

DONE, WRONG_INPUT, USAGE = 0, 1, 2
DEFECT = re.compile(r"Traceback \(most recent call last\)|defect of xclass|^Aborted!", re.MULTILINE)
PANIC = "panicked at"  # Polars prints it itself; it is none where one clear error follows
LEFTOVER = re.compile(r"\..+\.(tmp|old|parts)")


class Verdict(NamedTuple):
    """What became of a case; why: what is wrong with it, for a reader."""

    outcome: str
    why: str = ""


class Said(NamedTuple):
    """How a command ended and what it wrote."""

    arguments: tuple[str, ...]
    code: int | None
    out: str
    err: str


class Streams:
    """Stdout and stderr of this process, whoever writes to them, in two files. For a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._paths = {1: folder / f"stdout-{os.getpid()}", 2: folder / f"stderr-{os.getpid()}"}
        for number, path in self._paths.items():
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
            os.dup2(file, number)
            os.close(file)

    def begin(self) -> None:
        """Forget what was written."""
        sys.stdout.flush()
        sys.stderr.flush()
        for number in self._paths:
            os.ftruncate(number, 0)

    def texts(self) -> tuple[str, str]:
        """What was written to stdout and to stderr."""
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = (path.read_bytes().decode("utf-8", "replace") for path in self._paths.values())
        return out, err


def run(streams: Streams, *arguments: str) -> Said:
    """Run ``xclass ARGUMENTS``; code is None when an exception came out of it."""
    from xclass.cli import main

    streams.begin()
    try:
        code: int | None = main(list(arguments))
    except BaseException:  # noqa: BLE001  a panic of Polars is none of Exception
        code = None
        traceback.print_exc()
    return Said(arguments, code, *streams.texts())


def fault(said: Said, *paths: Path) -> Verdict | None:
    """What is wrong with how a command ended, whatever it was given; None when nothing is.

    paths: folders in which nothing half-written may be left.
    """
    if said.code is None or DEFECT.search(said.err) or (said.code == DONE and PANIC in said.err):
        return Verdict(TRACEBACK, last_lines(said))
    if "Warning: " in said.err:
        return Verdict(UNCLEAR, "a warning of Python: " + last_lines(said))
    if said.code not in (DONE, WRONG_INPUT, USAGE):
        return Verdict(UNCLEAR, f"exit code {said.code}: {last_lines(said)}")
    if said.code == WRONG_INPUT and len(re.findall("^error: ", said.err, re.MULTILINE)) != 1:
        return Verdict(UNCLEAR, "not one clear message: " + last_lines(said))
    left = [str(path) for folder in paths for path in folder.rglob(".*") if LEFTOVER.fullmatch(path.name)]
    return Verdict(UNCLEAR, f"left behind: {', '.join(left)}") if left else None


def last_lines(said: Said, count: int = 8) -> str:
    """The end of stderr, as it is shown for a case that went wrong."""
    lines = [line for line in said.err.strip().splitlines() if line.strip()]
    return f"{' '.join(said.arguments)[:300]} → {said.code}\n" + "\n".join(line[:300] for line in lines[-count:])


class Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._started
