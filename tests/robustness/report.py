"""The table of outcomes."""

from __future__ import annotations

import argparse
from collections import Counter

from tests.robustness.commands import BAD, GOOD
from tests.robustness.pool import Result


def markdown(found: list[Result], options: argparse.Namespace, seconds: float) -> str:
    columns = (*GOOD, *BAD)
    lines = ["| kind | cases | " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) + 1)]
    for kind in [*sorted({result.kind for result in found}), None]:
        chosen = [result for result in found if kind in (None, result.kind)]
        counts = Counter(result.verdict.outcome for result in chosen)
        lines.append(
            f"| {kind or 'all'} | {len(chosen):,} | " + " | ".join(f"{counts[name]:,}" for name in columns) + " |"
        )
    return "\n".join(lines) + f"\n\n{seconds:.0f} s\n"
