"""Kill −9 at random moments, resume, compare: every trial must end with the weights of the run that nobody disturbed.

    python benchmarks/kill_trials.py [--trials 1000] [--seed 0] [--folder DIR]

A tiny run (planted data, tables, dense layers, a sampler that learns, best weights that are not the last) is started in
a process of its own, killed at a random moment, resumed, perhaps killed again, up to four times, and finished. Then the
SHA-256 of model.safetensors must be that of the undisturbed run, and the directory must hold what that one's holds and
nothing else. Trials take turns between the configurations below.

Processes are forked off one that has loaded everything and has no thread of its own at work, so that a trial takes a
second and kills fall into the work, not into imports. A checkpoint is begun as soon as the one before is written, and
tables are read in blocks of 1 KiB with a pause after each, so that training goes on while they are read. What a process
was doing when it was killed is read from memory that it shares with its parent. The last line is JSON.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = "1"

import argparse
import collections
import hashlib
import json
import mmap
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from xclass.data.dataset import open_dataset
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.io import files, tensors
from xclass.runs import train
from xclass.training.checkpoint import store
from xclass.training.checkpoint.snapshot import Snapshot
from xclass.training.trainer import Trainer

BLOCK_BYTES, PAUSE_S = 1024, 1e-4
MOST_KILLS = 4
TRAIN = {
    "epochs": 5,
    "learning_rate": 100.0,
    "checkpoint_every_s": 1e-4,
    "batch": {"by": "query", "size": 32},
    "schedule": {"kind": "constant"},
    "validation": {"queries": 100},
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "AdaGrad, dense layers, learned sampler": {
        "model": {"embedding_dim": 16, "normalize": False, "temperature": 1.0, "query": {"hidden": [8]}},
        "sampler": {"kind": "learned-unigram", "num_sampled": 64},
        "train": TRAIN,
    },
    "Adam, bfloat16, mapped, weight decay": {
        "model": {"embedding_dim": 16, "normalize": False, "temperature": 1.0, "query": {"kind": "id"}},
        "optimizer": "adam",
        "tables": {"dtype": "bfloat16", "storage": "mapped", "weight_decay": 0.02},
        "sampler": {"num_sampled": 64},
        "train": {**TRAIN, "learning_rate": 0.2, "batch": {"by": "pair", "size": 256}, "keep_checkpoints": 1},
    },
}
# What is watched: owner, name, what it is called here. Later ones lie inside earlier ones.
WATCHED = [
    (train, "_train_in", "starting"),
    (Trainer, "resume", "loading a checkpoint"),
    (Trainer, "run", "between steps"),
    (Trainer, "_step", "in a step"),
    (Trainer, "_validate", "validating"),
    (Trainer, "_choose_weights", "loading the best weights"),
    (train, "_finish", "finishing"),
    (train, "write_tensors", "writing the model"),
    (train, "write_manifest", "writing the run's manifest"),
    (store.CheckpointStore, "keep_final", "tidying a finished run"),
    (store.CheckpointStore, "wait", "waiting for a checkpoint"),
    (store.CheckpointStore, "_write", "a checkpoint: around"),
    (store, "write_tensors", "a checkpoint: writing its tensors"),
    (store, "write_manifest", "a checkpoint: writing its manifest"),
    (files, "_swap_in", "a checkpoint: renaming"),
    (store, "remove_directory", "a checkpoint: removing an old one"),
]
NOTHING, OPENING = "nothing", "opening the dataset"
NAMES = [NOTHING, OPENING, *(name for _, _, name in WATCHED)]


class Watch:
    """Two bytes of shared memory: what the main thread does, and what the one that writes checkpoints does."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2)
        for owner, name, phase in WATCHED:
            setattr(owner, name, self._watched(getattr(owner, name), NAMES.index(phase)))

    def _watched(self, function: Any, number: int) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            slot = int(threading.current_thread().name == "xclass-checkpoint")
            before, self._memory[slot] = self._memory[slot], number
            try:
                return function(*args, **options)
            finally:
                self._memory[slot] = before

        return call

    def clear(self) -> None:
        """Before a process is forked."""
        self._memory[0], self._memory[1] = NAMES.index(OPENING), 0

    def seen(self) -> tuple[str, str]:
        """(main thread, writing thread)."""
        return NAMES[self._memory[0]], NAMES[self._memory[1]]


