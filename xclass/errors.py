"""Errors a person can act on.

    XclassError            exit code 1: one message, no traceback
     ├ InputError          an argument of a function: shape, dtype, range (also a ValueError)
     ├ DataError           a file someone gave us
     ├ ConfigError         a configuration, with its dotted path
     └ ArtefactError       a directory of ours: dataset, run, index, checkpoint
    Interrupted            exit code 3: stopped by a signal; the work can be resumed

An assertion is for our own mistakes, these are for the user's input.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XclassError(Exception):
    """One clear message: what is wrong, where, what was wanted, what came, what to do.

    >>> print(DataError("column is missing", where="a.csv", wanted="user_id", got="user", do="pass --query-col user"))
    a.csv: column is missing
      wanted: user_id
      got: user
      do: pass --query-col user
    """

    def __init__(
        self, what: str, *, where: object = None, wanted: object = None, got: object = None, do: str | None = None
    ) -> None:
        self.what, self.where, self.wanted, self.got, self.do = what, where, wanted, got, do
        lines = [f"{where}: {what}" if where is not None else what]
        lines += [
            f"  {name}: {value}" for name, value in (("wanted", wanted), ("got", got), ("do", do)) if value is not None
        ]
        super().__init__("\n".join(lines))


class InputError(XclassError, ValueError):
    """An argument has the wrong shape, dtype or range."""


class DataError(XclassError):
    """A file that someone gave us can't be used."""


class ConfigError(XclassError):
    """A configuration is wrong; ``where`` is the dotted path of the key."""


class ArtefactError(XclassError):
    """A dataset, run, index or checkpoint is missing, cut, altered or of another version."""


RESUME = "run the same command with --resume (in Python resume=True)"


class Interrupted(Exception):
    """Work was stopped by a signal; ``resume`` says how to go on, None: by the same command or call."""

    def __init__(self, what: str, resume: str | None = None) -> None:
        self.what, self.resume = what, resume
        super().__init__(what if resume is None else f"{what}\n  do: {resume}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, then all of them.

    >>> nearest("tempature", ["temperature", "loss"])
    'did you mean "temperature"? known: loss, temperature'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    listed = f"known: {', '.join(names)}" if names else "nothing is known here"
    return f'did you mean "{close[0]}"? {listed}' if close else listed


def lookup(kind: str, name: str, registry: dict, where: object = None):  # type: ignore[type-arg,no-untyped-def]
    """``registry[name]``, or a ConfigError that lists what is registered."""
    if name not in registry:
        raise ConfigError(f'there is no {kind} "{name}"', where=where, do=nearest(name, registry))
    return registry[name]
