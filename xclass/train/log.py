"""metrics.jsonl: one record per report, the last one with event "end". Always written, whatever else watches."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

PHASES = ("load", "sample", "pull", "loss", "push")


class PhaseClock:
    """Adds up the time of each phase of a step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.steps = 0
        self._last = time.perf_counter()

    def start(self) -> None:
        """Time from now on belongs to the phase that is marked next."""
        self._last = time.perf_counter()

    def mark(self, phase: str) -> None:
        """The time since the last mark was spent on ``phase``."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def phase_ms(self) -> dict[str, float]:
        """Milliseconds per step of each phase."""
        return {phase: round(1000 * total / max(self.steps, 1), 4) for phase, total in self.seconds.items()}

    def shares(self) -> str:
        """Each phase's share of the step, for people."""
        total = sum(self.seconds.values()) or 1.0
        return ", ".join(f"{phase} {part / total:.0%}" for phase, part in self.seconds.items())


class MetricsLog:
    """Appends records to a file of JSON lines, each flushed."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        _cut_after(path, first_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """One record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_after(path: Path, first_step: int) -> None:
    """Drop what an interrupted run wrote beyond the checkpoint that is resumed, and half-written lines."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("step", first_step + 1) <= first_step:
            kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")


def rss_bytes() -> int:
    """Resident memory of this process now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_rss_bytes()
    return pages * resource.getpagesize()


def peak_rss_bytes() -> int:
    """The most resident memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
