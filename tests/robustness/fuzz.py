"""``python -m tests.robustness.fuzz``: mutated inputs of every kind, and kills; a table of outcomes.

    --cases N     mutated inputs (20,000)
    --kills N     commands killed at a random moment, and run again (200)
    --seed N      another seed gives other cases; the same seed the same
    --case N      one case alone: what was made, what it answered; its files are kept
    --workers N   processes (one a core)
    --out FILE    the table, as Markdown
    --folder DIR  where files are written (memory, where the system has /dev/shm)

The exit code is 0 when no case went wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.robustness import kills
from tests.robustness.commands import BAD, Timer
from tests.robustness.environment import one_thread
from tests.robustness.pool import Result, built, results
from tests.robustness.report import markdown

SHARED_MEMORY = Path("/dev/shm")


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments ask for."""
    options = parsed(arguments)
    numbers = range(options.cases) if options.case is None else [options.case]
    room = Path(tempfile.mkdtemp(prefix="xclass-fuzz-", dir=options.folder))
    print(f"files in {room}")
    timer, bases = Timer(), room / "bases"
    one_thread()
    built(room, bases)
    found = list(shown(results(options.seed, numbers, options.workers, room, bases), len(numbers)))
    if options.case is None and options.kills:
        found += shown(kills.results(options.seed, options.kills, room, bases), options.kills)
    text = markdown(found, options, timer.seconds())
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return int(any(result.verdict.outcome in BAD for result in found))


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, default=None)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--folder", type=Path, default=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
    return parser.parse_args(arguments)


def shown(stream, total: int):
    """The results as they come; each that is wrong is printed, and how far it is every thousand."""
    counts: Counter[str] = Counter()
    timer = Timer()
    for result in stream:
        counts[result.verdict.outcome] += 1
        if result.verdict.outcome in BAD or total == 1:
            print_case(result)
        if counts.total() % 1000 == 0:
            print(f"{counts.total():,} of {total:,}, {timer.seconds():.0f} s: {dict(counts)}", flush=True)
        yield result


def print_case(result: Result) -> None:
    """One case, for whoever looks into it."""
    why = result.verdict.why.replace("\n", "\n    ")
    print(
        f"case {result.number} ({result.kind}, {result.seconds:.1f} s): {result.verdict.outcome}\n    {result.made}\n    {why}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
