"""Training at scale: whole `xclass train` commands, and one step beside catalogues of growing size.

    python benchmarks/bench_training.py jobs [--rounds 3] [--work DIR]
    python benchmarks/bench_training.py catalogue [--rounds 5] [--items 100000 10000000 100000000] [--work DIR]

jobs: `configs/scale-10m.toml` on ten million planted items, by query and by pair, with 128 and with 8,192 shared
negatives, each a process of its own that loads, trains and writes its run; figures are those of its metrics.jsonl. That
every step was made and the loss fell is checked first.

catalogue: the steps of one process on planted datasets that differ in their number of items, 8,192 pairs and 128 shared
negatives a step, taking turns in blocks of steps, tables in the same dtype. That the rows pulled are those stored is
checked first. Bars: 10M ≤ 1.5 × 100k, 100M ≤ 2.5 ×. Tables of 100M × 64 bfloat16 take 13 GB.

Planted datasets are made in DIR once. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SCALE = ROOT / "configs" / "scale-10m.toml"
BY_PAIR = ['train.batch.by="pair"', "train.batch.size=8192", "train.batch.weight_power=0"]
JOBS = {
    "by query, 128 negatives": [],
    "by query, 8,192 negatives": ["sampler.num_sampled=8192", "train.steps=100"],
    "by pair, 128 negatives": [*BY_PAIR, "train.steps=600"],
    "by pair, 128 negatives, bfloat16 products": [*BY_PAIR, "train.steps=600", 'product_dtype="bfloat16"'],
    "by pair, 8,192 negatives": [*BY_PAIR, "train.steps=40", "sampler.num_sampled=8192"],
}
WARM, BLOCK = 20, 60


def planted(work: Path, items: int) -> Path:
    """A dataset of a million queries and twenty pairs each; of a hundred million items, fifty."""
    out = work / f"planted-{items}"
    if not (out / "dataset.json").exists():
        spec = f"planted:items={items},queries=1000000,pairs=20000000"
        if items > 50_000_000:
            spec = f"planted:items={items},queries=2000000,pairs=100000000,topics=128,sharpness=8"
        subprocess.run([sys.executable, "-m", "xclass", "ingest", spec, "--out", str(out)], check=True, cwd=ROOT)
    return out


def train(dataset: Path, out: Path, changes: list[str]) -> dict[str, Any]:
    """The last record of a whole command."""
    sets = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "xclass", "train", dataset, "--config", SCALE, "--out", out, "--json", *sets]
    subprocess.run([*map(str, command)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record.get("loss")]
    assert records[-1]["event"] == "end" and (len(losses) < 2 or losses[-1] < losses[0]), losses
    shutil.rmtree(out)
    return records[-1]


def jobs(work: Path, rounds: int) -> dict[str, Any]:
    dataset, found = planted(work, 10_000_000), {name: [] for name in JOBS}
    for _ in range(rounds):
        for name, changes in JOBS.items():
            found[name].append(train(dataset, work / "run", ["train.validation.queries=100", *changes]))
    result = {}
    print("| job | positives/s | load ms | sample ms | pull ms | loss ms | push ms | peak GiB |")
    print("|---|" + "--:|" * 7)
    for name, ends in found.items():
        end = sorted(ends, key=lambda end: end["positives_per_s"])[len(ends) // 2]
        phases = " | ".join(f"{ms:.2f}" for ms in end["phase_ms"].values())
        peak = end["peak_rss_bytes"] / 2**30
        print(f"| {name} | {end['positives_per_s']:,.0f} | {phases} | {peak:.1f} |")
        result[name] = end["positives_per_s"]
    return result


class Loop:
    """Steps of one catalogue, as `xclass train` makes them."""

    def __init__(self, dataset: Path, dtype: str) -> None:
        from xclass.data.batches import TrainBatches
        from xclass.data.dataset import open_dataset
        from xclass.runs.train import resolve_config
        from xclass.training.build import build_model

        opened = open_dataset(dataset)
        config = resolve_config(SCALE, [f'tables.dtype="{dtype}"', *BY_PAIR])
        self.model = build_model(config, opened, None)
        self.batches = TrainBatches(opened.split("train"), config.train.batch, 0, self.model.tower.uses_history)
        self.rows = self.step = self.epoch = 0

    def check(self) -> None:
        """Rows that are pulled are the stored ones."""
        import torch

        prepared = self.model.prepare(next(self.batches.epoch(0)), torch.Generator().manual_seed(0))
        rows = self.model.pull(prepared.row_plans, requires_grad=False)
        for name, plan in prepared.row_plans.items():
            stored = self.model.tables[name].weight[plan.unique]
            assert torch.equal(rows[name].values, stored.float()), name

    def steps(self, number: int) -> list[float]:
        """Milliseconds of each."""
        import torch

        from xclass.runtime.threads import short_operations
        from xclass.training.prefetch import Ahead

        def prepare(batch: Any, step: int) -> Any:
            return self.model.prepare(batch, torch.Generator().manual_seed(step))

        spent = []
        with short_operations(), Ahead(self.batches.epoch(0, self.step), prepare, self.step) as ahead:
            ahead.ask()
            for _ in range(number):
                started = time.perf_counter()
                ready = ahead.take()
                assert ready is not None
                ahead.ask()
                plans = ready.prepared.row_plans
                rows = self.model.pull(plans, requires_grad=True)
                self.model.loss(ready.prepared, rows).mean().backward()
                self.model.push(plans, rows, 0.1)
                spent.append((time.perf_counter() - started) * 1e3)
                self.rows = sum(len(plan.unique) for plan in plans.values())
        self.step += number
        return spent


def catalogue(work: Path, rounds: int, items: list[int], dtype: str) -> dict[str, Any]:
    from xclass.runtime.memory import keep_freed_memory

    keep_freed_memory()
    loops = {number: Loop(planted(work, number), dtype) for number in items}
    for loop in loops.values():
        loop.check()
        loop.steps(WARM)
    found: dict[int, list[float]] = {number: [] for number in items}
    for _ in range(rounds):
        for number, loop in loops.items():
            found[number].append(statistics.median(loop.steps(WARM + BLOCK)[WARM:]))
    first, result = statistics.median(found[items[0]]), {}
    print(f"{dtype}\n| items | rows touched | ms a step | to {items[0]:,} items |\n|--:|--:|--:|--:|")
    for number, blocks in found.items():
        middle = statistics.median(blocks)
        print(f"| {number:,} | {loops[number].rows:,} | {middle:.2f} | {middle / first:.2f} |")
        result[str(number)] = {"ms": round(middle, 3), "ratio": round(middle / first, 3)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", default="jobs", choices=["jobs", "catalogue"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 10_000_000, 100_000_000])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--work", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if chosen.part == "jobs":
            result = jobs(work, chosen.rounds)
        else:
            result = catalogue(work, chosen.rounds, chosen.items, chosen.dtype)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
