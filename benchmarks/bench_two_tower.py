"""Two towers alone on citeulike-tags: precision, training time, and the sampled softmax beside the full one.

    python benchmarks/bench_two_tower.py [--seeds 3] [--full]

One process per command, as a person would run them. Ingest once; then for each seed the configuration that ships
(its start alone, and trained), and with --full two full softmaxes that differ from it in nothing else: every label a
negative of the decoupled loss, and the plain cross-entropy. Precision is the test documents', through exact search.

Correct before fast: evaluate must measure all 5,195 test documents, and no sampled run may see more than a tenth of the
labels in a step.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from json import loads
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("XCLASS_DATA", ROOT.parent / "shared" / "data")) / "citeulike-tags"
CONFIG = ROOT / "configs" / "citeulike-tags-two-tower.toml"
METRICS = ("precision@1", "precision@3", "precision@5")
VARIANTS = {
    "start alone": ["train.epochs=0"],
    "sampled": [],
    "all labels, decoupled": ['sampler={kind="all"}'],
    "full softmax": ['sampler={kind="all"}', 'loss.kind="full-softmax"'],
}


def run(*arguments: object) -> dict[str, Any]:
    """The JSON that a command printed, and its wall seconds."""
    command = [sys.executable, "-m", "xclass", *map(str, arguments), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    found: dict[str, Any] = loads(done.stdout)
    return found | {"wall_s": time.perf_counter() - started}


def measure(dataset: Path, out: Path, changes: list[str], seed: int) -> dict[str, float]:
    """Seconds of training, all of the command, and the metrics."""
    settings = [f"--set={change}" for change in [*changes, f"train.seed={seed}"]]
    trained = run("train", dataset, "--config", CONFIG, *settings, "--out", out, "--device", "cpu")
    found = run("evaluate", out, "--exact", "-k", 1, "-k", 3, "-k", 5)
    assert found["num_queries"] == 5195, found["num_queries"]
    return {name: 100 * found["metrics"][name] for name in METRICS} | {"train": trained["wall_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there (set XCLASS_DATA)")
        return
    names = list(VARIANTS)[: 4 if options.full else 2]
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        labels = run("ingest", DATA, "--out", dataset)["num_items"]
        share = 4096 / labels
        assert share <= 0.1
        print(f"{labels:,} labels; a sampled step sees {share:.1%} of them as negatives")
        print(f"{'':<24}" + "".join(f"{name:>14}" for name in METRICS) + f"{'train, s':>10}")
        for name in names:
            rows = []
            for seed in range(options.seeds):
                out = Path(folder) / f"{name}-{seed}".replace(" ", "-").replace(",", "")
                rows.append(measure(dataset, out, VARIANTS[name], seed))
                print(f"{name + f', seed {seed}':<24}" + _cells(rows[-1]), flush=True)
            means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
            print(f"{name + ', mean':<24}" + _cells(means), flush=True)
    print(f"peak resident memory of the largest command: {_peak_gib():.2f} GiB")


def _cells(row: dict[str, float]) -> str:
    return "".join(f"{row[name]:>14.2f}" for name in METRICS) + f"{row['train']:>10.1f}"


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
