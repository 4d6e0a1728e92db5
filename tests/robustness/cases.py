"""What a case is, and what its check is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.commands import Said, Streams, Verdict, run


@dataclass(frozen=True)
class Tools:
    """streams: of the process. bases: folder of what unmutated commands made (:mod:`tests.robustness.bases`)."""

    streams: Streams
    bases: Path

    def run(self, *arguments: str) -> Said:
        """One command, in the case's folder."""
        return run(self.streams, *arguments)


@dataclass(frozen=True)
class Case:
    """made: the input, in words. check: runs the command in the case's folder and judges its answer."""

    made: str
    check: Callable[[Tools], Verdict]
