"""The table of outcomes, with what it needs to be repeated."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import subprocess
import sys
from collections import Counter

from tests.robustness.commands import BAD, GOOD
from tests.robustness.pool import Result

PACKAGES = ("torch", "polars", "numpy", "faiss-cpu", "numba", "pydantic")


def markdown(found: list[Result], options: argparse.Namespace, seconds: float) -> str:
    """A page: conditions, a row for each kind, and every case that went wrong."""
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    slowest = max(found, key=lambda result: result.seconds, default=None)
    lines = [
        "# Mutated inputs and kills",
        "",
        f"{datetime.date.today():%d %B %Y} · {options.workers} processes of one thread each · Python {platform.python_version()}, {versions} · commit {_commit()}",
        "",
        f"    python -m tests.robustness.fuzz {' '.join(sys.argv[1:])}",
        "",
        f"{len(found):,} cases, seed {options.seed}, {seconds / 60:.0f} minutes; the slowest took {slowest.seconds if slowest else 0:.1f} s.",
        "",
        *_table(found),
        "",
        *_wrong([result for result in found if result.verdict.outcome in BAD]),
    ]
    return "\n".join(lines) + "\n"


def _table(found: list[Result]) -> list[str]:
    columns = (*GOOD, *BAD)
    lines = ["| kind | cases | " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) + 1)]
    for kind in [*sorted({result.kind for result in found}), None]:
        chosen = [result for result in found if kind in (None, result.kind)]
        counts = Counter(result.verdict.outcome for result in chosen)
        lines.append(
            f"| {kind or 'all'} | {len(chosen):,} | " + " | ".join(f"{counts[name]:,}" for name in columns) + " |"
        )
    return lines


def _wrong(found: list[Result]) -> list[str]:
    if not found:
        return ["Nothing went wrong."]
    return [
        "What went wrong:",
        "",
        *(f"- case {each.number}, {each.kind}, {each.verdict.outcome}: {each.made}" for each in found),
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"
