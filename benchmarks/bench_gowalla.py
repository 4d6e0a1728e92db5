"""Gowalla from raw files to printed metrics, one process per command, as a person would run them.

    python benchmarks/bench_gowalla.py [configs/gowalla-spectral.toml …] [--index]

Prints, for each configuration, the wall seconds of ingest, train, index and evaluate, and the metrics; last the peak
resident memory of the largest command. With --index an HNSW index is tuned to index recall .99 at 20 and measured
beside exact search.
Correct before fast: every command must exit with 0, and evaluate must measure all 29,858 queries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("XCLASS_DATA", ROOT.parent / "shared" / "data")) / "gowalla"
DEFAULT = [ROOT / "configs" / f"gowalla-{name}.toml" for name in ("spectral", "spectral-1024", "mf")]


def run(*arguments: object) -> tuple[float, dict]:
    """Wall seconds and the JSON that the command printed."""
    command = [sys.executable, "-m", "xclass", *map(str, arguments), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return time.perf_counter() - started, json.loads(done.stdout)


def measure(config: Path, folder: Path, index: bool) -> dict[str, object]:
    seconds = {}
    dataset, out = folder / f"{config.stem}-dataset", folder / config.stem
    seconds["ingest"] = run("ingest", DATA, "--out", dataset)[0]
    seconds["train"] = run("train", dataset, "--config", config, "--out", out, "--device", "cpu")[0]
    if index:
        seconds["index"] = run("index", out, "--kind", "hnsw", "-k", 20, "--target-recall", 0.99)[0]
    seconds["evaluate"], found = run("evaluate", out, "-k", 20)
    assert found["num_queries"] == 29_858, found["num_queries"]
    shown = {name: found["metrics"][name] for name in ("recall@20", "ndcg@20")}
    indexed = {name: found[name] for name in ("index_recall@20",) if name in found}
    through = {f"{name} (index)": found["metrics_index"][name] for name in shown} if index else {}
    total = {"total_s": sum(seconds.values())}
    return {"config": config.name, **shown, **through, **indexed, **{f"{k}_s": v for k, v in seconds.items()}, **total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, default=DEFAULT)
    parser.add_argument("--index", action="store_true")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there (set XCLASS_DATA)")
        return
    with tempfile.TemporaryDirectory() as folder:
        for config in options.configs:
            for name, value in measure(config.resolve(), Path(folder), options.index).items():
                print(f"{name:<18} {value if isinstance(value, str) else round(value, 4)}")
            print(flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak resident memory of the largest command: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
