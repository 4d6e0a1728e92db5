"""Commands killed at a random moment and run again: they end with the bits of a run that nobody disturbed.

Processes are forked off one that has everything loaded and has done nothing, so that a trial takes a second and kills
fall into the work, not into imports.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.robustness.bases import PLAIN, small_parts
from tests.robustness.commands import DEFECT, LEFTOVER, RIGHT, SLOW, TRACEBACK, UNCLEAR, WRONG, Timer, Verdict
from tests.robustness.environment import one_thread
from tests.robustness.pool import LIMIT_S, Result

INTERRUPTED = 3
MOST_KILLS = 3
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MAPPED = """optimizer = "adam"
[tables]
dtype = "bfloat16"
storage = "mapped"
weight_decay = 0.02
"""


class Ended(NamedTuple):
    """How a process ended: its exit code (negative: the signal's), what it said on stderr, seconds."""

    code: int
    err: str
    seconds: float


class Trial(NamedTuple):
    """brought: copies of the bases. command: what is killed. again: what is run then. result: what must be the same.

    once: what is done is done; the same command refuses to do it again.
    """

    brought: tuple[str, ...]
    command: str
    again: str
    result: Callable[[Path], Any]
    once: bool = False


def _tree(name: str) -> Callable[[Path], Any]:
    """Every file of a directory with its hash, hidden ones left out."""

    def result(folder: Path) -> Any:
        found = {
            path.relative_to(folder).as_posix(): _hash(path)
            for path in sorted((folder / name).rglob("*"))
            if path.is_file()
        }
        return {path: digest for path, digest in found.items() if not Path(path).name.startswith(".")}

    return result


def _file(name: str) -> Callable[[Path], Any]:
    return lambda folder: _hash(folder / name) if (folder / name).exists() else None


def _run(name: str) -> Callable[[Path], Any]:
    """The weights, and the names of all files."""

    def result(folder: Path) -> Any:
        paths = sorted(path.relative_to(folder).as_posix() for path in (folder / name).rglob("*"))
        return _file(f"{name}/model.safetensors")(folder), paths

    return result


def _measured(folder: Path) -> Any:
    path = folder / "e.json"
    return json.loads(path.read_text())["metrics"] if path.exists() else None


TRAIN = "train {0} --config {1} --out r --set train.epochs=12"
TRIALS = {
    "ingest": Trial(("many.csv",), "ingest many.csv --out o --split random", "", _tree("o"), once=True),
    "ingest, sorted on disk": Trial(("many.csv",), "ingest many.csv --out o --split random --memory 0", "", _tree("o"), once=True),
    "ingest --append": Trial(("ds", "more.csv"), "ingest more.csv --append --out ds", "", _tree("ds/train")),
    "train": Trial(("ds", "c.toml"), TRAIN.format("ds", "c.toml"), " --resume", _run("r")),
    "train, mapped tables": Trial(("ds", "mapped.toml"), TRAIN.format("ds", "mapped.toml"), " --resume", _run("r")),
    "train, features": Trial(("doc", "c.toml"), TRAIN.format("doc", "c.toml") + ' --set model.query.kind="features"', " --resume", _run("r")),
    "train --grow-vocab": Trial(("run", "grown", "c.toml"), "train grown --config c.toml --out run --resume --grow-vocab", "", _file("run/model.safetensors"), once=True),
    "index": Trial(("run",), "index run --factory HNSW8,Flat -k 5 --target-recall 0.1 --deterministic", "", _file("run/index/index.faiss"), once=True),
    "retrieve": Trial(("run",), "retrieve run --out o.jsonl -k 5 --exact", " --resume", _file("o.jsonl")),
    "retrieve --directory": Trial(("run",), "retrieve run --out o -k 5 --exact --directory --format jsonl", " --resume", _tree("o"), once=True),
    "evaluate": Trial(("run",), "evaluate run -k 5 --out e.json --per-query p.parquet", "", _measured),
    "export": Trial(("run",), "export run --item-vectors v.parquet", "", _file("v.parquet")),
}  # fmt: skip


def results(seed: int, kills: int, room: Path, bases: Path) -> Iterator[Result]:
    """Trials of all commands in turn, until so many processes were killed; a result each."""
    write_inputs(bases)
    with multiprocessing.get_context("spawn").Pool(1, initializer=_prepare, initargs=(room,)) as pool:

        def start(folder: Path, command: str, after_s: float, number: int) -> Ended:
            return pool.apply(_start, (folder, command, after_s, number))

        whole: dict[str, tuple[Any, float]] = {}
        names = Random(f"{seed}/kills").sample(list(TRIALS), len(TRIALS))
        done = number = 0
        while done < kills:
            name, timer, folder = names[number % len(names)], Timer(), room / f"kill-{number}"
            if name not in whole:
                whole[name] = _undisturbed(TRIALS[name], folder, bases, start)
            verdict, killed = _tried(TRIALS[name], folder, bases, whole[name], Random(f"{seed}/kill/{number}"), start)
            yield Result(number, f"kills: {name}", f"{killed} kills", verdict, timer.seconds())
            done, number = done + killed, number + 1


def write_inputs(bases: Path) -> None:
    """What only kills need: more pairs, another configuration."""
    chance = Random(3)
    rows = "".join(
        f"u{chance.randrange(900)},i{chance.randrange(700)},{chance.randrange(10**6)}\n" for _ in range(20_000)
    )
    (bases / "many.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (bases / "mapped.toml").write_text(MAPPED + PLAIN)


def _undisturbed(trial: Trial, folder: Path, bases: Path, start: Any) -> tuple[Any, float]:
    """(result, seconds) of the command alone; the second time, when what is compiled has been loaded once."""
    for _ in range(2):
        _bring(trial, folder, bases)
        ended = start(folder, trial.command, LIMIT_S * 4, signal.SIGKILL)
        if ended.code:
            raise RuntimeError(f"{trial.command} → {ended.code}: {ended.err}")
    return trial.result(folder), ended.seconds


def _tried(
    trial: Trial, folder: Path, bases: Path, whole: tuple[Any, float], chance: Random, start: Any
) -> tuple[Verdict, int]:
    """(what became of it, how many processes were killed)."""
    wanted, seconds = whole
    _bring(trial, folder, bases)
    command, killed = trial.command, 0
    for _ in range(chance.randint(1, MOST_KILLS)):
        number = chance.choice(SIGNALS)
        ended = start(folder, command, chance.uniform(0, seconds), number)
        if ended.code == 0:
            break
        killed += 1
        if ended.code not in (-signal.SIGKILL, INTERRUPTED) and not (
            trial.once and ended.code == 1 and trial.result(folder) == wanted
        ):
            return _bad(ended, command, "after a signal"), killed
        if DEFECT.search(ended.err):
            return _bad(ended, command, "after a signal"), killed
        command = trial.command + trial.again
    return _finished(trial, folder, wanted, command, start), killed


def _finished(trial: Trial, folder: Path, wanted: Any, command: str, start: Any) -> Verdict:
    """The last time nobody disturbs it."""
    if trial.result(folder) != wanted or not trial.once:
        ended = start(folder, command, LIMIT_S, signal.SIGKILL)
        if ended.code and not (ended.code == 1 and trial.result(folder) == wanted):
            return Verdict(SLOW) if ended.code == -signal.SIGKILL else _bad(ended, command, "the last time")
        left = [path.name for path in folder.rglob(".*") if LEFTOVER.fullmatch(path.name)]
        if left:
            return Verdict(UNCLEAR, f"left behind: {left}; {folder}")
    got = trial.result(folder)
    if got != wanted:
        return Verdict(WRONG, f"{got}, undisturbed {wanted}; {folder}"[:600])
    shutil.rmtree(folder)
    return Verdict(RIGHT)


def _bad(ended: Ended, command: str, when: str) -> Verdict:
    outcome = TRACEBACK if DEFECT.search(ended.err) else UNCLEAR
    return Verdict(outcome, f"{command} {when} → {ended.code}\n{ended.err[-800:]}")


def _bring(trial: Trial, folder: Path, bases: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in trial.brought:
        if (bases / name).is_dir():
            shutil.copytree(bases / name, folder / name)
        else:
            shutil.copy(bases / name, folder / name)


def _prepare(room: Path) -> None:
    """Load everything, do nothing: a process whose threads have begun must not be forked."""
    one_thread()
    import faiss  # noqa: F401
    import polars  # noqa: F401
    import torch

    import xclass.cli.app
    import xclass.recommender
    import xclass.runs.train  # noqa: F401

    torch.set_num_threads(1)
    small_parts()


def _start(folder: Path, command: str, after_s: float, number: int) -> Ended:
    """Run a command in a process of its own and send it a signal after so many seconds, if it still runs."""
    timer = Timer()
    pid = os.fork()
    if pid == 0:
        _command(folder, command)
    status = _waited(pid, after_s)
    if status is None:
        os.kill(pid, number)
        status = _waited(pid, LIMIT_S)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    return Ended(os.waitstatus_to_exitcode(status), (folder / ".said").read_text(errors="replace"), timer.seconds())


def _waited(pid: int, within_s: float) -> int | None:
    until = time.monotonic() + within_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() >= until:
            return None
        time.sleep(2e-4)


def _command(folder: Path, command: str) -> None:
    """In the child: the command, then the end; nothing of the parent's is run."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        said = os.open(folder / ".said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        from xclass.cli import main

        code = main(command.split())
    except BaseException:  # noqa: BLE001  whatever it was, the parent shows it
        traceback.print_exc()
    finally:
        os._exit(code)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
