"""Checkpoints beside training: what they cost the training, how long they take, what memory they need.

    python benchmarks/bench_checkpoints.py [--items 10000000] [--checkpoints 4] [--folder DIR]

The real loop (row-wise AdaGrad, 128 shared candidates, a million queries of 20 pairs whose items follow Zipf's law,
1,200 queries a batch) trains on a table of ``items`` × 64 float32. A checkpoint is begun some seconds after the one
before was whole; steps are told apart by whether one was being written. A first checkpoint is checked before anything
is timed: it must hold, bit for bit, what the tables were when it was begun (a hash made then, with training stopped).
Afterwards, with training stopped: the same content written by ``save``; by the safetensors library, synced, and hashed
by reading it again; and a resume. Memory is the most that was resident above what was there before. Needs three times
the table on the disk. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xclass.config import build_config
from xclass.data.batches import TrainBatches
from xclass.estimate.layout import Few
from xclass.io.manifest import sha256_file
from xclass.io.tensors import blocks_of, read_header
from xclass.runtime.rng import torch_generator
from xclass.training import Trainer
from xclass.training.build import build_model
from xclass.training.checkpoint.store import CheckpointStore, checkpoint_name
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

QUERIES, PAIRS, BETWEEN_S = 1_000_000, 20_000_000, 6.0
CONFIG = {
    "model": {"embedding_dim": 64, "normalize": False, "temperature": 1.0, "init_std": 0.02, "query": {"kind": "id"}},
    "sampler": {"kind": "log-uniform", "num_sampled": 128},
    "train": {
        "epochs": 1000,
        "checkpoint_every_s": BETWEEN_S,
        "keep_checkpoints": 1,
        "batch": {"by": "query", "size": 1200, "weight_power": 1.0},
        "validation": {"keep_best": False},
    },
}


class Done(Exception):
    """Enough was measured."""


class Catalogue(Few):
    """Items by falling popularity."""

    @property
    def item_counts(self) -> Tensor:
        return torch.arange(self.num_items, 0, -1, dtype=torch.int32)


def zipf_pairs(items: int) -> Ragged:
    """As many pairs for each query; an item's number is about exponential in a uniform one, as in Zipf's law."""
    uniform = torch.rand(PAIRS, generator=torch_generator(0, "pairs"), dtype=torch.float64)
    values = (torch.exp(uniform * torch.tensor(float(items + 1)).log()) - 1).long().clamp_(0, items - 1)
    offsets = torch.arange(0, PAIRS + 1, PAIRS // QUERIES)
    return Ragged(offsets, values.view(QUERIES, -1).sort(1).values.reshape(-1).to(torch.int32))


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise KeyError(key)


class Peak:
    """The most that became resident inside the context, above what was there before: ``bytes``."""

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = resident("VmHWM") - self._before


class Watched(Trainer):
    """Notes every step, and every checkpoint from its begin to its end."""

    def watch(self, checkpoints: int) -> None:
        """Training ends after so many; the first one is checked and counts for nothing."""
        self.wanted = checkpoints + 1
        self.steps: list[tuple[bool, int, float]] = []  # while one was written, positives, seconds
        self.begun_s: list[float] = []
        self.written: list[float] = []
        self.hashes: dict[str, str] = {}
        self.peak_bytes = {"without": 0, "while writing": 0}
        self.before_bytes = resident("VmRSS")
        write = self.store._write

        def timed(*args: Any) -> None:
            started = time.perf_counter()
            write(*args)
            self.written.append(time.perf_counter() - started)

        self.store._write = timed  # type: ignore[method-assign]

    def _step(self, ready: Any) -> int:
        busy, started = self.store.busy, time.perf_counter()
        positives = super()._step(ready)
        if self.written:
            self.steps.append((busy, positives, time.perf_counter() - started))
        if self.written and not self.position.step % 10:
            name = "while writing" if busy else "without"
            self.peak_bytes[name] = max(self.peak_bytes[name], resident("VmRSS") - self.before_bytes)
        if len(self.written) == 1 and self.hashes:
            self._check()
        if len(self.written) >= self.wanted:
            raise Done
        return positives

    def _checkpoint(self, beside: bool, best: bool = False) -> None:
        first = not self.begun_s
        if first:
            self.hashes = {name: hash_of(tensor) for name, tensor in self.state.tensors().items()}
        started = time.perf_counter()
        super()._checkpoint(beside, best)
        self.begun_s.append(time.perf_counter() - started)

    def _check(self) -> None:
        """The first checkpoint has the bits of its beginning, and the tables have others by now."""
        self.store.wait()
        found = file_hashes(next(self.store.folder.glob("step-*")) / "tensors.safetensors")
        assert found == self.hashes, "a checkpoint is not the state at its beginning"
        assert hash_of(self.model.tables["item"].weight) != self.hashes["table.item.weight"]
        self.hashes, self.steps, self._saved_s = {}, [], time.monotonic()


def hash_of(tensor: Tensor) -> str:
    digest = hashlib.sha256()
    for block in blocks_of(tensor):
        digest.update(block.tobytes())
    return digest.hexdigest()


def file_hashes(path: Path) -> dict[str, str]:
    """Of each tensor in a file."""
    found, entries = {}, read_header(path)
    with path.open("rb") as file:
        end = max(entry.stop for entry in entries.values())
        for name, entry in entries.items():
            file.seek(path.stat().st_size - end + entry.start)
            digest, left = hashlib.sha256(), entry.stop - entry.start
            while left:
                block = file.read(min(left, 1 << 24))
                digest.update(block)
                left -= len(block)
            found[name] = digest.hexdigest()
    return found


def timed(work: Any) -> tuple[float, int]:
    """(seconds, bytes above what was resident)."""
    with Peak() as peak:
        started = time.perf_counter()
        work()
        took_s = time.perf_counter() - started
    return took_s, peak.bytes


def library(folder: Path, tensors: dict[str, Tensor]) -> None:
    """What a user would write: save_file, sync, hash by reading."""
    save_file(tensors, folder / "plain.safetensors")
    with (folder / "plain.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    sha256_file(folder / "plain.safetensors")


def measure(items: int, checkpoints: int, folder: Path) -> dict[str, Any]:
    config = build_config(RunConfig, CONFIG)
    model = build_model(config, Catalogue(items, QUERIES), None, "cpu", folder=folder / "tables")
    batches = TrainBatches(zipf_pairs(items), config.train.batch, 0, model.tower.uses_history)
    trainer = Watched(model, batches, config.train, folder, None)
    trainer.watch(checkpoints)
    with contextlib.suppress(Done):
        trainer.run()
    tensors = trainer.state.tensors()
    answer = {
        "items": items,
        "checkpoint_bytes": sum(tensor.nbytes for tensor in tensors.values()),
        **{
            f"positives_per_s_{name}": round(sum(count for _, count, _ in chosen) / sum(s for _, _, s in chosen))
            for name, chosen in (
                ("without", [step for step in trainer.steps if not step[0]]),
                ("while_writing", [step for step in trainer.steps if step[0]]),
            )
        },
        "slowest_step_while_writing_ms": round(1000 * max(s for busy, _, s in trainer.steps if busy), 1),
        "slowest_step_without_ms": round(1000 * max(s for busy, _, s in trainer.steps if not busy), 1),
        "begin_ms": round(1000 * statistics.median(trainer.begun_s[1:]), 1),
        "beside_s": round(statistics.median(trainer.written[1:]), 2),
        "training_peak_bytes": trainer.peak_bytes["without"],
        "while_writing_peak_bytes": trainer.peak_bytes["while writing"],
    }
    plain, store = folder / "plain", CheckpointStore(folder / "stopped", keep=1)
    for old in (folder / "checkpoints").rglob("*.safetensors"):
        old.unlink()
    plain.mkdir()
    saved = timed(lambda: store.save(checkpoint_name(1), tensors, {}))
    answer |= {"save_s": round(saved[0], 2), "save_peak_bytes": saved[1]}
    loaded = timed(lambda: store.load(tensors, "sampler."))
    answer |= {"load_s": round(loaded[0], 2), "load_peak_bytes": loaded[1]}
    by_library = timed(lambda: library(plain, tensors))
    return answer | {"library_s": round(by_library[0], 2), "library_peak_bytes": by_library[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        answer = measure(options.items, options.checkpoints, Path(folder))
    for name, value in answer.items():
        print(f"{name:32s} {value:,}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
