"""How long the command line takes to start: `xclass --help` and its like.

Checks first that help lists every command, then times new processes: the median and the best of five.

    python benchmarks/bench_cli.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from xclass.cli.app import COMMANDS

RUNS = 5
CASES = {"help": ["--help"], "help of a command": ["ingest", "--help"], "version": ["--version"]}


def run(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "xclass", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def seconds(arguments: list[str]) -> list[float]:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run(arguments)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    text = run(["--help"])
    assert all(f"\n  {name} " in text for name in COMMANDS), text
    print("| what | median s | best s |\n|---|--:|--:|")
    for what, arguments in CASES.items():
        times = seconds(arguments)
        print(f"| {what} | {statistics.median(times):.3f} | {min(times):.3f} |")


if __name__ == "__main__":
    main()
