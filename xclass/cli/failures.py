"""What a failed command says on stderr, and its exit code."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from xclass.cli.output import Undelivered
from xclass.errors import DataError, Interrupted, XclassError
from xclass.runtime.memory import is_out_of_memory
from xclass.runtime.streams import to_stderr

WRONG_INPUT = 1
INTERRUPTED = 3

# What the system says about a path a person named, or about its disk.
PATH_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.EIO,
}  # fmt: skip
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Libraries that write files themselves report a full disk in words: Polars and safetensors, NumPy, Faiss.
DISK_WORDS = re.compile(
    r"no space left on device|disk quota exceeded|file too large|\d+ requested and \d+ written", re.IGNORECASE
)


class Failed(Exception):
    """A command failed with its cause, an error that Typer would take for something else."""


def check_text(arguments: list[str]) -> None:
    """DataError for bytes that are no UTF-8: the libraries that read and write files take no such names."""
    for argument in arguments:
        if not _is_text(argument):
            raise DataError(
                "an argument is not valid UTF-8", got=ascii(argument), do="give the file or folder another name"
            )


def report(error: BaseException, arguments: list[str]) -> int:
    """Print one message for ``error`` on stderr and return the exit code.

    Only what nobody foresaw keeps its traceback: that is a defect of ours. A reader of stdout that has gone
    (``xclass … | head``) is no news to anyone.
    """
    if isinstance(error, Failed) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Undelivered) and isinstance(error.__cause__, BrokenPipeError):
        return WRONG_INPUT
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted("interrupted; nothing half-written is left behind")
    if isinstance(error, Interrupted):
        to_stderr(interruption(error, arguments) + "\n")
        return INTERRUPTED
    message = explain(error)
    _tell_launcher(message or f"{type(error).__name__}: {error}")
    if message is None:
        to_stderr("".join(traceback.format_exception(error)))
    to_stderr(f"error: {message or DEFECT}\n")
    return WRONG_INPUT


def _tell_launcher(message: str) -> None:
    """Torchrun's last lines are a table of what failed: the reason stands in it when it is in this file."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        told = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps(told))


def interruption(error: Interrupted, arguments: list[str]) -> str:
    """The message of an interrupted command, which always says how to go on."""
    resume = error.resume or f"run the same command again: {shlex.join(['xclass', *arguments])}"
    return f"{error.what}\n  do: {resume}"


def explain(error: BaseException) -> str | None:
    """One clear message for an error that a person can act on, else None."""
    if isinstance(error, XclassError):
        return str(error)
    if isinstance(error, Undelivered):
        do = "see where the output of the command goes; what it wrote into files is whole"
        return str(XclassError("the answer can't be written", where="stdout", got=_reason(error.__cause__), do=do))
    for cause in _causes(error):
        if _is_full_disk(cause):
            return str(XclassError("the disk is full", where=_path_of(cause), got=str(cause), do=FREE_DISK))
        if is_out_of_memory(cause):
            return str(XclassError("out of memory", got=_first_line(cause) or type(cause).__name__, do=FREE_MEMORY))
    if isinstance(error, OSError):
        advice = "check the path" if error.errno in PATH_ERRORS and _path_of(error) else None
        return str(XclassError(_reason(error), where=_path_of(error), do=advice))
    if isinstance(error, UnicodeEncodeError) and not _is_text(error.object):
        return str(DataError("a name is not valid UTF-8", got=ascii(error.object), do="give it another name"))
    return None


DEFECT = "this is a defect of xclass, not of your input; please report it with the lines above"
FREE_DISK = "free some space or choose another --out; what was half-written has been removed"
FREE_MEMORY = (
    "make the batch, the chunk or the embedding smaller, raise the limits of this process (ulimit -a), "
    "or use a machine with more memory"
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return True
    return isinstance(error, Exception) and DISK_WORDS.search(str(error)) is not None


def _path_of(error: BaseException) -> str | None:
    name = error.filename if isinstance(error, OSError) else None
    return None if name is None else str(name)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _reason(error: BaseException | None) -> str:
    """What the system says, as a part of a sentence."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return reason[:1].lower() + reason[1:]


def _first_line(error: BaseException) -> str | None:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else None
