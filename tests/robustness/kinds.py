"""The kinds of cases, and how many of a hundred are of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.robustness import artefacts, given_files, settings, sources
from tests.robustness.cases import Case


@dataclass(frozen=True)
class Kind:
    """weight: its share. make: (chance, folder) → a case whose files lie in the folder."""

    weight: int
    make: Callable[[Random, Path], Case]


KINDS = {
    "sources": Kind(40, sources.case),
    "artefacts": Kind(25, artefacts.case),
    "given files": Kind(17, given_files.case),
    "configuration": Kind(10, settings.configuration),
    "options": Kind(8, settings.options),
}
