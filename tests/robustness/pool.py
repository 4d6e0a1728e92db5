"""Processes that run cases one after another; one that crashes or hangs is recorded with its case and replaced."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, NamedTuple

from tests.robustness.bases import build, small_parts
from tests.robustness.cases import Case, Tools
from tests.robustness.commands import BAD, CRASH, SLOW, UNCLEAR, Streams, Timer, Verdict
from tests.robustness.kinds import KINDS

LIMIT_S = 60.0
STARTING_S = 240.0
MEMORY_BYTES = 12 << 30  # of addresses: numbers that are too large end in an error, not in the machine's swap


class Result(NamedTuple):
    """What became of one case."""

    number: int
    kind: str
    made: str
    verdict: Verdict
    seconds: float


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    number: int | None = None
    since: float = 0.0


def case_of(seed: int, number: int, folder: Path) -> tuple[str, Case]:
    """(kind, case); its files are written into ``folder``. The same numbers give the same case."""
    chance = Random(f"{seed}/{number}")
    kind = chance.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]
    return kind, KINDS[kind].make(chance, folder)


def run_case(seed: int, number: int, tools: Tools, room: Path) -> Result:
    """Make a case and check it, in a folder of its own that is removed when nothing is wrong."""
    folder = room / f"case-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    timer, kind, made = Timer(), "", ""
    try:
        kind, case = case_of(seed, number, folder)
        made = case.made
        verdict = case.check(tools)
    except Exception:  # noqa: BLE001  the harness is wrong, too, then
        verdict = Verdict(UNCLEAR, "the harness: " + traceback.format_exc())
    seconds = timer.seconds()
    if seconds > LIMIT_S:
        verdict = Verdict(SLOW, f"{seconds:.0f} s; {verdict}")
    os.chdir(room)
    if verdict.outcome not in BAD:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(number, kind, made, verdict, seconds)


def results(seed: int, numbers: Iterable[int], workers: int, room: Path, bases: Path) -> Iterator[Result]:
    """Every case's result, as they come."""
    left = iter(numbers)
    pool = [_started(room, bases) for _ in range(workers)]
    try:
        for worker in pool:
            _next(worker, seed, left)
        while any(worker.number is not None for worker in pool):
            wait([worker.pipe for worker in pool if worker.number is not None], timeout=1.0)
            for place, worker in enumerate(pool):
                result = _ended(worker)
                if result is None:
                    continue
                yield result
                if not worker.process.is_alive() or result.verdict.outcome == SLOW:
                    _stop(worker)
                    pool[place] = worker = _started(room, bases)
                _next(worker, seed, left)
    finally:
        for worker in pool:
            _stop(worker)


def _next(worker: _Worker, seed: int, left: Iterator[int]) -> None:
    worker.number = next(left, None)
    worker.since = monotonic()
    if worker.number is not None:
        worker.pipe.send((seed, worker.number))


def _ended(worker: _Worker) -> Result | None:
    """The result of a worker that has one, or that has died or hangs."""
    if worker.number is None:
        return None
    spent = monotonic() - worker.since
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
    except (EOFError, ConnectionError):
        worker.process.join(10)
    if not worker.process.is_alive():
        verdict = Verdict(CRASH, f"exit code {worker.process.exitcode}")
    elif spent > LIMIT_S * 2:  # a case may have several commands
        worker.process.kill()
        verdict = Verdict(SLOW, f"no answer after {spent:.0f} s")
    else:
        return None
    return Result(worker.number, "", "", verdict, spent)


def _started(room: Path, bases: Path) -> _Worker:
    """A process that has everything loaded."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, room, bases), daemon=True)
    process.start()
    theirs.close()
    worker = _Worker(process, ours)
    if not ours.poll(STARTING_S):
        raise RuntimeError(f"a worker did not start; see {room}")
    ours.recv()
    return worker


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def built(room: Path, bases: Path) -> None:
    """Make the bases, in a process of their own."""
    process = multiprocessing.get_context("spawn").Process(target=_build, args=(room, bases))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the bases could not be made; see {room}")


def _build(room: Path, bases: Path) -> None:
    room.mkdir(parents=True, exist_ok=True)
    streams = Streams(room)
    small_parts()
    bases.mkdir()
    os.chdir(bases)
    build(bases, streams)


def _work(pipe: Connection, room: Path, bases: Path) -> None:
    room.mkdir(parents=True, exist_ok=True)
    tools = Tools(Streams(room), bases)
    sys.stdin = open(os.devnull)  # noqa: SIM115  for as long as the process lives
    faulthandler.enable(open(room / f"fault-{os.getpid()}", "w"))  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(room)
    small_parts()
    pipe.send("ready")
    while True:
        try:
            seed, number = pipe.recv()
        except EOFError:
            return
        pipe.send(run_case(seed, number, tools, room))
