"""`xclass estimate` beside the training that it speaks of.

    python benchmarks/bench_estimate.py [--jobs tiny gowalla 10m] [--runs 3] [--work DIR]

For each job: a planted dataset is made (once), `xclass estimate --json` is run, then `xclass train` with the same
configuration, each in a process of its own. Compared are the memory that must fit (the peak of anonymous resident
memory, looked at fifty times a second), the peak resident memory with the pages of files (the kernel's own figure), the
size of the finished directory, positives/s, and the seconds from start to end. The training must be as long as the
estimate says and the estimate must have said that it fits, before anything is compared. Estimate and training take
turns; medians; ratios are estimated / measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LARGE = """
[model]
embedding_dim = 64
[model.query]
kind = "id"
[sampler]
num_sampled = 128
[train]
steps = 1200
learning_rate = 0.05
[train.batch]
size = 8192
[train.validation]
queries = 500
"""


class Job(NamedTuple):
    source: str
    config: str
    overrides: list[str]


JOBS = {
    "tiny": Job("planted:items=2000,queries=5000,pairs=150000", "configs/tiny/history.toml", []),
    "gowalla": Job("planted:items=40000,queries=30000,pairs=1000000", "configs/gowalla-mf.toml", ["train.epochs=2"]),
    "10m": Job("planted:items=10000000,queries=1000000,pairs=12000000", LARGE, []),
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "xclass", *map(str, arguments)]


def watched(arguments: list[str]) -> tuple[float, int]:
    """(seconds, peak of anonymous memory) of a process."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max(peak, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))
        except (OSError, StopIteration):
            pass
        time.sleep(0.02)
    assert process.returncode == 0, arguments
    return time.perf_counter() - started, peak


def measure(name: str, work: Path) -> dict[str, tuple[float, float]]:
    """Figure → (estimated, measured)."""
    job, dataset, run = JOBS[name], work / name, work / f"{name}-run"
    config = ROOT / job.config if job.config.endswith(".toml") else work / f"{name}.toml"
    if not job.config.endswith(".toml"):
        config.write_text(job.config)
    if not (dataset / "dataset.json").exists():
        subprocess.run(command("ingest", job.source, "--out", dataset), check=True, cwd=ROOT, capture_output=True)
    overrides = [word for override in job.overrides for word in ("--set", override)]
    shared = [dataset, "--config", config, "--device", "cpu", *overrides, "--out", run]
    shutil.rmtree(run, ignore_errors=True)
    started = time.perf_counter()
    answer = subprocess.run(command("estimate", *shared, "--json"), check=True, cwd=ROOT, capture_output=True)
    took_s = time.perf_counter() - started
    said: dict[str, Any] = json.loads(answer.stdout)
    assert said["verdict"]["answer"] == "fits", said["verdict"]
    seconds, anonymous = watched(command("train", *shared))
    *_, end = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert (end["step"], end["positives"]) == (said["job"]["steps"], said["job"]["positives"]), (end, said["job"])
    written = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    shutil.rmtree(run)
    memory = said["memory"]
    return {
        "memory that must fit, MiB": (memory["needed_bytes"] / 2**20, anonymous / 2**20),
        "with files, MiB": ((memory["needed_bytes"] + memory["cache_bytes"]) / 2**20, end["peak_rss_bytes"] / 2**20),
        "disk at most, MiB": (said["disk"]["needed_bytes"] / 2**20, written / 2**20),
        "positives/s": (said["time"]["positives_per_s"], end["positives_per_s"]),
        "training, s": (said["time"]["train_s"], end["train_s"]),
        "start to end, s": (said["time"]["total_s"], seconds),
        "the estimate itself, s": (said["calibration"]["calibration_s"], took_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", choices=list(JOBS), default=["tiny", "gowalla"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="datasets are kept here")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in arguments.jobs:
            print(f"\n{name}: {JOBS[name].source}")
            runs = [measure(name, work) for _ in range(arguments.runs)]
            for figure in runs[0]:
                estimated, measured = (statistics.median(run[figure][side] for run in runs) for side in (0, 1))
                ratio = "" if figure.startswith("the estimate") else f"{estimated / measured:8.2f}"
                print(f"  {figure:28} estimated {estimated:12,.1f}   measured {measured:12,.1f}   {ratio}")


if __name__ == "__main__":
    main()
