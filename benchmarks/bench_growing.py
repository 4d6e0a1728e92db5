"""Growing: an append beside one ingest of everything, a grown run beside one from scratch, kill −9 at random moments.

    python benchmarks/bench_growing.py [--pairs 2000000] [--kills 10]

Four fifths of a stream of pairs are ingested and trained on, then the last fifth, with items and queries of its own, is
appended and the run is grown. Checked before anything is printed: the appended dataset has the same files, byte for
byte, as one ingest of everything (split by time); every old row of the grown run's first checkpoint has the bits
that it had, weight and state; after kill −9 at any moment the same command ends with the same bytes. Every command
runs in a process of its own, so that its peak memory is its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xclass.data.dataset import open_dataset
from xclass.data.ids import match_ids
from xclass.runtime.rng import numpy_generator

CONFIG = """
[model]
embedding_dim = 64
[sampler]
num_sampled = 128
[train]
epochs = 1
steps = {steps}
checkpoint_every_s = 0
[train.batch]
size = 4096
[train.validation]
queries = 100
keep_best = false
"""
DATASET_FILES = ("items.parquet", "queries.parquet", "train", "valid", "test")
RUN_FILES = ("model.safetensors", "items.parquet", "queries.parquet")
MEASURE = """
import json, resource, sys, time
from xclass.cli import main
started = time.perf_counter()
code = main(sys.argv[1:])
print(json.dumps([code, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def generate(folder: Path, pairs: int) -> None:
    """a.csv, b.csv and both in ab.csv; the later part has a tenth more items and queries."""
    draw = numpy_generator(0, "bench growing")
    late = np.arange(pairs) >= pairs * 4 // 5
    queries = draw.integers(0, np.where(late, pairs // 18, pairs // 20))
    items = (draw.random(pairs) ** 2 * np.where(late, pairs // 7, pairs // 8)).astype(np.int64)
    frame = pl.DataFrame({"user_id": queries, "item_id": items, "timestamp": np.arange(pairs)})
    frame = frame.with_columns(
        pl.format("user-{}", "user_id").alias("user_id"), pl.format("item-{}", "item_id").alias("item_id")
    )
    frame.write_csv(folder / "ab.csv")
    frame.filter(~late).write_csv(folder / "a.csv")
    frame.filter(late).write_csv(folder / "b.csv")


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", MEASURE, *arguments, "--json"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def measured(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds of a command without the start of Python, and peak GiB."""
    process = start(folder, list(arguments))
    told, errors = process.communicate()
    code, seconds, gib = json.loads(told.splitlines()[-1]) if told else (1, 0.0, 0.0)
    assert process.returncode == 0 and code == 0, errors
    return seconds, gib


def digest(folder: Path, names: tuple[str, ...]) -> list[str]:
    """SHA-256 of the files, and of all files below the folders, of these names."""
    chosen = [folder / name for name in names]
    files = [file for path in chosen for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]


def rows_have_their_bits(before: Path, after: Path, old_ids: pl.Series, new_ids: pl.Series) -> int:
    """Compare every old row of every item table of two checkpoints; returns how many numbers were compared."""
    places, compared = match_ids(old_ids, new_ids), 0
    with safe_open(before, "pt") as old, safe_open(after, "pt") as new:
        for name in [name for name in old.keys() if name.startswith(("table.item.", "table.history."))]:  # noqa: SIM118
            was, now = old.get_tensor(name), new.get_tensor(name)
            if was.dim() == 0:
                continue
            assert len(was) == len(old_ids) and len(now) == len(new_ids)
            assert np.array_equal(was.numpy().view(np.uint32), now[places].numpy().view(np.uint32)), name
            compared += was.numel()
    return compared


def kill_trials(folder: Path, source: str, work: str, command: list[str], names: tuple[str, ...], kills: int) -> int:
    """Kill the command at random moments and run it again, on copies of ``source``; returns how many kills hit."""
    shutil.copytree(folder / source, folder / work)
    seconds = -time.perf_counter()
    measured(folder, *command)
    seconds += time.perf_counter()
    wanted, draw, hit = digest(folder / work, names), numpy_generator(1, "kills"), 0
    for _ in range(kills):
        shutil.rmtree(folder / work)
        shutil.copytree(folder / source, folder / work)
        process = start(folder, command)
        try:
            process.communicate(timeout=seconds * (0.2 + 0.9 * draw.random()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            hit += 1
        if digest(folder / work, names) != wanted:  # else the kill came after the change
            measured(folder, *command)
        assert digest(folder / work, names) == wanted
        assert not (folder / work / "growing").exists() or names != RUN_FILES
    shutil.rmtree(folder / work)
    return hit


def bench(folder: Path, pairs: int, kills: int) -> dict[str, Any]:
    generate(folder, pairs)
    (folder / "c.toml").write_text(CONFIG.format(steps=200))
    split = ("--split", "time")
    old_s, _ = measured(folder, "ingest", "a.csv", "--out", "old", *split)
    append_s, append_gib = measured(folder, "ingest", "b.csv", "--append", "--base", "old", "--out", "new")
    whole_s, whole_gib = measured(folder, "ingest", "ab.csv", "--out", "whole", *split)
    assert digest(folder / "new", DATASET_FILES) == digest(folder / "whole", DATASET_FILES)
    train = ("--config", "c.toml", "--out")
    measured(folder, "train", "old", *train, "run")
    (folder / "none.toml").write_text(CONFIG.format(steps=0))
    shutil.copytree(folder / "run", folder / "moved")
    grow_s, grow_gib = measured(
        folder, "train", "new", "--config", "none.toml", "--out", "moved", "--resume", "--grow-vocab"
    )
    checkpoint = "tensors.safetensors"
    compared = rows_have_their_bits(
        sorted((folder / "run" / "checkpoints").glob("step-*"))[-1] / checkpoint,
        folder / "moved" / "checkpoints" / "step-000000000000" / checkpoint,
        open_dataset(folder / "old").items["item_id"],
        open_dataset(folder / "new").items["item_id"],
    )
    scratch_s, scratch_gib = measured(folder, "train", "new", "--config", "none.toml", "--out", "scratch")
    killed = {
        "append": kill_trials(folder, "old", "a", ["ingest", "b.csv", "--append", "--out", "a"], DATASET_FILES, kills),
        "grow": kill_trials(
            folder, "run", "r", ["train", "new", *train, "r", "--resume", "--grow-vocab"], RUN_FILES, kills
        ),
    }
    grown = json.loads((folder / "moved" / "run.json").read_text())["grown"][0]
    return {
        "pairs": pairs,
        "items": grown["items"],
        "numbers_compared": compared,
        "ingest_old_s": round(old_s, 2),
        "append_s": round(append_s, 2),
        "ingest_whole_s": round(whole_s, 2),
        "append_gib": round(append_gib, 2),
        "ingest_whole_gib": round(whole_gib, 2),
        "grow_without_training_s": round(grow_s, 2),
        "scratch_without_training_s": round(scratch_s, 2),
        "grow_gib": round(grow_gib, 2),
        "scratch_gib": round(scratch_gib, 2),
        "trials_each": kills,
        "killed": killed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2_000_000)
    parser.add_argument("--kills", type=int, default=10)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(bench(Path(folder), chosen.pairs, chosen.kills), indent=None))


if __name__ == "__main__":
    main()
