"""metrics.jsonl: one record per report, the last one with event "end". Always written, whatever else watches."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pydantic_core

from xclass.io.files import atomic_file, check_files
from xclass.io.records import Count, Metric, Record
from xclass.runtime.progress import say
from xclass.training.tensorboard import FOLDER, Board

GROWN = "grown"
PHASES = ("load", "sample", "pull", "loss", "push")


class LogRecord(Record):
    """What every record holds of what is read again."""

    step: Count
    event: str | None = None
    train_s: Metric = 0.0
    positives_per_s: Metric | None = None
    valid: dict[str, Metric] | None = None


class PhaseClock:
    """Adds the time of each phase of a step to ``seconds``."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._started = self._last = time.perf_counter()

    def start(self) -> None:
        """A step begins: time from now on belongs to the phase that is marked next."""
        self._started = self._last = time.perf_counter()

    def mark(self, phase: str | None) -> None:
        """The time since the last mark was spent on ``phase``; None: on waiting."""
        now = time.perf_counter()
        if phase is not None:
            self.seconds[phase] += now - self._last
        self._last = now

    def add(self, phase: str, seconds: float) -> None:
        """So much was spent on ``phase`` in another thread."""
        self.seconds[phase] += seconds

    def lap_s(self) -> float:
        """Seconds since the start, or since the lap before."""
        now = time.perf_counter()
        spent, self._started = now - self._started, now
        return spent


class Report:
    """What happened since the last record.

    Args:
        phase_s: phase → seconds of the whole training, added to as steps go by.
    """

    def __init__(self, phase_s: dict[str, float]) -> None:
        self.clock, self._before_s = PhaseClock(phase_s), dict(phase_s)
        self.steps = self.rows = self.positives = 0
        self.loss_sum = self.wall_s = 0.0

    def add(self, loss_sum: float, rows: int, positives: int) -> float:
        """Count one step in; returns the seconds since the one before."""
        spent_s = self.clock.lap_s()
        self.steps += 1
        self.wall_s += spent_s
        self.loss_sum += loss_sum
        self.rows += rows
        self.positives += positives
        return spent_s

    def mean_loss(self) -> float:
        """Mean over the queries since the last record."""
        return self.loss_sum / max(self.rows, 1)

    def record(self, step: int, epoch: int, train_s: float, learning_rate: float) -> dict[str, Any]:
        """One line of metrics.jsonl."""
        phase_s = {phase: seconds - self._before_s[phase] for phase, seconds in self.clock.seconds.items()}
        return {
            "step": step,
            "epoch": epoch,
            "train_s": round(train_s, 3),
            "loss": self.mean_loss() if self.rows else None,
            "learning_rate": learning_rate,
            "positives_per_s": round(self.positives / self.wall_s, 1) if self.wall_s else None,
            **phase_fields(phase_s, self.steps),
            "rss_bytes": rss_bytes(),
        }


def phase_fields(seconds: dict[str, float], steps: int) -> dict[str, dict[str, float]]:
    """``phase_ms``, mean time of a step in each phase, and ``phase_share`` of the sum of all phases."""
    whole = sum(seconds.values())
    return {
        "phase_ms": {phase: round(1000 * s / max(steps, 1), 4) for phase, s in seconds.items()},
        "phase_share": {phase: round(s / whole if whole else 0.0, 4) for phase, s in seconds.items()},
    }


def describe_phases(record: dict[str, Any]) -> str:
    """One line of a record's phases.

    >>> describe_phases({"phase_ms": {"load": 0.5, "loss": 4.5}, "phase_share": {"load": 0.1, "loss": 0.9}})
    'a step: load 0.50 ms (10%), loss 4.50 ms (90%)'
    """
    share = record["phase_share"]
    return "a step: " + ", ".join(f"{name} {ms:.2f} ms ({share[name]:.0%})" for name, ms in record["phase_ms"].items())


class MetricsLog:
    """Appends records to a file of JSON lines, each flushed. What was written beyond ``first_step`` is dropped.

    Args:
        path: of the file.
        first_step: where training begins or goes on.
        tensorboard: write the same figures for TensorBoard, in a folder beside the file.

    Raises:
        ArtefactError: what is at ``path`` is no file.
    """

    def __init__(self, path: Path, first_step: int, tensorboard: bool = False) -> None:
        check_files(path)
        kept = cut_after(path, first_step)
        self._board = Board(path.parent / FOLDER, kept) if tensorboard else None
        self._path, self._file = path, path.open("ab", buffering=0)
        self._waiting, self._told = b"", False

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, record: dict[str, Any]) -> None:
        """One record. When the disk is full it waits for the next one, and training goes on."""
        self._waiting += json.dumps(record).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            if self._board is not None:
                self._board.write(record)
        except OSError as error:
            if not self._told:
                say(f"{self._path} can't be written: {error.strerror}; training goes on, and its records wait")
            self._told = True


class NoLog:
    """Where another process writes the records of all."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def write(self, record: dict[str, Any]) -> None:
        """Nothing."""


def open_log(path: Path, first_step: int, tensorboard: bool, mine: bool) -> MetricsLog | NoLog:
    """The log of a run; ``mine``: this process writes it."""
    return MetricsLog(path, first_step, tensorboard) if mine else NoLog()


def cut_after(path: Path, first_step: int) -> list[dict[str, Any]]:
    """Drop what an interrupted run wrote beyond the checkpoint that is resumed, and what is no record; the rest.

    A line on stderr says how many lines were no records: one that was being written, or that was damaged.
    """
    if not path.exists():
        return []
    records, damaged = read_log(path)
    if damaged:
        say(f"{path}: {damaged:,} cut or damaged lines are dropped")
    grown = [number for number, record in enumerate(records, 1) if record.get("event") == GROWN]
    before = grown[-1] if grown else 0  # records before the run was last grown: its steps are counted anew from there
    kept = records[:before] + [record for record in records[before:] if _is_before(record, first_step)]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    return kept


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a file, and how many of its lines are none."""
    lines = path.read_bytes().splitlines()
    records = [record for record in map(_record, lines) if record is not None]
    return records, len(lines) - len(records)


def _record(line: bytes) -> dict[str, Any] | None:
    """A line of the file; None when it is no record."""
    try:
        found: dict[str, Any] = pydantic_core.from_json(line)
        LogRecord.model_validate(found)
    except ValueError:
        return None
    return found


def _is_before(record: dict[str, Any], first_step: int) -> bool:
    return "event" not in record and bool(record["step"] <= first_step)


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