def slow_blocks() -> None:
    """Tables are read in small blocks, with time for steps between them."""
    tensors.BLOCK_BYTES = BLOCK_BYTES
    blocks = Snapshot.blocks

    def slow(self: Snapshot, name: str) -> Iterator[np.ndarray]:
        for block in blocks(self, name):
            yield block
            time.sleep(PAUSE_S)

    Snapshot.blocks = slow  # type: ignore[method-assign]


def start(dataset: Path, settings: Any, out: Path, log: Path) -> int:
    """A process that trains, or goes on; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        train.train_run(open_dataset(dataset), settings, out, resume=True, check_memory=False)
        code = 0
    except BaseException:  # noqa: BLE001  whatever it was, the parent shows it
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, within_s: float) -> int | None:
    """The exit code of a process, or None when it goes on for longer."""
    until = time.monotonic() + within_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(2e-4)


def finish(dataset: Path, settings: Any, out: Path, log: Path) -> float:
    """Train undisturbed; seconds. A failure ends everything and shows what was said."""
    started = time.monotonic()
    code = ended(start(dataset, settings, out, log), 600)
    if code != 0:
        sys.exit(f"{out}: exit code {code}\n{log.read_text()}")
    return time.monotonic() - started


def result(out: Path) -> tuple[str, list[str]]:
    """(SHA-256 of the weights, every path in the run directory)."""
    paths = sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(), paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        trials(Path(folder), options.trials, random.Random(options.seed))


def trials(folder: Path, count: int, chance: random.Random) -> None:
    """All of them; prints how many kills fell where."""
    dataset, log = folder / "dataset", folder / "log"
    planted = PlantedModel(num_items=300, num_queries=400, pairs=6000, num_topics=8, seed=3)
    planted.write_dataset(dataset)
    settings = {name: train.resolve_config(values) for name, values in CONFIGURATIONS.items()}
    for name, chosen in settings.items():  # in this process: its children find everything compiled
        train.train_run(open_dataset(dataset), chosen, folder / f"warm {name}")
    assert threading.active_count() == 1, "a process with threads must not be forked"
    watch = Watch()
    slow_blocks()
    wanted, whole_s = {}, {}
    for name, chosen in settings.items():
        out = folder / f"whole {name}"
        whole_s[name] = finish(dataset, chosen, out, log)
        wanted[name] = result(out)
        assert wanted[name] == result(folder / f"warm {name}"), "blocks and pauses must not change anything"
        best = json.loads((out / "run.json").read_text())["result"]
        print(
            f"{name}: {whole_s[name]:.2f} s undisturbed, {best['steps']} steps, best at {best['best_step']}", flush=True
        )
    seen, writing = collections.Counter[str](), collections.Counter[str]()
    kills = too_late = wrong = 0
    started = time.monotonic()
    for trial in range(count):
        name = list(settings)[trial % len(settings)]
        out = folder / f"trial-{trial}"
        log.write_text("")
        for _ in range(chance.randint(1, MOST_KILLS)):
            watch.clear()
            pid = start(dataset, settings[name], out, log)
            code = ended(pid, chance.uniform(0, whole_s[name]) * chance.choice((1.0, chance.random())))
            if code is None:
                os.kill(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code == -signal.SIGKILL:
                main_thread, writer = watch.seen()
                seen[main_thread] += 1
                writing[writer] += 1
                kills += 1
            elif code != 0:
                sys.exit(f"trial {trial}: exit code {code}\n{log.read_text()}")
            else:
                too_late += 1
        finish(dataset, settings[name], out, log)
        if result(out) != wanted[name]:
            wrong += 1
            print(f"trial {trial} ({name}) differs: {result(out)}\n{log.read_text()}", flush=True)
        else:
            remove(out)
        if (trial + 1) % 50 == 0:
            rate = (time.monotonic() - started) / (trial + 1)
            print(f"{trial + 1} trials, {kills} kills, {wrong} wrong, {rate:.2f} s each", flush=True)
    report(seen, writing)
    print(json.dumps({"trials": count, "kills": kills, "after_the_end": too_late, "wrong": wrong, "seen": seen,
                      "writing": writing, "seconds": round(time.monotonic() - started, 1)}))  # fmt: skip
    sys.exit(1 if wrong else 0)


def remove(out: Path) -> None:
    """A directory and everything in it."""
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    out.rmdir()


def report(seen: collections.Counter[str], writing: collections.Counter[str]) -> None:
    """Where kills fell."""
    for title, found in (("main thread", seen), ("thread that writes checkpoints", writing)):
        print(f"\nkilled while the {title} was")
        for name in NAMES:
            if found[name]:
                print(f"  {found[name]:5d}  {name}")


if __name__ == "__main__":
    main()
